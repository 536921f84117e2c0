#!/usr/bin/env bash
# Installs the CUDA 13.0 compiler from PyPI wheels where kernels/build.rs looks for it. No GPU, no root; about 300 MB.
set -eu
venv=${HOME}/.cache/aistack/venv-nvcc
[ -d "$venv" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
"$venv"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc --version | tail -2
