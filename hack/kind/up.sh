#!/usr/bin/env bash
# A cluster in Docker with the platform on it.
#   hack/kind/up.sh [--gpu] [STACK]
#   hack/kind/up.sh down
# IMAGES: archives (docker save or OCI) to load into the nodes, in place of pulling.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
config=$here/cluster.yaml
case ${1:-} in
  down) exec kind delete cluster --name aistack ;;
  --gpu) config=$here/cluster-gpu.yaml; shift ;;
  -*) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
for program in docker kind kubectl helm; do
  command -v "$program" >/dev/null || { echo "error: $program is not installed; hack/kind/README.md says what is needed" >&2; exit 1; }
done
if [ "$config" = "$here/cluster-gpu.yaml" ]; then
  "$here/../gpu-ready.sh" docker
fi
kind get clusters 2>/dev/null | grep -qx aistack || kind create cluster --config "$config" --wait 3m
# One that was there before may not be the one that kubectl points at.
kubectl config use-context kind-aistack
for archive in ${IMAGES:-}; do kind load image-archive "$archive" --name aistack; done
if [ "$config" = "$here/cluster-gpu.yaml" ]; then
  "$here/../gpu-plugin.sh" kind
fi
"$here/../install.sh" "$@"
# The hub at the host's port 8080, which the cluster's first node passes on.
kubectl apply --server-side --namespace "${NAMESPACE:-aistack}" -f "$here/entry.yaml"
echo "the model hub answers at http://127.0.0.1:8080"
