#!/usr/bin/env bash
# Installs the platform into the cluster that kubectl points at, as hack/kind and hack/minikube do: both charts, the namespace of
# the stack with Pod Security's strictest level, and the stack.
#   hack/install.sh [STACK]        STACK: a manifest (default: examples/quickstart/stack.yaml)
# NAMESPACE: of the stack (default: aistack).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
stack=${1:-$root/examples/quickstart/stack.yaml}
namespace=${NAMESPACE:-aistack}
for program in kubectl helm; do
  command -v "$program" >/dev/null || { echo "error: $program is not installed" >&2; exit 1; }
done
helm upgrade --install aistack-crds "$root/charts/aistack-crds"
kubectl wait --for=condition=Established --timeout=60s crd -l app.kubernetes.io/name=aistack-crds
kubectl create namespace "$namespace" --dry-run=client -o yaml | kubectl apply -f -
kubectl label namespace "$namespace" --overwrite pod-security.kubernetes.io/enforce=restricted
# Where the API server listens, which the operator's NetworkPolicy has to let through.
port=$(kubectl get endpointslice kubernetes --namespace default -o 'jsonpath={.ports[0].port}')
helm upgrade --install aistack "$root/charts/aistack" --namespace aistack-system --create-namespace \
  --set "networkPolicy.stacks.namespaces={$namespace}" --set "networkPolicy.apiServer.ports={$port}" --wait --timeout 5m
kubectl apply --server-side --namespace "$namespace" -f "$stack"
kubectl wait --namespace "$namespace" --for=condition=Ready --timeout=15m -f "$stack"
kubectl get --namespace "$namespace" stack,kv,isvc,vc
