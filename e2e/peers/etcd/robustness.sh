#!/usr/bin/env bash
# etcd's robustness models over three members of tinykv on this machine, while something befalls them: see
# suites/robustness.
#   robustness.sh PATH_TO_TINYKV
#   RUNS=100      of each traffic (1)
#   SEED=N        of the first run; the next ones follow (the time)
#   TRAFFIC=…     EtcdHighTraffic EtcdTrafficDeleteLeases KubernetesHighTraffic KubernetesLowTraffic (all)
#   FAULT=…       one of suites/robustness/faults.go (all in turn)
#   RESULTS=FILE  where the figures go besides
# Where this may be done, members have networks of their own, in namespaces that end with the script.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PEER_TINYKV=$(realpath "${1:?path of the tinykv binary}")
export PEER_TINYKV
[ -z "${RESULTS:-}" ] || RESULTS=$(realpath -m "$RESULTS")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$here/suites"
go test -c -o "$work/robustness.test" ./robustness
apart=(unshare --net --mount --pid --fork --kill-child --mount-proc)
if command -v ip >/dev/null && "${apart[@]}" ip link add name trial type veth peer name trial2 2>/dev/null; then
  # Names of namespaces are files in /run/netns.
  mkdir -p /run/netns
  ROBUSTNESS_NAMESPACES=1 "${apart[@]}" sh -c 'mount -t tmpfs none /run/netns && exec "$@"' - \
    "$work/robustness.test" -test.v -test.timeout 0 | grep --line-buffered -v '^=== '
else
  echo 'no namespaces here: members meet behind proxies, and faults that part one pair of members are left out'
  "$work/robustness.test" -test.v -test.timeout 0 | grep --line-buffered -v '^=== '
fi
