#!/usr/bin/env bash
# A store of three members under the quickstart's platform: each is killed in turn, and asks and writes go on. About half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
exec python3 e2e/faults/three_nodes.py "$CARGO_TARGET_DIR/release"
