#!/usr/bin/env bash
# A node, in namespaces of its own: containerd, kubelet, kube-proxy and CoreDNS, and all that they start. Its first process is this script;
# when it ends, the kernel ends and takes away everything else: pods, mounts, bridges, rules.
#   unshare --fork --pid --mount-proc --mount --net node.sh DIR BIN PACKAGES
# BIN may be several folders. It begins when the network's other end, eth0, has come. plane.sh starts it.
set -euo pipefail
dir=$1 bin=$2 packages=$3
export PATH=$bin:$packages/usr/bin:$packages/usr/sbin:$PATH
LD_LIBRARY_PATH=$packages/usr/lib/$(uname -m)-linux-gnu
export LD_LIBRARY_PATH

# What they keep in fixed places goes with the node.
for folder in /run /var/lib /var/log; do mount -t tmpfs tmpfs "$folder"; done
mount --make-rshared /
until ip -o link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add 10.251.0.2/30 dev eth0
ip link set eth0 up
ip route add default via 10.251.0.1
sysctl -qw net.ipv4.ip_forward=1
# Answers of a pod on the same bridge pass the rules of Services too.
sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true

mkdir -p "$dir"/{cni,containerd,kubelet,pods} /etc/cni
cat >"$dir/containerd.toml" <<END
version = 2
root = "$dir/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/aistack/pause:1"
  # A machine that lets nobody raise a process's priority against the killer of processes.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$packages/usr/lib/cni"
    conf_dir = "$dir/cni"
END
cat >"$dir/cni/10-bridge.conflist" <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
# Names outside of the cluster are nobody's here.
echo 'nameserver 10.96.0.10' >"$dir/resolv.conf"
cat >"$dir/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /aistack-plane
failSwapOn: false
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix://$dir/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: $dir/resolv.conf
podLogsDir: $dir/pods
# The machine's disk is not the node's: images are put there once and stay.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
serializeImagePulls: false
END
cat >"$dir/Corefile" <<END
.:53 {
  bind 10.251.0.2
  errors
  ready 10.251.0.2:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $dir/kubeconfig
    ttl 1
  }
  cache 1
}
END

# keep NAME ARGUMENTS…: one that ends is started again, as an init would. A kubelet that finds no containerd yet ends at once.
keep() {
  local name=$1
  shift
  while true; do
    "$name" "$@" >>"$dir/$name.log" 2>&1 || true
    echo "$name ended; it is started again" >>"$dir/$name.log"
    sleep 0.5
  done &
}
keep containerd --config "$dir/containerd.toml"
keep kubelet --config "$dir/kubelet.yaml" --kubeconfig "$dir/kubeconfig-node" --hostname-override plane --node-ip 10.251.0.2 \
  --root-dir "$dir/kubelet" --cert-dir "$dir/kubelet/pki"
keep kube-proxy --kubeconfig "$dir/kubeconfig" --proxy-mode nftables --conntrack-max-per-core 0 --hostname-override plane \
  --cluster-cidr 10.244.0.0/16
keep coredns -conf "$dir/Corefile"
wait
