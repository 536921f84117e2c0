#!/usr/bin/env bash
# L1 to L6: aistack-operator with a thousand objects of all kinds on a control plane with hollow nodes, and KubeRay's operator with a
# thousand RayClusters on the same; half an hour. Needs root, for a network of its own.
#   OBJECTS=200 ONLY=L1,L2 e2e/peers/bench/operator.sh
set -euo pipefail
cd "$(dirname "$0")/../../.."
source e2e/peers/servers.sh
cargo build --release -p aistack-operator -p e2e --bins
kuberay=$HOME/.cache/aistack/peers/kuberay-1.4.2
mkdir -p "$(dirname "$kuberay")"
(cd e2e/peers/kuberay && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$kuberay" github.com/ray-project/kuberay/ray-operator)
kinds=$(cd e2e/peers/kuberay && go list -m -f '{{.Dir}}' github.com/ray-project/kuberay/ray-operator)/config/crd/bases
machine="$(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg) at the start"

# Pods' addresses are local in a network of its own, and ports that others use are free there.
measure() {
  unshare --net bash -c 'ip link set lo up && ip route add local 10.200.0.0/14 dev lo && exec "$0" "$@"' "$bin/bench_operator" \
    --operator "$bin/aistack-operator" --objects "${OBJECTS:-1000}" --rest-seconds "${REST_SECONDS:-600}" --only "${ONLY:-}" \
    --commit "$(git rev-parse --short HEAD)" --machine "${BENCH_MACHINE:-$machine}" --date "$(date -u +%F)" "$@" \
    | tee -a docs/benchmarks/operator.jsonl
}
measure
measure --peer "$kuberay" --peer-kinds "$kinds" --peer-workers "${PEER_WORKERS:-1}"
