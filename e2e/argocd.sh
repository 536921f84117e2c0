#!/usr/bin/env bash
# Argo CD's own controller and repository server, built from their Go module, beside a real node: the platform from a Git repository
# (walks/argocd.py says what is shown). STORE=tinykv: Kubernetes itself on three TinyKVs. It needs root, Go, Git, and the built programs.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack
work=$(mktemp -d)
plane=$work/plane
pids=()
stop() {
  if [ ${#pids[@]} -gt 0 ]; then
    kill -KILL "${pids[@]}" || true
    wait "${pids[@]}" || true
  fi 2>/dev/null
  hack/plane/plane.sh down "$plane"
  rm -rf "$work"
}
trap stop EXIT
start() { # NAME COMMAND…
  local name=$1
  shift
  "$@" >"$work/$name.log" 2>&1 &
  pids+=($!)
}

echo '-- Argo CD: built once, redis beside it'
sum=$(cat e2e/peers/argocd/run/{go.mod,go.sum,main.go} | sha256sum | cut -c1-16)
argocd=$cache/argocd-$sum
if [ ! -e "$argocd" ]; then
  # Whole or not at all: whoever is stopped in the middle leaves nothing that the next one takes for built.
  (cd e2e/peers/argocd/run && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/argocd/argocd" .)
  for name in argocd-application-controller argocd-repo-server; do ln -s argocd "$work/argocd/$name"; done
  mv "$work/argocd" "$argocd"
fi
redis=$(hack/plane/packages.sh redis-server)
crds=$(cd e2e/peers/argocd/run && go list -m -f '{{.Dir}}' github.com/argoproj/argo-cd/v3)/manifests/crds

echo '-- a plane with a node, and our images on it'
"$bin/xtask" models >/dev/null
"$bin/xtask" images --out "$work/images" --model smollm2-135m-instruct --model all-minilm-l6-v2 >/dev/null
pointed=$(PLANE_NODE=1 PLANE_STORE=${STORE:-etcd} hack/plane/plane.sh up "$plane")
eval "$pointed"
hack/plane/plane.sh load "$plane" "$work"/images/*.tar >/dev/null
rm -r "$work/images"

echo '-- a Git repository with what Argo CD is to bring'
git init --quiet --bare --initial-branch main "$work/repository"
git clone --quiet "$work/repository" "$work/clone" 2>/dev/null
cp -r charts "$work/clone/"
mkdir -p "$work/clone/hack/argocd" "$work/clone/examples"
cp -r hack/argocd/apps "$work/clone/hack/argocd/"
cp -r examples/quickstart "$work/clone/examples/"
sed -i "s|https://github.com/aistack/aistack|file://$work/repository|" "$work"/clone/hack/argocd/apps/*.yaml
as() { git -C "$work/clone" -c user.name=e2e -c user.email=e2e@example.com "$@"; }
as add --all && as commit --quiet --message 'as it is' && as push --quiet origin HEAD:main

port=$(hack/free-port) served=$(hack/free-port)
mkdir -p "$work/path" "$work/tls"
ln -s "$(hack/helm.sh 4)" "$work/path/helm"
printf '#!/bin/sh\nexit 0\n' >"$work/path/git-verify-wrapper.sh" && chmod +x "$work/path/git-verify-wrapper.sh"
kubectl create namespace argocd >/dev/null
kubectl apply --server-side -f "$crds/application-crd.yaml" -f "$crds/applicationset-crd.yaml" -f "$crds/appproject-crd.yaml" >/dev/null
# A kind has no conditions at first, which kubectl takes for an error.
until kubectl wait --for=condition=Established --timeout=1m crd -l app.kubernetes.io/part-of=argocd >/dev/null 2>&1; do sleep 0.2; done
kubectl apply -f e2e/walks/argocd.yaml >/dev/null
kubectl patch configmap argocd-cm -n argocd --patch-file hack/argocd/argocd-cm.yaml >/dev/null
LD_LIBRARY_PATH=$redis/usr/lib/$(uname -m)-linux-gnu start redis "$redis/usr/bin/redis-server" --port "$port" --bind 127.0.0.1 --save '' --dir "$work"
export HOME=$work/home ARGOCD_GPG_ENABLED=false ARGOCD_TLS_DATA_PATH=$work/tls ARGOCD_FAKE_IN_CLUSTER=true ARGOCD_RECONCILIATION_TIMEOUT=10s
mkdir -p "$HOME"
# A repository of this machine's, whoever owns its folder.
printf '[safe]\n  directory = *\n[protocol "file"]\n  allow = always\n' >"$HOME/.gitconfig"
PATH=$work/path:$PATH TMPDIR=$work start repo-server "$argocd/argocd-repo-server" --redis "localhost:$port" --disable-tls --client-ca-path '' \
  --port "$served" --address 127.0.0.1 --metrics-port "$(hack/free-port)"
start controller "$argocd/argocd-application-controller" --kubeconfig "$KUBECONFIG" --namespace argocd --redis "localhost:$port" \
  --repo-server "localhost:$served" --repo-server-plaintext --metrics-port "$(hack/free-port)" --app-resync 10

sed "s|https://github.com/aistack/aistack|file://$work/repository|" hack/argocd/application.yaml >"$work/application.yaml"
python3 e2e/walks/argocd.py "$work/application.yaml" "$work/clone" || { tail -n 20 "$work"/{controller,repo-server}.log; exit 1; }
echo 'argocd: ok'
