#!/usr/bin/env bash
# Says what is missing before a cluster in containers can use this machine's NVIDIA GPUs, and what to do about it.
#   hack/gpu-ready.sh [docker]
set -euo pipefail
fail() { echo "error: $1" >&2; echo "  $2" >&2; exit 1; }
nvidia-smi -L 2>/dev/null | grep -q GPU || fail "no NVIDIA GPU answers here" "install the driver; nvidia-smi -L must list the GPU"
command -v nvidia-ctk >/dev/null || fail "the NVIDIA container toolkit is not installed" \
  "see https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
if [ "${1:-docker}" = docker ]; then
  [ "$(docker info --format '{{.DefaultRuntime}}')" = nvidia ] || fail "Docker's default runtime is not nvidia" \
    "sudo nvidia-ctk runtime configure --runtime=docker --set-as-default --cdi.enabled && sudo systemctl restart docker"
  toolkit=${NVIDIA_TOOLKIT_CONFIG:-/etc/nvidia-container-runtime/config.toml}
  grep -Eq '^[[:space:]]*accept-nvidia-visible-devices-as-volume-mounts[[:space:]]*=[[:space:]]*true' "$toolkit" || fail \
    "the toolkit does not take devices as volume mounts" \
    "sudo nvidia-ctk config --set accept-nvidia-visible-devices-as-volume-mounts=true --in-place"
fi
nvidia-smi -L
