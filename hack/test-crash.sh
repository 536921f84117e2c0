#!/usr/bin/env bash
# 200 kill -9 rounds against TinyKV and VectorForge under write load, and 50 changes of members with one; each with a ledger of what was acknowledged.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR TINYKV_KILL_ROUNDS=${ROUNDS:-200} TINYKV_MEMBER_ROUNDS=${MEMBER_ROUNDS:-50} VF_CRASH_ROUNDS=${ROUNDS:-200}
cargo build --release --workspace --bins
etcd=$HOME/.cache/aistack/etcd/etcd
(cd e2e/peers/etcd && go build -o "$etcd" ./cmd/etcd &&
  PEER_ETCD=$etcd PEER_TINYKV=$CARGO_TARGET_DIR/release/tinykv go test -count=1 -timeout 60m ./crash ./cluster)
cargo test --release --workspace --test engine_faults
