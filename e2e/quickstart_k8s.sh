#!/usr/bin/env bash
# From `helm install` to a cited answer on a real node, and nothing is left behind. Where there can be no node it says why, and is skipped.
#   e2e/quickstart_k8s.sh          to the answer, `helm test`, an ask from a pod by name (a step of `make test`)
#   e2e/quickstart_k8s.sh walk     and then what happens to a platform there (walks/models.py, walks/node.py, walks/tenants.py); it fails where there can be no node
# STORE=tinykv: Kubernetes itself on three TinyKVs. It needs root, Go, and the built programs.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
walk=${1:-}
lacks=$(hack/plane/plane.sh lacks)
if [ -n "$lacks" ]; then
  echo "quickstart-k8s: NOT RUN, no node on this machine: $lacks"
  [ -z "$walk" ] || exit 1
  exit 0
fi
work=$(mktemp -d)
export DIR=$work/plane
trap 'hack/plane/plane.sh down "$DIR"; rm -rf "$work"' EXIT
# What a plane makes outside of its folder, by name: cables, ways, mounts, groups; and who still works in the folder.
traces() {
  ip -o link | awk '{print "link", $2}'
  ip route
  findmnt -rno TARGET
  find /sys/fs/cgroup -maxdepth 2 -type d
  pgrep -f "$DIR" | sed 's/^/process /' || true
}
# What a plane left that was killed with its machine's session is not this one's, and goes with it.
before=$(traces | grep -v aistack-plane)

hack/quickstart-k8s.sh | tee "$work/said"
grep -qF 'people/leave.md' "$work/said" || { echo 'the answer cites people/leave.md' >&2; exit 1; }
pointed=$(PLANE_NODE=1 hack/plane/plane.sh up "$DIR" 2>/dev/null)
eval "$pointed"
export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm
helm=$(hack/helm.sh 4)

echo '-- helm test'
"$helm" test aistack --namespace aistack-system --timeout 10m

echo '-- a pod of the namespace asks by name'
kubectl apply -n team -f e2e/walks/ask.yaml
kubectl wait -n team --for=condition=Complete --timeout=10m job/ask || { kubectl describe -n team job/ask pod; exit 1; }
kubectl logs -n team job/ask | grep -F 'people/leave.md'

if [ -n "$walk" ]; then
  kubectl delete -n team -f e2e/walks/ask.yaml
  echo '-- models: versions, canaries, sleep, weights'
  python3 e2e/walks/models.py "$bin" 10.251.0.1

  echo '-- kill -9, drain, upgrade, deletion'
  next=next
  "$bin/xtask" images --out "$work/next" --tag "$next" --model smollm2-135m-instruct --model all-minilm-l6-v2 >/dev/null
  hack/plane/plane.sh load "$DIR" "$work"/next/*.tar >/dev/null
  rm -r "$work/next"
  python3 e2e/walks/node.py "$DIR" "$(hack/plane/packages.sh)/usr/bin/ctr" "$next" "$helm"

  echo '-- uninstalled: the kinds and the stack stay'
  "$helm" uninstall aistack --namespace aistack-system --wait
  "$helm" uninstall aistack-crds --wait
  kubectl get -n team stack quickstart

  echo '-- two teams, three operators'
  kubectl delete namespace team --timeout=5m
  python3 e2e/walks/tenants.py "$helm"
fi

echo '-- down: nothing is left'
hack/plane/plane.sh down "$DIR"
diff <(echo "$before") <(traces)
[ ! -e "$DIR" ]
echo 'quickstart-k8s: ok'
