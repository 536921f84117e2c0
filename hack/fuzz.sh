#!/usr/bin/env bash
# Fuzzes the parsers of model files with libFuzzer under AddressSanitizer, FUZZ_SECONDS (300) each. What reaches new code is kept in the
# corpus, which `make test` replays with mutations on the stable toolchain.
set -euo pipefail
cd "$(dirname "$0")/../components/tinyinfer"
: "${FUZZ_SECONDS:=300}"
cargo +nightly fuzz --version >/dev/null 2>&1 || {
  echo 'error: a nightly toolchain and cargo-fuzz are needed: rustup toolchain install nightly && cargo install cargo-fuzz' >&2
  exit 1
}
for target in gguf safetensors; do
  found=$(mktemp -d)
  cargo +nightly fuzz run "$target" "$found" "fuzz/corpus/$target" -- -max_total_time="$FUZZ_SECONDS" -max_len=16384
  cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "$found" -- -merge=1 -set_cover_merge=1 -max_len=4096
  rm -rf "$found"
done
