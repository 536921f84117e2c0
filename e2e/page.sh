#!/usr/bin/env bash
# Runs every command of a page of docs/ in order, as a reader would, against the quickstart that is up:
#   e2e/page.sh docs/modelhub.md
set -euo pipefail
page=$(realpath "$1")
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk '/^```sh$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$page" >"$work/script"
[ -s "$work/script" ] || { echo "error: $page holds no command" >&2; exit 1; }
cd "$work"
if ! PATH="$CARGO_TARGET_DIR/release:$PATH" bash -euxo pipefail script >log 2>&1; then
  echo "error: a command of $page failed; the last lines:" >&2
  tail -n 20 log >&2
  exit 1
fi
if grep -q '"error":' log; then
  echo "error: a command of $page was refused:" >&2
  grep -B 2 '"error":' log >&2
  exit 1
fi
echo "$(basename "$page"): $(grep -c '^+ ' log) commands"
