#!/usr/bin/env bash
# Installs the CUDA 13.0 compiler from PyPI wheels where kernels/build.rs looks for it, unless it finds one. No GPU, no root; about 300 MB.
set -eu
[ -z "${TINYKERNELS_NVCC:-}" ] || exit 0
venv=${HOME}/.cache/aistack/venv-nvcc
if ! ls "$venv"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc >/dev/null 2>&1 && ! command -v nvcc >/dev/null; then
  [ -d "$venv" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install -q 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
fi
