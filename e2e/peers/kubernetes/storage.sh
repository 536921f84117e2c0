#!/usr/bin/env bash
# Kubernetes' own tests of its storage layer (k8s.io/apiserver, pkg/storage/etcd3) on etcd, which is the judge, and on tinykv. The tests
# are as they are published; the package that starts an etcd for them is replaced by storage/testserver.go.
#   storage.sh PATH_TO_TINYKV [RECORD]      RECORD: notes the outcome in e2e/peers/etcd/results/kubernetes-storage.json
# Fails when a test fails on tinykv that passes on etcd.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../..
tinykv=$(realpath "${1:?path of the tinykv binary}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack/etcd
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache" "$work/bin"
(cd "$here/../etcd" && go build -o "$cache/etcd" ./cmd/etcd)
# Called by etcd's name, it has etcd's defaults.
ln -s "$tinykv" "$work/bin/etcd"

# The module of the control plane names the versions of everything that belongs to Kubernetes; one of them is replaced by a copy of
# itself with one file exchanged, where Go finds it unchanged the next time.
cd "$root/hack/plane"
copy=$cache/apiserver
published=$(go list -m -f '{{.Dir}}' k8s.io/apiserver)
rm -rf "$copy"
cp -r "$published" "$copy"
chmod -R u+w "$copy"
sed 's|^//go:build storage$||' "$here/storage/testserver.go" >"$copy/pkg/storage/etcd3/testserver/test_server.go"
cp go.mod go.sum "$work/"
go mod edit -replace "k8s.io/apiserver=$copy" "$work/go.mod"
go test -c -modfile "$work/go.mod" -o "$work/storage.test" k8s.io/apiserver/pkg/storage/etcd3
source=$copy/pkg/storage/etcd3
for store in etcd tinykv; do
  binary=$cache/etcd
  [ $store = etcd ] || binary=$work/bin/etcd
  (cd "$source" && STORE_BINARY=$binary go tool test2json -t "$work/storage.test" -test.v=test2json -test.timeout 60m) \
    >"$work/$store.json" || true
  echo "$store: $(grep -c '"Action":"pass","Test":"[^/"]*"' "$work/$store.json") passed, $(grep -c '"Action":"fail","Test":"[^/"]*"' "$work/$store.json") failed"
done
if [ $# -gt 1 ]; then
  python3 "$here/../etcd/record.py" kubernetes-storage "$work/tinykv.json" "$work/etcd.json"
fi
failed() { grep -o '"Action":"fail","Test":"[^"]*"' "$work/$1.json" | cut -d'"' -f8 | sort || true; }
worse=$(comm -13 <(failed etcd) <(failed tinykv))
[ -z "$worse" ] || { printf 'failed on tinykv, not on etcd:\n%s\n' "$worse" >&2; [ -z "${LOGS:-}" ] || cp "$work"/*.json "$LOGS"; exit 1; }
