#!/usr/bin/env bash
# 200 kill -9 rounds against TinyKV and VectorForge under write load, each with a ledger of what was acknowledged.
set -euo pipefail
cd "$(dirname "$0")/.."
export TINYKV_KILL_ROUNDS=${ROUNDS:-200} VECTORFORGE_KILL_ROUNDS=${ROUNDS:-200}
cargo test --release -p tinykv --test kill
cargo test --release -p vectorforge --test kill
