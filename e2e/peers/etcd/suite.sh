#!/usr/bin/env bash
# One of etcd's own suites (tag e2e) against tinykv, which it starts as `etcd`, driven by etcd's etcdctl and etcdutl.
#   suite.sh common|common-full|e2e PATH_TO_TINYKV [PATTERN]      PATTERN: a regular expression that names tests
#   common-full is common with every kind of cluster and of connection, not E2E_TEST_MINIMAL.
#   RESULTS=FILE   where the outcome goes (results/SUITE.json, for a whole run)
#   LOGS=DIR       keeps what every test said
#   SUITE_JOBS=N   tests at a time, where each can have a network of its own (1)
# What SUITE.skipped names is not run, and is listed with its reason.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
name=${1:?common, common-full or e2e}
suite=${name%-full}
tinykv=$(realpath "${2:?path of the tinykv binary}")
pattern=${3:-.}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack/etcd
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ "$name" != common ] || export E2E_TEST_MINIMAL=true
results=${RESULTS:-$work/results.json}
[ "$pattern" != . ] || results=${RESULTS:-$here/results/$name.json}
results=$(realpath -m "$results")
mkdir -p "$work/bin" "$work/logs" "$(dirname "$results")" "$cache"
logs=$(realpath -m "${LOGS:-$work/logs}")
mkdir -p "$logs"
cd "$here/suites"
for tool in etcdctl etcdutl; do
  go build -o "$cache/$tool" "go.etcd.io/etcd/$tool/v3"
  ln -s "$cache/$tool" "$work/bin/$tool"
done
ln -s "$tinykv" "$work/bin/etcd"
go test -c -tags e2e -o "$work/$suite.test" "go.etcd.io/etcd/tests/v3/$suite"
SUITE_VERSION=$(go list -m -f '{{.Version}}' go.etcd.io/etcd/tests/v3)
export SUITE_VERSION
# Not in the suites' module, but in that of etcd's benchmark.
sample=$(cd "$here/bench/tool" && go list -m -f '{{.Dir}}' go.etcd.io/etcd/v3)/etcd.conf.yml.sample
[ -f "$sample" ] || (cd "$here/bench/tool" && go mod download go.etcd.io/etcd/v3)
python3 "$here/suite.py" --suite "$name" --binary "$work/$suite.test" --bin-dir "$work/bin" --pattern "$pattern" \
  --directory "$(go list -f '{{.Dir}}' -tags e2e "go.etcd.io/etcd/tests/v3/$suite")" \
  --skipped "$here/$suite.skipped" --results "$results" --logs "$logs" --sample "$sample"
