#!/usr/bin/env bash
# A real Kubernetes on this machine, without a cluster: etcd (or TinyKV, or any etcd) and the control plane 1.37, built from Go modules, and on
# request a node: kubelet, containerd, CNI, kube-proxy and CoreDNS in namespaces of their own.
#
#   hack/plane/plane.sh build              build the control plane once (about 9 CPU minutes), into the cache
#   hack/plane/plane.sh build-node         and what a node needs besides
#   hack/plane/plane.sh path               where it is, or will be
#   hack/plane/plane.sh up [DIR]           start it; prints the line that points kubectl (its own, beside it) at it
#   hack/plane/plane.sh load [DIR] ARCHIVE…  put images on the node
#   hack/plane/plane.sh down [DIR]         stop it, and take away all that it wrote
#   hack/plane/plane.sh lacks              why this machine cannot have a node; nothing when it can
#
# DIR holds keys, data and logs (default: a folder in the cache). What is started:
#   PLANE_STORE=tinykv                     three TinyKVs as the store; etcd without it
#   PLANE_ETCD=http://host:port[,…]        a store that runs already
#   PLANE_CONTROLLERS=1                    the controller manager and the scheduler too
#   PLANE_NODE=1                           these and a node, as root: one such plane at a time
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack
version=1.37.0
# The two ends of the cable between this machine and the node.
here_ip=10.251.0.1 node_ip=10.251.0.2
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

