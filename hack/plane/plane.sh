#!/usr/bin/env bash
# A real Kubernetes API server on this machine, without a cluster: etcd (or any etcd) and kube-apiserver 1.37, built from Go modules.
#
#   hack/plane/plane.sh build              build the control plane once (about 9 CPU minutes), into the cache
#   hack/plane/plane.sh path               where it is, or will be
#   hack/plane/plane.sh up [DIR]           start it; prints the line that points kubectl (its own, beside it) at it
#   hack/plane/plane.sh down [DIR]         stop it
#
# PLANE_ETCD=http://host:port[,…] uses that store instead of starting etcd; PLANE_CONTROLLERS=1 starts the controller manager and the
# scheduler too. DIR holds keys, data and logs (default: a folder in the cache).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack
version=1.37.0
bin=$cache/plane-$(cat "$here/go.mod" "$here/go.sum" "$here/main.go" | sha256sum | cut -c1-16)

build() {
  [ -x "$bin/plane" ] && return
  mkdir -p "$bin"
  echo "plane: building Kubernetes $version's control plane (once; about five minutes on two idle cores) …" >&2
  local package=k8s.io/component-base/version
  (cd "$here" && CGO_ENABLED=0 go build -trimpath -o "$bin/plane.new" \
    -ldflags "-s -w -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=37" .)
  local name
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl etcd; do ln -sf plane "$bin/$name"; done
  mv "$bin/plane.new" "$bin/plane"
}

# keys DIR: an authority, the server's certificate, an administrator's certificate and the key that signs service accounts.
keys() {
  cd "$1"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=plane -keyout ca.key -out ca.crt 2>/dev/null
  sign() { # NAME SUBJECT EXTENSIONS
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile <(echo "$3") -out "$1.crt" 2>/dev/null
  }
  sign server /CN=kube-apiserver 'subjectAltName=IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc'
  sign admin /O=system:masters/CN=admin 'extendedKeyUsage=clientAuth'
  openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
  cd - >/dev/null
}

kubeconfig() { # DIR PORT
  cat > "$1/kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: plane, cluster: {server: "https://127.0.0.1:$2", certificate-authority: $1/ca.crt}}]
users: [{name: admin, user: {client-certificate: $1/admin.crt, client-key: $1/admin.key}}]
contexts: [{name: plane, context: {cluster: plane, user: admin}}]
current-context: plane
EOF
}

wait_ready() { # DIR
  for _ in $(seq 1500); do
    "$bin/kubectl" --kubeconfig "$1/kubeconfig" get --raw /readyz >/dev/null 2>&1 && return
    kill -0 "$(cat "$1/kube-apiserver.pid")" 2>/dev/null || break
    sleep 0.2
  done
  echo "plane: the API server is not ready; the end of $1/kube-apiserver.log:" >&2
  tail -n 20 "$1/kube-apiserver.log" >&2
  down "$1"
  exit 1
}

start() { # DIR NAME ARGUMENTS
  local dir=$1 name=$2
  shift 2
  setsid "$bin/$name" "$@" >"$dir/$name.log" 2>&1 &
  echo $! >"$dir/$name.pid"
}

up() {
  local dir=$1 port store=${PLANE_ETCD:-}
  build
  if [ -e "$dir/kube-apiserver.pid" ] && kill -0 "$(cat "$dir/kube-apiserver.pid")" 2>/dev/null; then
    echo "plane: up already in $dir" >&2
  else
    rm -rf "$dir" && mkdir -p "$dir" && dir=$(cd "$dir" && pwd)
    keys "$dir"
    if [ -z "$store" ]; then
      local client peer
      client=$("$here/../free-port") peer=$("$here/../free-port")
      store=http://127.0.0.1:$client
      start "$dir" etcd --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "$store" --advertise-client-urls "$store" \
        --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
        --initial-cluster "default=http://127.0.0.1:$peer"
    fi
    port=$("$here/../free-port")
    kubeconfig "$dir" "$port"
    start "$dir" kube-apiserver --etcd-servers "$store" --secure-port "$port" --bind-address 127.0.0.1 \
      --endpoint-reconciler-type none --tls-cert-file "$dir/server.crt" --tls-private-key-file "$dir/server.key" \
      --client-ca-file "$dir/ca.crt" --service-account-issuer https://kubernetes.default.svc \
      --service-account-key-file "$dir/accounts.key" --service-account-signing-key-file "$dir/accounts.key" \
      --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC --allow-privileged
    wait_ready "$dir"
    # One of each, so nobody is elected: a leader that could not renew its lease in time would end.
    if [ -n "${PLANE_CONTROLLERS:-}" ]; then
      start "$dir" kube-controller-manager --kubeconfig "$dir/kubeconfig" --leader-elect=false --secure-port 0 \
        --service-account-private-key-file "$dir/accounts.key" --root-ca-file "$dir/ca.crt" --use-service-account-credentials
      start "$dir" kube-scheduler --kubeconfig "$dir/kubeconfig" --leader-elect=false --secure-port 0
    fi
  fi
  echo "export KUBECONFIG=$dir/kubeconfig PATH=$bin:\$PATH"
}

down() {
  local pid
  for pid in "$1"/{kube-scheduler,kube-controller-manager,kube-apiserver,etcd}.pid; do
    [ -e "$pid" ] || continue
    kill "$(cat "$pid")" 2>/dev/null || true
    while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.1; done
    rm -f "$pid"
  done
}

dir=${2:-$cache/plane}
case ${1:-} in
  build) build; echo "$bin" ;;
  path) echo "$bin" ;;
  up) up "$dir" ;;
  down) down "$dir" ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
