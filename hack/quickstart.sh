#!/usr/bin/env bash
# From nothing to a cited answer. Run again, it rebuilds nothing and starts at `up`.
#   PORT=8090 make quickstart          when something else has port 8080
#   QUESTION='…' make quickstart       another question
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
question=${QUESTION:-How many days in advance must leave be requested?}

hack/setup.sh run

programs='tinykv vectorforge tinyinfer modelhub aistack'

# clock SECONDS: as m:ss.
clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# Reads what cargo prints, shows how far it is (in place on a terminal, a line a minute elsewhere), keeps the rest in a log.
build_progress() {
  local log=$1 piece done total bar said=$SECONDS
  while IFS= read -r -d $'\r' piece || [ -n "$piece" ]; do
    printf '%s\n' "$piece" >>"$log"
    [[ $piece =~ \ ([0-9]+)/([0-9]+) ]] || continue
    done=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]}
    if [ -t 1 ]; then
      printf -v bar '%*s' $((done * 20 / total)) ''
      printf '\r  %-8s%s   [%-20s] %d/%d   %s ' build "$programs" "${bar// /=}" "$done" "$total" "$(clock $((SECONDS - started)))"
    elif [ $((SECONDS - said)) -ge 60 ]; then
      said=$SECONDS
      printf '  %-8s%s   %d/%d   %s\n' build "$programs" "$done" "$total" "$(clock $((SECONDS - started)))"
    fi
  done
}

# The build first: the chore that fetches models is part of it.
build() {
  local log started=$SECONDS
  log=$(mktemp)
  # cargo counts its units on its progress line only, so it is asked for that line even without a terminal.
  if ! CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=80 CARGO_TERM_COLOR=never \
    cargo build --release --workspace --bins 2>&1 | build_progress "$log"; then
    printf '\n  %-8s%s   failed   %s\n' build "$programs" "$(clock $((SECONDS - started)))"
    grep -Ev '^ +Building \[|^ *(Compiling|Downloading|Downloaded) ' "$log" | tail -n 40 >&2
    rm -f "$log"
    exit 1
  fi
  [ ! -t 1 ] || printf '\r\033[K'
  printf '  %-8s%s   ok   %s\n' build "$programs" "$(clock $((SECONDS - started)))"
  rm -f "$log"
}
# Without network but with everything fetched, cargo must not ask the registry.
if ! cargo fetch --locked --quiet 2>/dev/null; then
  export CARGO_NET_OFFLINE=true
fi
build

"$bin/xtask" models

"$bin/aistack" up --detach --traces ${PORT:+--port "$PORT"} -f examples/quickstart/stack.yaml || [ $? -eq 3 ] # 3: it runs already
AISTACK_MODELHUB_URL=$({ "$bin/aistack" status --stack quickstart -o json || [ $? -eq 4 ]; } | # 4: not all is Ready
  python3 -c 'import json, sys; print(json.load(sys.stdin)["url"])')
export AISTACK_MODELHUB_URL

printf '  %-8s%s\n            ' ingest examples/quickstart/handbook
"$bin/modelhub" rag ingest handbook examples/quickstart/handbook

printf '  ask     %s\n' "$question"
"$bin/aistack" ask --rag handbook "$question"

path=
case ":$PATH:" in *":$bin:"*) ;; *) path="export PATH=\"$bin:\$PATH\"        # so that the commands below are found
          " ;; esac
case $AISTACK_MODELHUB_URL in *:8080) ;; *) path="${path}export AISTACK_MODELHUB_URL=$AISTACK_MODELHUB_URL
          " ;; esac
cat <<E2

  next    ${path}aistack ask --rag handbook "…"
          modelhub rag ingest docs ./my-docs
          aistack status
          aistack trace                     # where the time of that answer went
          aistack logs -f
          aistack down
E2
