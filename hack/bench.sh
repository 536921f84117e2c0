#!/usr/bin/env bash
# Benchmarks beside their peers; each appends lines to docs/benchmarks/*.jsonl. Give areas to run only those:
#   hack/bench.sh                 all
#   hack/bench.sh gateway ask     two of them
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR

areas=("$@")
[ ${#areas[@]} -gt 0 ] || mapfile -t areas < <(ls e2e/peers/bench | sed 's/\.sh$//')
for area in "${areas[@]}"; do
  script=e2e/peers/bench/$area.sh
  [ -x "$script" ] || { echo "error: no benchmark named $area; there are: $(ls e2e/peers/bench | sed 's/\.sh$//' | tr '\n' ' ')" >&2; exit 2; }
  echo "== $area"
  "$script"
done
