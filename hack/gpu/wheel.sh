#!/usr/bin/env bash
# Builds the wheel `tinykernels` into $1 (default target's wheels/), installs it into a clean environment and tries it there. No GPU needed.
#
# $TINYKERNELS_TORCH_PYTHON names a Python that has torch: then the operators are tried as well, on a machine without a GPU to the point where
# they ask for one.
set -eu
cd "$(dirname "$0")/../.."
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
to=${1:-$target/wheels}
hack/gpu/nvcc.sh
cargo build --release -p tinykernels --features cuda --example tinykernels_native
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$to"
cp -r kernels/python/pyproject.toml kernels/python/tinykernels "$work"/
find "$work" -name __pycache__ -prune -exec rm -rf {} +
install -s "$target/release/examples/libtinykernels_native.so" "$work"/tinykernels/
python3 -m venv "$work"/tools
"$work"/tools/bin/pip install -q 'setuptools>=77' wheel
# The library is this machine's: the wheel is of its platform, and of every Python 3.
platform=$(python3 -c 'import sysconfig; print(sysconfig.get_platform().replace("-", "_").replace(".", "_"))')
(cd "$work" && tools/bin/python - "$platform" <<'PYTHON'
import sys
from setuptools import build_meta
built = build_meta.build_wheel("dist")
print(built)
PYTHON
) | tail -1
"$work"/tools/bin/python -m wheel tags --remove --platform-tag "$platform" "$work"/dist/*.whl >/dev/null
cp "$work"/dist/*.whl "$to"/
wheel=$(ls "$to"/tinykernels-*"$platform".whl)
python3 -m venv "$work"/clean
"$work"/clean/bin/pip install -q --no-index "$wheel"
"$work"/clean/bin/python - "$wheel" <<'PYTHON'
import sys, zipfile
strange = [n for n in zipfile.ZipFile(sys.argv[1]).namelist() if not n.startswith(("tinykernels/", "tinykernels-"))]
assert not strange, strange
PYTHON
cd "$work"
clean/bin/python -I - <<'PYTHON'
import tinykernels
assert tinykernels.__file__.startswith(__import__("sys").prefix), tinykernels.__file__
try:
    tinykernels.open_device(4096)
except tinykernels.TinyKernelsError as error:
    print("installed and loaded; a GPU that is not there:", error)
else:
    raise SystemExit("GPU 4096 was opened")
try:
    tinykernels.rms_norm
except ImportError as error:
    print("without torch:", error)
else:
    print("torch is there too")
PYTHON
if [ -n "${TINYKERNELS_TORCH_PYTHON:-}" ]; then
  site=$(clean/bin/python -c 'import tinykernels, pathlib; print(pathlib.Path(tinykernels.__file__).parent.parent)')
  PYTHONPATH=$site "$TINYKERNELS_TORCH_PYTHON" - <<'PYTHON'
import torch, tinykernels as tk
try:
    tk.rms_norm(torch.ones(2, 64, dtype=torch.bfloat16), torch.ones(64, dtype=torch.bfloat16), 1e-5)
except tk.TinyKernelsError as error:
    print(f"torch {torch.__version__}:", error)
else:
    raise SystemExit("a tensor on the CPU was accepted")
PYTHON
fi
ls -l "$wheel"
