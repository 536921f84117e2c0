#!/usr/bin/env bash
# Peers' own clients and suites against the servers that were just built. Each part says what it ran.
# Ports are free ones; every server that is started here is stopped here.
set -euo pipefail
cd "$(dirname "$0")/../.."
. e2e/peers/servers.sh

echo '-- qdrant: the unchanged Python client, bad input, differential against its in-memory mode'
VECTORFORGE_BIN=$bin/vectorforge VENV_QDRANT=$HOME/.cache/aistack/venvs/qdrant OPS=${OPS:-1500} e2e/peers/qdrant/run.sh

echo '-- openai: the unchanged Python and JavaScript clients'
for role in chat embed; do
  model=smollm2-135m-instruct
  [ $role = embed ] && model=all-minilm-l6-v2
  port=$(hack/free-port)
  start $role "$bin/tinyinfer" --model $model --port "$port" --set "listen_grpc=127.0.0.1:$(hack/free-port)" \
    --set "server.admin_listen=127.0.0.1:$(hack/free-port)"
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
  echo '-- etcd: etcdctl of two ages, the Python client; then the same operations against etcd itself, snapshots both ways, and kill -9'
  etcd=$(built_etcd)
  e2e/peers/etcd/clients.sh "$bin/tinykv"
  (cd e2e/peers/etcd && PEER_ETCD=$etcd PEER_TINYKV=$bin/tinykv go test -count=1 -p 1 -timeout 60m \
    ./differential ./snapshot ./crash ./faults)
  (cd e2e/peers/etcd && PEER_ETCD=$etcd PEER_TINYKV=$bin/tinykv go test -count=1 -timeout 60m -run Snapshot ./cluster)
  echo '-- etcd: its robustness models, while the leader is killed and while a member is replaced'
  # Faults that need no right to make networks.
  SEED=17 FAULT=KillLeader TRAFFIC=EtcdTrafficDeleteLeases e2e/peers/etcd/robustness.sh "$bin/tinykv"
  SEED=18 FAULT=ReplaceMember TRAFFIC=KubernetesHighTraffic e2e/peers/etcd/robustness.sh "$bin/tinykv"

  echo "-- modelhub: its own suite with etcd for its store"
  CHAT=ours e2e/peers/modelhub/run.sh

  echo '-- kubernetes: the kinds and the examples before the code of the API server'
  e2e/peers/apiserver/run.sh
else
  echo '-- etcd and kubernetes: no Go on this machine, so their own code was not run'
fi
