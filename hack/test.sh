#!/usr/bin/env bash
# Everything that CI runs. Each step prints its name and its time; the first failure ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

step() {
  local name=$1 started=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "== $name: $((SECONDS - started)) s"
}

step 'packages' hack/setup.sh run
step 'packages for tests' hack/setup.sh test
step 'formatting' cargo fmt --all --check
step 'build' cargo build --release --workspace --bins
step 'models' "$CARGO_TARGET_DIR/release/xtask" models
step 'lints' cargo clippy --release --workspace --all-targets -- -D warnings
step 'peers' e2e/peers/run.sh
step 'quickstart' e2e/quickstart.sh
step 'faults' e2e/faults.sh
step 'tour' e2e/tour.sh
step 'tests' cargo test --release --workspace --no-fail-fast
