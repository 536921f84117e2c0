#!/usr/bin/env bash
# Peers' own clients and suites against the servers that were just built. Each part says what it ran.
# Ports are free ones; every server that is started here is stopped here.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
work=$(mktemp -d)
pids=()

stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for URL NAME: until it answers with success, for at most 60 s.
wait_for() {
  for _ in $(seq 600); do
    if python3 - "$1" 2>/dev/null <<'PY'
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=2).read()
PY
    then return 0; fi
    sleep 0.1
  done
  echo "error: $2 did not become ready at $1; its log:" >&2
  tail -n 20 "$work/$2.log" >&2
  exit 1
}

# venv DIR: a virtual environment of its own, with the pinned requirements of that folder.
venv() {
  local place=$HOME/.cache/aistack/venvs/$1
  [ -x "$place/bin/python" ] || python3 -m venv "$place"
  "$place/bin/pip" install --quiet --disable-pip-version-check --requirement "e2e/peers/$1/requirements.txt"
  echo "$place/bin/python"
}

echo '-- qdrant: the unchanged Python client, bad input, differential against its in-memory mode'
VECTORFORGE_BIN=$bin/vectorforge VENV_QDRANT=$HOME/.cache/aistack/venvs/qdrant OPS=${OPS:-1500} e2e/peers/qdrant/run.sh

echo '-- openai: the unchanged Python and JavaScript clients'
for role in chat embed; do
  model=smollm2-135m-instruct
  [ $role = embed ] && model=all-minilm-l6-v2
  port=$(free_port)
  "$bin/tinyinfer" --model $model --port "$port" --set "listen_grpc=127.0.0.1:$(free_port)" \
    --set "server.admin_listen=127.0.0.1:$(free_port)" >"$work/$role.log" 2>&1 &
  pids+=($!)
  printf -v "$role" 'http://127.0.0.1:%s' "$port"
done
wait_for "$chat/health" chat
wait_for "$embed/health" embed
"$(venv openai)" e2e/peers/openai/test_openai.py --chat "$chat" --embed "$embed"
if command -v npm >/dev/null; then
  (cd e2e/peers/openai && npm install --silent --no-audit --no-fund --no-package-lock && node test_openai.mjs "$chat" "$embed")
else
  echo '   no npm on this machine: the JavaScript client was not run'
fi

if command -v go >/dev/null; then
  echo '-- etcd: etcdctl of two ages, the Python client; then the same operations against etcd itself, and kill -9'
  cache=$HOME/.cache/aistack/etcd
  mkdir -p "$cache"
  (cd e2e/peers/etcd && go build -o "$cache/etcd" ./cmd/etcd)
  e2e/peers/etcd/clients.sh "$bin/tinykv"
  (cd e2e/peers/etcd && PEER_ETCD=$cache/etcd PEER_TINYKV=$bin/tinykv go test -count=1 -p 1 ./differential ./crash ./faults)

  echo '-- kubernetes: the kinds and the examples before the code of the API server'
  e2e/peers/apiserver/run.sh
else
  echo '-- etcd and kubernetes: no Go on this machine, so their own code was not run'
fi
