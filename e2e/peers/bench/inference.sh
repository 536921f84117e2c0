#!/usr/bin/env bash
# A1, A2: TinyInfer beside llama.cpp on the same file. A3: the embedding model beside onnxruntime. One thread, CPU time.
# The first run builds llama.cpp natively and exports the embedding model to ONNX; both stay in the cache.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. e2e/peers/servers.sh
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack
models=${AISTACK_MODELS:-$cache/models}
commit=$(git rev-parse --short HEAD)
lines=docs/benchmarks/inference.jsonl
cargo build --release --workspace --example speed
export CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"
"$(venv llama_cpp)" e2e/peers/llama_cpp/bench.py "$models/smollm2-135m-instruct/model.gguf" "$bin/examples/speed" \
  --jsonl "$lines" --commit "$commit" "$@"
onnx=$cache/bench/all-minilm-l6-v2.onnx
mkdir -p "$cache/bench"
[ -f "$onnx" ] || "$(venv transformers)" e2e/peers/onnxruntime/export.py "$models/all-minilm-l6-v2" "$onnx"
"$(venv onnxruntime)" e2e/peers/onnxruntime/bench.py "$onnx" "$models/all-minilm-l6-v2" "$bin/examples/speed" \
  --jsonl "$lines" --commit "$commit" "$@"
