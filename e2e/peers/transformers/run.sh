#!/usr/bin/env bash
# Every logit of 2,304 positions beside Hugging Face transformers on the same weights; the golden files of `make test` sample them.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. e2e/peers/servers.sh
models=${AISTACK_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/aistack/models}
cargo build --release --workspace --example dump_logits
"$(venv transformers)" e2e/peers/transformers/compare.py "$models/smollm2-135m-instruct" components/tinyinfer/tests/golden/corpus.txt \
  "$bin/examples/dump_logits"