# Where CoreDNS and the pause image are.
node_bin=$cache/plane-node-$(cat "$here"/coredns/go.* "$here"/coredns/main.go "$here"/pause/* | sha256sum | cut -c1-16)

build_node_programs() {
  [ -x "$node_bin/pause" ] && return
  mkdir -p "$node_bin"
  echo 'plane: building CoreDNS (once; a minute) …' >&2
  (cd "$here/coredns" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$node_bin/coredns" .)
  (cd "$here/pause" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$node_bin/pause" .)
}

build_node() {
  [ -e "$node_bin/pause.tar" ] && return
  build_node_programs
  (cd "$here/../.." && cargo xtask image "$node_bin/pause" docker.io/aistack/pause:1 "$node_bin/pause.tar")
}

# keys DIR: an authority, the server's certificate, an administrator's certificate and the key that signs service accounts.
keys() {
  cd "$1"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=plane -keyout ca.key -out ca.crt 2>/dev/null
  sign() { # NAME SUBJECT EXTENSIONS
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile <(echo "$3") -out "$1.crt" 2>/dev/null
  }
  sign server /CN=kube-apiserver 'subjectAltName=IP:127.0.0.1,IP:10.96.0.1,IP:'$here_ip',DNS:localhost,DNS:kubernetes.default.svc'
  sign admin /O=system:masters/CN=admin 'extendedKeyUsage=clientAuth'
  sign node /O=system:nodes/CN=system:node:plane 'extendedKeyUsage=clientAuth'
  openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
  cd - >/dev/null
}

kubeconfig() { # DIR HOST:PORT USER FILE
  cat > "$1/$4" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: plane, cluster: {server: "https://$2", certificate-authority: $1/ca.crt}}]
users: [{name: $3, user: {client-certificate: $1/$3.crt, client-key: $1/$3.key}}]
contexts: [{name: plane, context: {cluster: plane, user: $3}}]
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

# one_etcd DIR: starts it, and says where it answers.
one_etcd() {
  local client peer
  client=$("$here/../free-port") peer=$("$here/../free-port")
  store=http://127.0.0.1:$client
  start "$1" etcd --data-dir "$1/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$store" --advertise-client-urls "$store" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "default=http://127.0.0.1:$peer"
}

# three_tinykvs DIR: the same for three members of ours.
three_tinykvs() {
  local dir=$1 name members='' program=${TINYKV:-${CARGO_TARGET_DIR:-$here/../../target}/release/tinykv}
  [ -x "$program" ] || { echo "plane: $program is not there; build it (make build), or name it: TINYKV" >&2; exit 1; }
  local -A client peer
  store=
  for name in a b c; do
    client[$name]=http://127.0.0.1:$("$here/../free-port") peer[$name]=http://127.0.0.1:$("$here/../free-port")
    members+=${members:+,}$name=${peer[$name]} store+=${store:+,}${client[$name]}
  done
  for name in a b c; do
    setsid "$program" --name "$name" --data-dir "$dir/tinykv-$name" --initial-cluster "$members" \
      --listen-client-urls "${client[$name]}" --advertise-client-urls "${client[$name]}" \
      --listen-peer-urls "${peer[$name]}" --initial-advertise-peer-urls "${peer[$name]}" \
      --set server.admin_listen="127.0.0.1:$("$here/../free-port")" >"$dir/tinykv-$name.log" 2>&1 &
    echo $! >"$dir/tinykv-$name.pid"
  done
}

# lacks: why there can be no node here, in one line.
lacks() {
  [ "$(uname -s)" = Linux ] || { echo 'it needs Linux'; return; }
  [ "$(id -u)" = 0 ] || { echo 'it needs root'; return; }
  local program
  for program in ip openssl unshare findmnt python3; do
    command -v "$program" >/dev/null || { echo "it needs $program"; return; }
  done
  command -v go >/dev/null || { echo 'there is no Go toolchain to build Kubernetes, CoreDNS and helm with'; return; }
  command -v apt-get >/dev/null || { echo 'there is no apt-get to fetch containerd with'; return; }
  unshare --fork --pid --mount-proc --mount --net true 2>/dev/null || { echo 'nobody may make namespaces here'; return; }
  unshare --net sh -c 'ip link add name one type bridge && ip link add two type veth peer name three' 2>/dev/null ||
    { echo 'this kernel has no bridges or no cables (veth) for pods'; return; }
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || { echo 'this kernel has no overlayfs for containers'; return; }
  [ -n "$(findmnt -rnt cgroup,cgroup2 -o TARGET)" ] || { echo 'there are no control groups here'; return; }
}

# node_begin DIR: the namespaces of a node, and the cable to it. Its processes wait for the API server by themselves.
node_begin() {
  local packages pid folder
  [ "$(id -u)" = 0 ] || { echo 'plane: a node needs root' >&2; exit 1; }
  case $1/ in /run/*|/var/lib/*|/var/log/*) echo "plane: a node hides $1 from itself; name another folder" >&2; exit 1 ;; esac
  ! ip link show aistack-plane >/dev/null 2>&1 || { echo 'plane: another plane with a node is up' >&2; exit 1; }
  build_node
  packages=$("$here/packages.sh")
  # Where the node's limits and figures of processes are kept; of cgroup v1 a tree each.
  for folder in $(findmnt -rnt cgroup,cgroup2 -o TARGET); do mkdir -p "$folder/aistack-plane" 2>/dev/null || true; done
  setsid unshare --fork --kill-child --pid --mount-proc --mount --net "$here/node.sh" "$1" "$bin:$node_bin" "$packages" >"$1/node.log" 2>&1 &
  pid=$!
  echo $pid >"$1/node.pid"
  until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do
    kill -0 $pid || { cat "$1/node.log" >&2; exit 1; }
    sleep 0.05
  done
  ip link add aistack-plane type veth peer name eth0 netns $pid
  ip address add $here_ip/30 dev aistack-plane
  ip link set aistack-plane up
  ip route add 10.96.0.0/16 via $node_ip
  ip route add 10.244.0.0/16 via $node_ip
}

# node_ready DIR: names, volumes and the first image; returns when pods may come.
node_ready() {
  local kubectl=("$bin/kubectl" --kubeconfig "$1/kubeconfig") number
  "${kubectl[@]}" apply --server-side -f - >/dev/null <"$here/names.yaml"
  for number in 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16; do
    mkdir -p "$1/volumes/$number"
    sed "s|NUMBER|$number|; s|FOLDER|$1/volumes/$number|" "$here/volume.yaml"
  done | "${kubectl[@]}" apply --server-side -f - >/dev/null
  until "$0" load "$1" "$node_bin/pause.tar" >/dev/null 2>&1; do
    kill -0 "$(cat "$1/node.pid")" || { tail -n 20 "$1"/{node,containerd}.log >&2; exit 1; }
    sleep 0.1
  done
  "${kubectl[@]}" wait --for=create --timeout=5m node/plane >/dev/null
  "${kubectl[@]}" wait --for=condition=Ready --timeout=5m node/plane >/dev/null
}

# load DIR ARCHIVE…: puts images on the node.
load() {
  local dir=$1 archive packages
  shift
  packages=$("$here/packages.sh")
  for archive in "$@"; do
    "$packages/usr/bin/ctr" --address "$dir/containerd.sock" -n k8s.io images import "$archive"
  done
}

up() {
  local dir=$1 port host=127.0.0.1 store=${PLANE_ETCD:-} node=${PLANE_NODE:-} apiserver=()
  build
  if [ -e "$dir/kube-apiserver.pid" ] && kill -0 "$(cat "$dir/kube-apiserver.pid")" 2>/dev/null; then
    echo "plane: up already in $dir" >&2
  else
    rm -rf "$dir" && mkdir -p "$dir" && dir=$(cd "$dir" && pwd)
    keys "$dir"
    port=$("$here/../free-port")
    if [ -n "$node" ]; then
      host=$here_ip
      kubeconfig "$dir" "$host:$port" node kubeconfig-node
    fi
    kubeconfig "$dir" "$host:$port" admin kubeconfig
    if [ -z "$store" ]; then
      case ${PLANE_STORE:-etcd} in
        etcd) one_etcd "$dir" ;;
        tinykv) three_tinykvs "$dir" ;;
        *) echo "plane: PLANE_STORE is etcd or tinykv, not $PLANE_STORE" >&2; exit 2 ;;
      esac
    fi
    if [ -n "$node" ]; then
      node_begin "$dir"
      apiserver=(--advertise-address "$host" --kubelet-client-certificate "$dir/admin.crt" --kubelet-client-key "$dir/admin.key"
        --kubelet-preferred-address-types InternalIP)
    else
      apiserver=(--endpoint-reconciler-type none)
    fi
    start "$dir" kube-apiserver --etcd-servers "$store" --secure-port "$port" --bind-address "$host" "${apiserver[@]}" \
      --tls-cert-file "$dir/server.crt" --tls-private-key-file "$dir/server.key" \
      --client-ca-file "$dir/ca.crt" --service-account-issuer https://kubernetes.default.svc \
      --service-account-key-file "$dir/accounts.key" --service-account-signing-key-file "$dir/accounts.key" \
      --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC --allow-privileged
    wait_ready "$dir"
    # One of each, so nobody is elected: a leader that could not renew its lease in time would end.
    if [ -n "${PLANE_CONTROLLERS:-}$node" ]; then
      start "$dir" kube-controller-manager --kubeconfig "$dir/kubeconfig" --leader-elect=false --secure-port 0 \
        --service-account-private-key-file "$dir/accounts.key" --root-ca-file "$dir/ca.crt" --use-service-account-credentials
      start "$dir" kube-scheduler --kubeconfig "$dir/kubeconfig" --leader-elect=false --secure-port 0
    fi
    [ -z "$node" ] || node_ready "$dir"
  fi
  echo "export KUBECONFIG=$dir/kubeconfig PATH=$bin:\$PATH"
}

# end DIR NAME: asks it to end, and makes it after five seconds. A node's parent has no ear for anything else, and its child dies with it.
end() {
  local pid tries=0 signal=-TERM
  [ -e "$1/$2.pid" ] || return 0
  pid=$(cat "$1/$2.pid")
  [ "$2" != node ] || signal=-KILL
  kill $signal "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do
    [ $((tries += 1)) -ne 50 ] || kill -KILL "$pid" 2>/dev/null || true
    sleep 0.1
  done
}

down() {
  local name folder
  for name in node kube-scheduler kube-controller-manager kube-apiserver etcd tinykv-a tinykv-b tinykv-c; do end "$1" "$name"; done
  if [ -e "$1/node.pid" ]; then
    ip link delete aistack-plane 2>/dev/null || true
    # The kernel ends the node's processes by and by; a group is empty before it may go.
    for folder in $(findmnt -rnt cgroup,cgroup2 -o TARGET); do
      while [ -e "$folder/aistack-plane" ]; do
        find "$folder/aistack-plane" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
      done
    done
  fi
  [ ! -e "$1/accounts.key" ] || rm -rf "$1"
}

command=${1:-}
[ $# -eq 0 ] || shift
# An archive is a file, a plane's folder is none.
dir=$cache/plane
if [ $# -gt 0 ] && [ ! -f "$1" ]; then dir=$1; shift; fi
case $command in
  build) build; echo "$bin" ;;
  build-node) build; build_node_programs ;;
  path) echo "$bin" ;;
  up) up "$dir" ;;
  load) load "$dir" "$@" ;;
  down) down "$dir" ;;
  lacks) lacks ;;
  *) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
