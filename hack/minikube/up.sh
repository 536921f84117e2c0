#!/usr/bin/env bash
# A cluster by minikube with the platform on it. Calico, since minikube's own network ignores NetworkPolicies.
#   hack/minikube/up.sh [--gpu] [STACK]
#   hack/minikube/up.sh down
# IMAGES: archives to load, in place of pulling. MINIKUBE_CPUS, MINIKUBE_MEMORY.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
gpu=()
case ${1:-} in
  down) exec minikube delete --profile aistack ;;
  --gpu) gpu=(--container-runtime docker --gpus all); shift ;;
  -*) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
for program in minikube kubectl helm; do
  command -v "$program" >/dev/null || { echo "error: $program is not installed; hack/minikube/README.md says what is needed" >&2; exit 1; }
done
if [ ${#gpu[@]} -gt 0 ]; then "$here/../gpu-ready.sh" minikube; fi
minikube start --profile aistack --driver docker --cni calico --apiserver-port 6443 --cpus "${MINIKUBE_CPUS:-4}" --memory "${MINIKUBE_MEMORY:-8g}" "${gpu[@]}"
kubectl config use-context aistack
for archive in ${IMAGES:-}; do minikube image load --profile aistack "$archive"; done
# minikube's own addon offers nvidia.com/gpu without the labels of GPU feature discovery, so ours takes its place.
if [ ${#gpu[@]} -gt 0 ]; then
  minikube addons disable nvidia-device-plugin --profile aistack
  "$here/../gpu-plugin.sh"
fi
"$here/../install.sh" "$@"
echo "the model hub: kubectl port-forward -n aistack service/modelhub 8080"
