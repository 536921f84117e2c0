#!/usr/bin/env bash
# A7: the gateway's CPU per request beside nginx, interleaved; appends to docs/benchmarks/gateway.jsonl.
set -euo pipefail
cd "$(dirname "$0")/../../.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
command -v nginx >/dev/null || { echo 'error: nginx is missing: apt-get install nginx-light' >&2; exit 1; }
cargo build --release -p modelhub --bin modelhub
bench=$(cargo build --release -p modelhub --bench gateway --message-format=json |
  python3 -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == "gateway"][-1])')
python3 e2e/peers/nginx/bench.py --modelhub "$CARGO_TARGET_DIR/release/modelhub" --bench "$bench" --record docs/benchmarks/gateway.jsonl
