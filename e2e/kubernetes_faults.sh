#!/usr/bin/env bash
# kube-apiserver 1.37, controller manager and scheduler on three members of etcd, then of TinyKV, the leader killed every 20 s while objects of
# six kinds come and go under watches. What both showed goes to e2e/peers/kubernetes/results.jsonl.
#   OBJECTS=500 of each kind, ROUNDS=4 times, EVERY=20s from one kill to the next
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/peers/servers.sh
etcd=$(built_etcd)
hack/plane/plane.sh build >/dev/null
(cd e2e/peers/kubernetes && go build -o "$work/drill" .)
"$work/drill" --plane hack/plane/plane.sh --kinds crds/generated --objects "${OBJECTS:-500}" --rounds "${ROUNDS:-4}" --every "${EVERY:-20s}" \
  --out e2e/peers/kubernetes/results.jsonl --store "etcd=$etcd" --store "tinykv=$bin/tinykv"
