#!/usr/bin/env bash
# A6: puts against TinyKV and one etcd 3.7.3 node in turn, fsync on.
set -euo pipefail
cd "$(dirname "$0")/../../.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
cargo build --release --workspace --bins
etcd=$HOME/.cache/aistack/etcd/etcd
mkdir -p "$(dirname "$etcd")"
(cd e2e/peers/etcd && go build -o "$etcd" ./cmd/etcd &&
  go run ./bench -tinykv "$CARGO_TARGET_DIR/release/tinykv" -commit "$(git rev-parse --short HEAD)" \
    -machine "$(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores") >>docs/benchmarks/kv.jsonl
tail -n 6 docs/benchmarks/kv.jsonl
