#!/usr/bin/env bash
# Kill -9 under write load, each with a ledger of what was acknowledged: 1,000 rounds against three TinyKV members of which one, two or all
# die (ROUNDS), 200 against one and against VectorForge (NODE_ROUNDS), and 50 changes of members with one each (MEMBER_ROUNDS).
#   RECORD=1   notes the outcome of the first in e2e/peers/etcd/results, on a clean checkout
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR TINYKV_CLUSTER_ROUNDS=${ROUNDS:-1000} TINYKV_MEMBER_ROUNDS=${MEMBER_ROUNDS:-50}
export TINYKV_KILL_ROUNDS=${NODE_ROUNDS:-200} VF_CRASH_ROUNDS=${NODE_ROUNDS:-200}
cargo build --release --workspace --bins
etcd=$HOME/.cache/aistack/etcd/etcd
export PEER_ETCD=$etcd PEER_TINYKV=$CARGO_TARGET_DIR/release/tinykv
report=$(mktemp)
trap 'rm -f "$report"' EXIT
cd e2e/peers/etcd
go build -o "$etcd" ./cmd/etcd
go test -count=1 -timeout 120m -json -run WhoeverIsKilledWhenever ./cluster >"$report" || { jq -rj 'select(.Output).Output' "$report" >&2; exit 1; }
jq -rj 'select(.Output).Output' "$report"
[ -z "${RECORD:-}" ] || { python3 record.py crash-three "$report" && python3 page.py; }
go test -count=1 -timeout 60m -skip WhoeverIsKilledWhenever ./crash ./cluster
cd -
cargo test --release --workspace --test engine_faults
