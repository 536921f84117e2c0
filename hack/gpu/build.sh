#!/usr/bin/env bash
# Builds what a machine with a GPU needs into $GPU_FOLDER (default .gpu, not tracked): the library under the Python package, the Rust tests, an example.
set -eu
cd "$(dirname "$0")/../.."
to=${GPU_FOLDER:-.gpu}
mkdir -p "$to"/tests
hack/gpu/nvcc.sh
cargo build --release -p tinykernels --features cuda --example tinykernels_native --example decode_step --example autotune
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
install -s "$target/release/examples/libtinykernels_native.so" "$to"/
rm -f "$to"/tests/* && mkdir -p "$to"/examples
install -s "$target/release/examples/decode_step" "$target/release/examples/autotune" "$to"/examples/
# A layer of a real model for that example, where $LAYER_OF names its GGUF file and $LAYER_PYTHON a Python that has torch and transformers.
[ -z "${LAYER_OF:-}" ] || "${LAYER_PYTHON:-python3}" kernels/examples/decode_step/export.py "$LAYER_OF" "$to"/layer.safetensors
cargo test --release -p tinykernels --features cuda --test gpu --no-run --message-format json 2>/dev/null |
  python3 -c 'import json,sys
for l in sys.stdin:
    m=json.loads(l)
    if m.get("executable") and m["target"]["name"]=="gpu": print(m["executable"])' | while read -r f; do install -s "$f" "$to"/tests/gpu; done
git rev-parse --short HEAD >"$to"/commit
ls -l "$to" "$to"/tests
