#!/usr/bin/env bash
# Runs every command of docs/tour.md in order, as a reader would, in a state folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR XDG_STATE_HOME
bin=$CARGO_TARGET_DIR/release
XDG_STATE_HOME=$(mktemp -d)
script=$(mktemp)
log=$(mktemp)

finish() {
  code=$?
  "$bin/aistack" down --purge >/dev/null 2>&1 || true
  rm -rf "$XDG_STATE_HOME" "$script"
  [ $code -eq 0 ] || { echo "error: the tour broke off; its last lines:" >&2; tail -n 30 "$log" >&2; }
  exit $code
}
trap finish EXIT

# The page says target/release, which is where a reader's programs are; a build elsewhere comes first on the PATH.
awk '/^```sh$/ {inside = 1; next} /^```$/ {inside = 0} inside' docs/tour.md >"$script"
[ "$(wc -l <"$script")" -ge 20 ] || { echo "error: docs/tour.md holds hardly a command" >&2; exit 1; }
sed -i "s|\$PWD/target/release|$bin|" "$script"
bash -euxo pipefail "$script" >"$log" 2>&1

for wanted in 'people/leave\.md:[0-9]+' '^trace [0-9a-f]{32}' 'bicycles\.md:[0-9]+' '"finish_reason"' '"status":"green"' \
  '^/registry/' 'killed by SIGKILL|1 restart' 'office/kitchen\.md' 'stopped in' '^StatefulSet'; do
  grep -Eq -- "$wanted" "$log" || { echo "error: no line of the tour matches: $wanted" >&2; exit 1; }
done
echo "tour: $(grep -c '^+ ' "$log") commands"
