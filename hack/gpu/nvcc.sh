#!/usr/bin/env bash
# Installs the CUDA compiler from PyPI wheels where kernels/build.rs looks for it, once a version. No GPU, no root; about 300 MB.
set -eu
[ -z "${TINYKERNELS_NVCC:-}" ] || exit 0
version=13.0.88
place=$HOME/.cache/aistack/nvcc-$version
[ ! -e "$place/whole" ] || exit 0
rm -rf "$place"
python3 -m venv "$place"
"$place/bin/pip" install --quiet --disable-pip-version-check "nvidia-cuda-nvcc==$version" "nvidia-cuda-crt==$version" "nvidia-nvvm==$version" \
  'nvidia-cuda-runtime==13.0.96' 'nvidia-cuda-cccl==13.0.85'
touch "$place/whole"
