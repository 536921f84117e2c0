#!/usr/bin/env bash
# A8 and A9: where an ask's time goes, and how often retrieval finds the passage. Starts our own stores and engines from the
# built binaries, ingests the quickstart's handbook, and appends to docs/benchmarks/rag.jsonl.
set -euo pipefail
cd "$(dirname "$0")/../../.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
exec python3 e2e/peers/modelhub/ask.py --bin "$CARGO_TARGET_DIR/release" --record docs/benchmarks/rag.jsonl "$@"
