#!/usr/bin/env bash
# What `aistack render` prints, and our kinds, before a real Kubernetes 1.37 API server: once on etcd, once on TinyKV as its store.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${CARGO_TARGET_DIR:-$PWD/target}/release
work=$(mktemp -d)
plane=hack/plane/plane.sh
store=

cleanup() {
  "$plane" down "$work/plane"
  [ -z "$store" ] || kill "$store" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

# drill NAME: our kinds are installed, every example is rendered and applied, 200 objects are written, watched and deleted.
drill() {
  local manifest events
  eval "$("$plane" up "$work/plane")"
  kubectl apply --server-side -f crds/generated/ >/dev/null
  kubectl wait --for=condition=Established --timeout=5m crd --all >/dev/null
  for manifest in examples/*.yaml examples/quickstart/stack.yaml; do
    "$bin/aistack" render -f "$manifest" 2>/dev/null >"$work/rendered.yaml"
    kubectl apply --dry-run=client -f "$work/rendered.yaml" >/dev/null
    kubectl apply --dry-run=server -f "$work/rendered.yaml" >/dev/null
    kubectl apply --dry-run=server -f "$manifest" >/dev/null
    echo "$1: $manifest: accepted by client and server"
  done
  kubectl create configmap before >/dev/null
  kubectl get configmap -w --output-watch-events --no-headers >"$work/events" 2>/dev/null &
  local watcher=$!
  for _ in $(seq 3000); do # the watch has begun once it shows what was there before
    [ -s "$work/events" ] && break
    sleep 0.1
  done
  for i in $(seq 200); do printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: object-%03d, labels: {drill: "yes"}}\ndata: {n: "%d"}\n' "$i" "$i"; done >"$work/objects.yaml"
  kubectl apply -f "$work/objects.yaml" >/dev/null
  [ "$(kubectl get configmap -l drill=yes --chunk-size 50 --no-headers | wc -l)" = 200 ]
  kubectl delete configmap -l drill=yes >/dev/null
  for _ in $(seq 3000); do
    events=$(grep -c 'object-' "$work/events" || true)
    [ "$events" -ge 400 ] && break
    sleep 0.1
  done
  kill "$watcher"
  [ "$events" = 400 ] || { echo "$1: a watch of 200 creations and 200 deletions showed $events events" >&2; exit 1; }
  echo "$1: 200 objects created, listed in pages of 50 and deleted; a watch saw each once"
  "$plane" down "$work/plane"
}

drill 'kube-apiserver on etcd'

client=$(hack/free-port)
"$bin/tinykv" --set data_dir="$work/tinykv" --set listen_client="127.0.0.1:$client" --set listen_peer="127.0.0.1:$(hack/free-port)" \
  --set server.admin_listen="127.0.0.1:$(hack/free-port)" >"$work/tinykv.log" 2>&1 &
store=$!
until curl -sf "http://127.0.0.1:$client/health" >/dev/null; do
  kill -0 "$store" || { tail -n 20 "$work/tinykv.log" >&2; exit 1; }
  sleep 0.1
done
PLANE_ETCD=http://127.0.0.1:$client drill 'kube-apiserver on TinyKV'
