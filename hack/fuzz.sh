#!/usr/bin/env bash
# Fuzzes with libFuzzer under AddressSanitizer what reads bytes that come from elsewhere, FUZZ_SECONDS (300) each: model files, the records
# of TinyKV's log, its commands, snapshot files, bodies of the JSON gateway. What reaches new code is kept in the corpus, which `make test`
# replays with mutations on the stable toolchain.
#   fuzz.sh [CRATE:TARGET …]
set -euo pipefail
cd "$(dirname "$0")/../components"
: "${FUZZ_SECONDS:=300}"
cargo +nightly fuzz --version >/dev/null 2>&1 || {
  echo 'error: a nightly toolchain and cargo-fuzz are needed: rustup toolchain install nightly && cargo install cargo-fuzz' >&2
  exit 1
}
[ $# -gt 0 ] || set -- tinyinfer:gguf tinyinfer:safetensors replication:log tinykv:command tinykv:bbolt tinykv:gateway
for each in "$@"; do
  target=${each#*:} found=$(mktemp -d)
  # A page of a bbolt file has 4 KiB.
  longest=16384 kept=4096
  [ "$target" != bbolt ] || longest=65536 kept=65536
  (
    cd "${each%:*}"
    cargo +nightly fuzz run "$target" "$found" "fuzz/corpus/$target" -- -max_total_time="$FUZZ_SECONDS" -max_len=$longest
    cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "$found" -- -merge=1 -set_cover_merge=1 -max_len=$kept
  )
  rm -rf "$found"
done
