#!/usr/bin/env bash
# Runs every command of docs/tinykv.md in order, as a reader would, in a folder of its own.
#   page.sh FOLDER      the folder with the built programs
set -euo pipefail
bin=$(realpath "${1:?folder of the built programs}")
AISTACK=$(cd "$(dirname "$0")/../../.." && pwd)
export AISTACK
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack
work=$(mktemp -d)
finish() {
  code=$?
  cat "$work"/run/*.pid 2>/dev/null | xargs -r kill 2>/dev/null || true
  [ $code -eq 0 ] || { echo "error: a command of docs/tinykv.md failed; the last lines:" >&2; tail -n 25 "$work/log" >&2; tail -n 3 "$work"/run/*.log >&2; }
  rm -rf "$work"
  exit $code
}
trap finish EXIT
python3 "$AISTACK/e2e/peers/etcd/page.py" --check
for port in 12379 12380 12381 22379 22380 22381 32379 32380 32381 14379 14381; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "error: port $port is taken, and docs/tinykv.md uses it" >&2
    exit 1
  fi
done

# The environment of Python is kept between runs, and a build elsewhere is found.
[ -x "$cache/venv-etcd3/bin/python" ] || python3 -m venv "$cache/venv-etcd3"
awk '/^```sh$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$AISTACK/docs/tinykv.md" |
  sed -e "s|^python3 -m venv venv$|ln -s $cache/venv-etcd3 venv|" -e "s|\$AISTACK/target/release|$bin|" >"$work/script"
[ "$(wc -l <"$work/script")" -ge 60 ] || { echo "error: docs/tinykv.md holds hardly a command" >&2; exit 1; }
mkdir "$work/run"
cd "$work/run"
export CARGO_TARGET_DIR=${bin%/release}
# A reader's machine is quick; a machine that tests may stall.
export ETCDCTL_COMMAND_TIMEOUT=120s ETCDCTL_DIAL_TIMEOUT=60s
PATH="$bin:$PATH" timeout 1200 bash -euxo pipefail "$work/script" >"$work/log" 2>&1
for client in go:2 rust:2 python:2 js:2; do
  times=${client#*:} client=${client%:*}
  [ "$(grep -c "^$client: ok" "$work/log")" -eq "$times" ] || { echo "error: the client $client did not pass $times times" >&2; exit 1; }
  echo "$client: ok"
done
echo "docs/tinykv.md: $(grep -c '^+ ' "$work/log") commands"
