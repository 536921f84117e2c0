#!/usr/bin/env bash
# From `helm install` to a cited answer on a real node, and then what happens to a platform there (k8s/walk.py); nothing is left behind.
# STORE=tinykv: Kubernetes itself on three TinyKVs. It needs root, Go, and the built programs.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
work=$(mktemp -d)
export DIR=$work/plane
trap 'hack/plane/plane.sh down "$DIR"; rm -rf "$work"' EXIT
before=$(ip -o link; ip route; findmnt -rno TARGET; find /sys/fs/cgroup -maxdepth 2 -type d)

hack/quickstart-k8s.sh
pointed=$(PLANE_NODE=1 hack/plane/plane.sh up "$DIR" 2>/dev/null)
eval "$pointed"
export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm
helm=$(hack/helm.sh 4)

echo '-- helm test'
"$helm" test aistack --namespace aistack-system

echo '-- a pod of the namespace asks by name'
kubectl apply -n team -f e2e/k8s/ask.yaml
kubectl wait -n team --for=condition=Complete --timeout=5m job/ask || { kubectl describe -n team job/ask pod; exit 1; }
kubectl logs -n team job/ask | grep -F 'people/leave.md'
kubectl delete -n team -f e2e/k8s/ask.yaml

echo '-- kill -9, drain, upgrade, deletion'
next=next
"$bin/xtask" images --out "$work/next" --tag "$next" --model smollm2-135m-instruct --model all-minilm-l6-v2 >/dev/null
hack/plane/plane.sh load "$DIR" "$work"/next/*.tar >/dev/null
rm -r "$work/next"
python3 e2e/k8s/walk.py "$DIR" "$(hack/plane/packages.sh)/usr/bin/ctr" "$next" "$helm"

echo '-- uninstalled: the kinds and the stack stay'
"$helm" uninstall aistack --namespace aistack-system --wait
"$helm" uninstall aistack-crds --wait
kubectl get -n team stack quickstart

echo '-- two teams, three operators'
kubectl delete namespace team --timeout=5m
python3 e2e/k8s/tenants.py "$helm"

echo '-- down: nothing is left'
hack/plane/plane.sh down "$DIR"
after=$(ip -o link; ip route; findmnt -rno TARGET; find /sys/fs/cgroup -maxdepth 2 -type d)
diff <(echo "$before") <(echo "$after")
[ ! -e "$DIR" ]
echo 'quickstart-k8s: ok'
