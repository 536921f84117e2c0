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

status_json() { "$bin/aistack" status -o json || [ $? -eq 4 ]; } # 4: not all is Ready

# Thirty seconds are the aim on a machine of its own; CI's may be ten times slower, and stall.
within_the_aim() { # within_the_aim STARTED WHAT
  local took=$((SECONDS - $1))
  echo "   $2 took $took s (the aim: 30 s)"
  [ $took -le 300 ] || { echo "error: $2 took $took s" >&2; exit 1; }
}

log=$(mktemp)
hack/quickstart.sh 2>&1 | tee "$log"
expect '\[1\] people/leave\.md:[0-9]+' "$log"
expect 'embed .*search .*prefill .*decode' "$log"

echo '-- again: it runs already'
started=$SECONDS
hack/quickstart.sh >"$log" 2>&1
within_the_aim $started 'the second run'
expect 'people/leave\.md' "$log"
expect 'is up already' "$log"
expect '0 sent, [0-9]+ unchanged' "$log"

echo '-- status, the OpenAI endpoint, the registry in the store'
# A pod may miss a probe on a machine that stalls, and be Ready again.
until=$((SECONDS + 300))
until "$bin/aistack" status >"$log" || [ $SECONDS -ge $until ]; do sleep 1; done
cat "$log"
expect ' Ready 5/5 ' "$log"
curl -fsS http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
  -d '{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}' >"$log"
expect '"finish_reason"' "$log"
status_json >"$log"
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
kill -KILL "$(status_json | jq '.pods[] | select(.name == "vectorforge-0").process.pid')"
until=$((SECONDS + 300))
until "$bin/aistack" ask --rag handbook 'How much does lunch cost?' >"$log" 2>&1 || [ $SECONDS -ge $until ]; do sleep 0.1; done
expect 'office/kitchen\.md' "$log"

echo '-- down, and nothing is left'
pids=$(status_json | jq '.pods[].process.pid')
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
  within_the_aim $started 'a start without network'
else
  echo '   not run: no ip(8), or no namespaces for this user'
fi
echo 'quickstart: ok'
