#!/usr/bin/env bash
# From nothing to a cited answer on a real Kubernetes: our images, a control plane and a node on this machine (hack/plane), both charts,
# the quickstart's stack, the handbook. It needs root and a Go toolchain, and no Docker. `make plane-down` takes all of it away.
#   STORE=tinykv make quickstart-k8s      Kubernetes itself on three TinyKVs in place of etcd
#   QUESTION='…' make quickstart-k8s      another question
# DIR: of the plane (default: a folder in the cache). TOOK: a file that gets the seconds from helm install to the answer.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
dir=${DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/aistack/plane}
question=${QUESTION:-How many days in advance must leave be requested?}
log=$(mktemp)
trap 'rm -f "$log" "$log.tries"' EXIT

# since MICROSECONDS: in seconds, with a tenth.
since() {
  local tenths=$(((${EPOCHREALTIME/./} - $1) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}
# step NAME WHAT COMMAND…: a line with its time; when it fails, what it said.
step() {
  local name=$1 what=$2 began
  shift 2
  began=${EPOCHREALTIME/./}
  printf '  %-8s%-64s' "$name" "$what"
  "$@" >"$log" 2>&1 || { echo failed; tail -n 40 "$log" >&2; exit 1; }
  printf '%6s s\n' "$(since "$began")"
}

images() {
  "$bin/xtask" models
  rm -rf "$bin/images"
  "$bin/xtask" images --out "$bin/images" --model smollm2-135m-instruct --model all-minilm-l6-v2
}
plane() { PLANE_NODE=1 PLANE_STORE=${STORE:-etcd} hack/plane/plane.sh up "$dir"; }
helm_with() { HELM_CACHE_HOME=$dir/helm HELM_CONFIG_HOME=$dir/helm HELM_DATA_HOME=$dir/helm "$helm" "$@"; }
install() {
  kubectl create namespace team
  kubectl label namespace team pod-security.kubernetes.io/enforce=restricted
  helm_with install aistack-crds charts/aistack-crds
  helm_with install aistack charts/aistack --namespace aistack-system --create-namespace \
    --set 'networkPolicy.stacks.namespaces={team}' --wait --timeout 10m
}
apply() {
  kubectl apply -n team -f examples/quickstart/stack.yaml
  kubectl wait -n team --for=condition=Ready --timeout=10m stack/quickstart
}
# A hub looks at its engines now and then: that their pods are Ready may be news to it. Both may be done again: what is ingested
# already is not sent, and an ask that failed printed nothing.
patiently() {
  local until=$((SECONDS + 300))
  until "$@" 2>"$log.tries"; do
    [ $SECONDS -lt $until ] || { cat "$log.tries" >&2; return 1; }
    sleep 0.5
  done
}

cargo build --release --workspace --bins --quiet
helm=$(hack/helm.sh 4)
step images 'all programs, two models' images
step plane "Kubernetes 1.37 on ${STORE:-etcd}, a node" plane
pointed=$(hack/plane/plane.sh up "$dir" 2>/dev/null)
eval "$pointed"
step load 'the images, on the node' hack/plane/plane.sh load "$dir" "$bin"/images/*.tar
began=${EPOCHREALTIME/./}
step helm 'install aistack-crds aistack' install
step kubectl 'apply -f examples/quickstart/stack.yaml, until it is Ready' apply
# The plane leads this machine to the cluster's Services; elsewhere: kubectl port-forward -n team service/modelhub 8080
AISTACK_MODELHUB_URL=http://$(kubectl get -n team service modelhub -o jsonpath='{.spec.clusterIP}'):8080
export AISTACK_MODELHUB_URL
step ingest examples/quickstart/handbook patiently "$bin/modelhub" rag ingest handbook examples/quickstart/handbook
printf '  ask     %s\n' "$question"
patiently "$bin/aistack" ask --rag handbook "$question"
took=$(since "$began")
[ -z "${TOOK:-}" ] || echo "$took" >"$TOOK"
printf '\n  from helm install to the answer: %s s\n' "$took"
cat <<END

  next    eval "\$(make --silent plane)"      # kubectl for this cluster
          export AISTACK_MODELHUB_URL=$AISTACK_MODELHUB_URL
          kubectl get stack,kv,isvc,vc -A
          make plane-down
END
