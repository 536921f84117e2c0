#!/usr/bin/env bash
# From nothing to a cited answer. Run again, it rebuilds nothing and starts at `up`.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
question=${QUESTION:-How many days in advance must leave be requested?}

hack/setup.sh run

# The build first: the chore that fetches models is part of it.
build() {
  local log started=$SECONDS
  if [ -t 1 ]; then
    cargo build --release --workspace --bins
  else
    printf '  %-8s%s' build 'tinykv vectorforge tinyinfer modelhub aistack …  '
    log=$(mktemp)
    if ! cargo build --release --workspace --bins >"$log" 2>&1; then
      echo failed
      tail -n 30 "$log" >&2
      exit 1
    fi
    printf 'ok   %d:%02d\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
    rm -f "$log"
  fi
}
# Without network but with everything fetched, cargo must not ask the registry.
if ! cargo fetch --locked --quiet 2>/dev/null; then
  export CARGO_NET_OFFLINE=true
fi
build

"$bin/xtask" models

"$bin/aistack" up --detach -f examples/quickstart/stack.yaml || [ $? -eq 3 ] # 3: it runs already

echo "  ingest  examples/quickstart/handbook"
printf '            '
"$bin/modelhub" rag ingest handbook examples/quickstart/handbook

printf '  ask     %s\n' "$question"
"$bin/aistack" ask --rag handbook "$question"

path=
case ":$PATH:" in *":$bin:"*) ;; *) path="export PATH=\"$bin:\$PATH\"        # so that the commands below are found
          " ;; esac
cat <<E2

  next    ${path}aistack ask --rag handbook "…"
          modelhub rag ingest docs ./my-docs
          aistack status
          aistack logs -f
          aistack down
E2
