#!/usr/bin/env bash
# ModelHub's own suite with other people's parts behind it: etcd (built from its Go module) for the metadata, and
# llama-cpp-python's OpenAI server for chat. Vectors and embeddings come from our own binaries, unless HUB_TEST_QDRANT and
# HUB_TEST_EMBED name others.
#   CHAT=ours          chat by TinyInfer too: no build of llama.cpp, which takes minutes
#   LLAMA_PYTHON=…     Python that has llama_cpp.server (default: a virtual environment made here)
#   CHAT_MODEL=…       GGUF file (default: the quickstart's)
set -euo pipefail
cd "$(dirname "$0")/../../.."
. e2e/peers/servers.sh
models=${AISTACK_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/aistack/models}
chat_model=${CHAT_MODEL:-$models/smollm2-135m-instruct/model.gguf}
[ -f "$chat_model" ] || { echo "error: $chat_model is missing: make models" >&2; exit 1; }
etcd=$(built_etcd)
client=$(hack/free-port) peer=$(hack/free-port)
start etcd "$etcd" --data-dir "$work/etcd" --log-level error --listen-client-urls "http://127.0.0.1:$client" \
  --advertise-client-urls "http://127.0.0.1:$client" --listen-peer-urls "http://127.0.0.1:$peer" \
  --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer"
wait_for "http://127.0.0.1:$client/health" etcd
export HUB_TEST_ETCD=http://127.0.0.1:$client HUB_TEST_ETCD_BIN=$etcd
with='etcd'
if [ "${CHAT:-}" != ours ]; then
  python=${LLAMA_PYTHON:-$(venv modelhub)}
  chat=$(hack/free-port)
  start llama "$python" -m llama_cpp.server --model "$chat_model" --model_alias smollm2 --n_ctx 2048 --chat_format chatml \
    --host 127.0.0.1 --port "$chat"
  wait_for "http://127.0.0.1:$chat/v1/models" llama
  export HUB_TEST_CHAT=http://127.0.0.1:$chat
  with="etcd and llama-cpp-python's server"
fi
cargo test --release --workspace --test suite
echo "ok: ModelHub's suite on $with"
