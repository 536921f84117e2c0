#!/usr/bin/env bash
# L1 to L6: aistack-operator with a thousand objects of all kinds on a control plane with hollow nodes, and KubeRay's operator with a
# thousand RayClusters on the same; L7: from helm install to the first cited answer on a real node. Half an hour. Needs root, for a
# network of its own.
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
# Images and models are on the node; the plane is made anew for each run.
to_answer() {
  local lacks work took store
  lacks=$(hack/plane/plane.sh lacks)
  if [ -n "$lacks" ]; then echo "L7 not measured, no node on this machine: $lacks" >&2; return; fi
  work=$(mktemp -d)
  for store in etcd tinykv; do
    for _ in 1 2 3; do
      STORE=$store DIR=$work/plane TOOK=$work/took hack/quickstart-k8s.sh >&2
      hack/plane/plane.sh down "$work/plane" >&2
      cat "$work/took" >>"$work/$store"
    done
    took=$(sort -n "$work/$store" | sed -n 2p)
    printf '{"id": "L7", "what": "helm install to the first cited answer, Kubernetes on %s, median of 3", "ours": %s, "unit": "s", "machine": "%s", "commit": "%s", "date": "%s", "runs": 3}\n' \
      "$store" "$took" "${BENCH_MACHINE:-$machine}" "$(git rev-parse --short HEAD)" "$(date -u +%F)" | tee -a docs/benchmarks/operator.jsonl
  done
  rm -rf "$work"
}

case ",${ONLY:-L7}," in *,L7,*) to_answer ;; esac
[ "${ONLY:-}" != L7 ] || exit 0
measure
measure --peer "$kuberay" --peer-kinds "$kinds" --peer-workers "${PEER_WORKERS:-1}"
