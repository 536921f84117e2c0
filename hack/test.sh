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

# The quickstart and the tour use the ports that their pages name.
for port in 8080 6333 2379; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "error: port $port is taken, and the tests of the quickstart need it; if your own stack runs: aistack down" >&2
    exit 1
  fi
done

# A machine has room for one plane with a node.
if [ -e /sys/class/net/aistack-plane ]; then
  echo 'error: a plane with a node is up, and the tests start one of their own; end it first: make plane-down' >&2
  exit 1
fi

# Kubernetes, CoreDNS and helm are built beside the other steps, with what they leave of the processors: a session of its own, as cheap as there is.
kubernetes=
if command -v go >/dev/null; then
  log=$(mktemp)
  setsid bash -c 'echo 19 >/proc/self/autogroup; exec nice -n 19 sh -c "hack/plane/plane.sh build-node && hack/helm.sh 4"' >"$log" 2>&1 &
  kubernetes=$!
  trap 'kill -- "-$kubernetes" 2>/dev/null || true; rm -f "$log"' EXIT
fi
kubernetes_is_built() { wait "$kubernetes" || { tail -n 20 "$log" >&2; return 1; }; }

step 'packages' hack/setup.sh run
step 'packages for tests' hack/setup.sh test
step 'formatting' cargo fmt --all --check
# Programs and tests at once: what takes longest, RocksDB, is not waited for alone.
step 'build' cargo build --release --workspace --bins --tests --examples
step 'models' "$CARGO_TARGET_DIR/release/xtask" models
step 'lints' cargo clippy --release --workspace --all-targets -- -D warnings
# Every kernel is compiled for its GPU and held against its limits; that needs no GPU.
step 'compiler for GPUs' hack/gpu/nvcc.sh
step 'lints for GPUs' cargo clippy --release -p tinykernels --features cuda --all-targets -- -D warnings
step 'kernels for GPUs' cargo test --release -p tinykernels --features cuda --lib --test compile_gate
step 'peers' e2e/peers/run.sh
step 'quickstart' e2e/quickstart.sh
step 'faults' e2e/faults.sh
step 'three nodes' e2e/three_nodes.sh
step 'tour' e2e/tour.sh
if [ -n "$kubernetes" ]; then step 'control plane' kubernetes_is_built; fi
step 'one node' e2e/quickstart_k8s.sh
step 'tests' cargo test --release --workspace --no-fail-fast
if ! command -v go >/dev/null; then
  echo 'note: there is no Go toolchain: every test that needs a control plane passed without having looked at anything' >&2
fi
