#!/usr/bin/env bash
# ModelHub's own suite with other people's parts behind it: etcd (built by ../etcd) as the metadata store and
# llama-cpp-python's OpenAI server as the chat engine. Vectors and embeddings come from our own binaries, unless
# MODELHUB_TEST_QDRANT and MODELHUB_TEST_EMBED name others.
#   CARGO_TARGET_DIR  where the suite is built
#   ETCD              etcd binary (default ~/.cache/aistack/etcd/etcd)
#   LLAMA_PYTHON      Python that has llama_cpp.server (default: a virtual environment made here)
#   CHAT_MODEL        GGUF file (default: the quickstart's)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
etcd=${ETCD:-$HOME/.cache/aistack/etcd/etcd}
models=${AISTACK_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/aistack/models}
chat_model=${CHAT_MODEL:-$models/smollm2-135m-instruct/model.gguf}
[ -x "$etcd" ] || { echo "error: $etcd is missing: e2e/peers/etcd/run.sh builds it, or set ETCD" >&2; exit 1; }
[ -f "$chat_model" ] || { echo "error: $chat_model is missing: make models" >&2; exit 1; }
if [ -z "${LLAMA_PYTHON:-}" ]; then
  venv=$HOME/.cache/aistack/venvs/modelhub
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
  LLAMA_PYTHON=$venv/bin/python
fi
work=$(mktemp -d)
pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
wait_for() {
  for _ in $(seq 300); do
    curl --silent --fail --output /dev/null "$1" && return 0
    sleep 0.2
  done
  echo "error: nothing answers at $1; its log:" >&2
  tail -n 20 "$2" >&2
  exit 1
}
client=$(free_port) peer=$(free_port) chat=$(free_port)
"$etcd" --data-dir "$work/etcd" --log-level error --listen-client-urls "http://127.0.0.1:$client" \
  --advertise-client-urls "http://127.0.0.1:$client" --listen-peer-urls "http://127.0.0.1:$peer" \
  --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" \
  >"$work/etcd.log" 2>&1 &
pids+=($!)
"$LLAMA_PYTHON" -m llama_cpp.server --model "$chat_model" --model_alias smollm2 --n_ctx 2048 --chat_format chatml \
  --host 127.0.0.1 --port "$chat" >"$work/llama.log" 2>&1 &
pids+=($!)
wait_for "http://127.0.0.1:$client/health" "$work/etcd.log"
wait_for "http://127.0.0.1:$chat/v1/models" "$work/llama.log"
export MODELHUB_TEST_ETCD=http://127.0.0.1:$client MODELHUB_TEST_CHAT=http://127.0.0.1:$chat
(cd "$root" && cargo test --release --workspace --test suite)
echo "ok: ModelHub's suite on $("$etcd" --version | head -n 1) and llama-cpp-python's server"
