#!/usr/bin/env bash
# B1 to B10: three members of TinyKV beside three of etcd 3.7.3, in turns, fsync on, by etcd's own load generator where it has
# the workload. Give ids to run only those: e2e/peers/bench/tinykv.sh B1,B4
set -euo pipefail
cd "$(dirname "$0")/../../.."
source e2e/peers/servers.sh
cargo build --release -p tinykv --bin tinykv
etcd=$(built_etcd)
tool=$(dirname "$etcd")/benchmark
(cd e2e/peers/etcd/bench/tool && go build -o "$tool" go.etcd.io/etcd/v3/tools/benchmark)
machine="$(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg) at the start"
(cd e2e/peers/etcd && go build -o "$work/three" ./bench/three)
"$work/three" -tinykv "$bin/tinykv" -etcd "$etcd" -benchmark "$tool" -dir "$work" -only "${1:-}" \
  -commit "$(git rev-parse --short HEAD)" -machine "${BENCH_MACHINE:-$machine}" | tee -a docs/benchmarks/kv.jsonl
