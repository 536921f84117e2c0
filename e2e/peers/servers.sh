# Sourced by the scripts beside it: servers on free ports that stop with the script. The sourcing script is in the repository's root.
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bin=$CARGO_TARGET_DIR/release
work=$(mktemp -d)
pids=()

stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

# start NAME COMMAND…: in the background, its output in $work/NAME.log.
start() {
  local name=$1
  shift
  "$@" >"$work/$name.log" 2>&1 &
  pids+=($!)
}

# wait_for URL NAME: until it answers with success, for at most five minutes and as long as something that was started lives.
wait_for() {
  local until=$((SECONDS + 300))
  while [ $SECONDS -lt $until ] && kill -0 "${pids[@]}" 2>/dev/null; do
    curl --silent --fail --output /dev/null --max-time 10 "$1" && return 0
    sleep 0.2
  done
  echo "error: $2 did not become ready at $1; its log:" >&2
  tail -n 20 "$work/$2.log" >&2
  exit 1
}

# venv NAME: the Python of a virtual environment with the pinned requirements of e2e/peers/NAME.
venv() {
  local place=$HOME/.cache/aistack/venvs/$1
  [ -x "$place/bin/python" ] || python3 -m venv "$place"
  "$place/bin/pip" install --quiet --disable-pip-version-check --requirement "e2e/peers/$1/requirements.txt"
  echo "$place/bin/python"
}

# built_etcd: etcd 3.7.3, built from its Go module into the cache.
built_etcd() {
  local cache=$HOME/.cache/aistack/etcd
  mkdir -p "$cache"
  (cd e2e/peers/etcd && go build -o "$cache/etcd" ./cmd/etcd)
  echo "$cache/etcd"
}
