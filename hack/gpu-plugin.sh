#!/usr/bin/env bash
# Gives the nodes of the cluster that kubectl points at the resource nvidia.com/gpu: the toolkit inside each GPU node of a kind
# cluster, then NVIDIA's device plugin with GPU feature discovery, whose labels InferenceServices select nodes by.
#   hack/gpu-plugin.sh [kind]
set -euo pipefail
version=${DEVICE_PLUGIN_VERSION:-0.17.4}
# A node of kind is a container of its own, whose containerd knows nothing of the GPUs that it got.
if [ "${1:-}" = kind ]; then
  for node in $(kubectl get nodes -l nvidia.com/gpu.present=true -o jsonpath='{.items[*].metadata.name}'); do
    docker exec "$node" bash -ec '
      command -v nvidia-ctk >/dev/null || {
        apt-get update -qq && apt-get install -qqy curl gpg >/dev/null
        curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey | gpg --dearmor -o /usr/share/keyrings/nvidia.gpg
        echo "deb [signed-by=/usr/share/keyrings/nvidia.gpg] https://nvidia.github.io/libnvidia-container/stable/deb/\$(ARCH) /" \
          > /etc/apt/sources.list.d/nvidia.list
        apt-get update -qq && apt-get install -qqy nvidia-container-toolkit >/dev/null
      }
      nvidia-ctk runtime configure --runtime=containerd --set-as-default
      systemctl restart containerd'
  done
fi
helm upgrade --install nvidia-device-plugin nvidia-device-plugin --repo https://nvidia.github.io/k8s-device-plugin \
  --version "$version" --namespace nvidia-device-plugin --create-namespace --set gfd.enabled=true --wait --timeout 5m
until [ -n "$(kubectl get nodes -o jsonpath='{.items[*].status.allocatable.nvidia\.com/gpu}')" ]; do
  echo "no node offers nvidia.com/gpu yet; the plugin: kubectl logs -n nvidia-device-plugin ds/nvidia-device-plugin"
  sleep 5
done
kubectl get nodes -o custom-columns='NODE:.metadata.name,GPUS:.status.allocatable.nvidia\.com/gpu,PRODUCT:.metadata.labels.nvidia\.com/gpu\.product'
