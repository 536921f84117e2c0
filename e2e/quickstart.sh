#!/usr/bin/env bash
# The quickstart as a test: from the manifest to a cited answer, then what a user does next, then down without a trace.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
export XDG_STATE_HOME
XDG_STATE_HOME=$(mktemp -d)

finish() {
  code=$?
  if [ $code -ne 0 ]; then
    "$bin/aistack" logs --tail 20 2>/dev/null | tail -n 60 || true
  fi
  "$bin/aistack" down --purge >/dev/null 2>&1 || true
  rm -rf "$XDG_STATE_HOME"
  exit $code
}
trap finish EXIT

expect() { # expect PATTERN FILE: the file has a line that matches
  grep -Eq -- "$1" "$2" || { echo "error: no line matches: $1" >&2; cat "$2" >&2; exit 1; }
}

log=$(mktemp)
hack/quickstart.sh 2>&1 | tee "$log"
expect '\[1\] people/leave\.md:[0-9]+' "$log"
expect 'embed .*search .*prefill .*decode' "$log"

echo '-- again: it runs already, and answers within 30 s'
started=$SECONDS
hack/quickstart.sh >"$log" 2>&1
[ $((SECONDS - started)) -le 30 ] || { echo "error: the second run took $((SECONDS - started)) s" >&2; exit 1; }
expect 'people/leave\.md' "$log"

echo '-- status, the OpenAI endpoint, the registry in the store'
"$bin/aistack" status | tee "$log"
expect 'Ready' "$log"
curl -fsS http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
  -d '{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}' >"$log"
expect '"finish_reason"' "$log"
"$bin/aistack" status -o json >"$log"
endpoint=$(python3 -c 'import json,sys; print(json.dumps(json.load(open(sys.argv[1]))))' "$log" | grep -oE '127\.0\.0\.1:[0-9]+' | head -n 1)
[ -n "$endpoint" ]

echo '-- one ask is one trace over every component'
e2e/trace.py "$bin/aistack" handbook
if command -v go >/dev/null; then
  cache=$HOME/.cache/aistack/trace
  mkdir -p "$cache"
  (cd e2e/peers/trace && go build -o "$cache/check" .)
  "$bin/aistack" trace -o otlp >"$XDG_STATE_HOME/otlp.json"
  "$bin/aistack" trace -o jaeger >"$XDG_STATE_HOME/jaeger.json"
  "$cache/check" "$XDG_STATE_HOME/otlp.json" "$XDG_STATE_HOME/jaeger.json"
else
  echo '   no Go on this machine: the files were not read with the code of the Collector and of Jaeger'
fi

echo '-- retrieval on the question set'
"$bin/modelhub" rag eval handbook --questions examples/quickstart/questions.jsonl --source examples/quickstart/handbook --require 0.9 | tail -n 12

echo '-- every command of the page'
e2e/page.sh docs/modelhub.md

echo '-- a component is killed in the middle; the ask succeeds again when it is back'
kill -KILL "$("$bin/aistack" status -o json | jq '.pods[] | select(.name == "vectorforge-0").process.pid')"
for _ in $(seq 300); do
  if "$bin/aistack" ask --rag handbook 'How much does lunch cost?' >"$log" 2>&1; then break; fi
  sleep 0.1
done
expect 'office/kitchen\.md' "$log"

echo '-- down, and nothing is left'
pids=$("$bin/aistack" status -o json | jq '.pods[].process.pid')
"$bin/aistack" down
for pid in $pids; do
  if kill -0 "$pid" 2>/dev/null; then
    echo "error: process $pid is left: $(tr '\0' ' ' <"/proc/$pid/cmdline")" >&2
    exit 1
  fi
done

echo '-- without network, from nothing but the caches'
if command -v ip >/dev/null && unshare -rn true 2>/dev/null; then
  started=$SECONDS
  alone=$(mktemp -d)
  XDG_STATE_HOME=$alone unshare -rn bash -c "
    ip link set lo up
    hack/quickstart.sh || code=\$?
    '$bin/aistack' down --purge
    exit \${code:-0}" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
  rm -rf "$alone"
  expect '\[1\] people/leave\.md:[0-9]+' "$log"
  [ $((SECONDS - started)) -le 30 ] || { echo "error: without network it took $((SECONDS - started)) s" >&2; exit 1; }
else
  echo '   not run: no ip(8), or no namespaces for this user'
fi
echo 'quickstart: ok'
