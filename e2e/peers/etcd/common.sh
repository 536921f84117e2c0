#!/usr/bin/env bash
# etcd's own suite tests/v3/common (tag e2e) against tinykv, which it starts as `etcd`, driven by etcd's etcdctl.
#   common.sh PATH_TO_TINYKV [PATTERN]      PATTERN as in go test -run
#   FULL=1       every kind of cluster and of connection, not E2E_TEST_MINIMAL
#   REPORT=FILE  keeps go test's JSON lines
# What common.skipped names is not run, and is printed with its reason.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tinykv=$(realpath "${1:?path of the tinykv binary}")
pattern=${2:-.}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack/etcd
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report=${REPORT:-$work/report.json}
mkdir "$work/bin"
cd "$here/suites"
for tool in etcdctl etcdutl; do
  go build -o "$cache/$tool" "go.etcd.io/etcd/$tool/v3"
  ln -s "$cache/$tool" "$work/bin/$tool"
done
ln -s "$tinykv" "$work/bin/etcd"
skipped=$(sed 's/#.*//' "$here/common.skipped" | awk 'NF { printf "%s%s", (n++ ? "|" : ""), ($1 ~ "/" ? $1 : "^" $1 "$") }')
[ -n "${FULL:-}" ] || export E2E_TEST_MINIMAL=true
go test -tags e2e -count=1 -timeout 120m -json -run "$pattern" ${skipped:+-skip "$skipped"} \
  go.etcd.io/etcd/tests/v3/common -args "-bin-dir=$work/bin" >"$report" || true
python3 "$here/summary.py" "$report" "$here/common.skipped"
