#!/usr/bin/env bash
# Backups in object storage, by the storages' own protocols: taken, kept, found, restored, and refused in words. The servers are versitygw
# (S3, signatures checked), Azurite (Azure's, signatures checked) and, for what is read alone, fake-gcs-server (Google's protocol).
#   run.sh PATH_TO_TINYKV [s3|gcs|azure …]
# SHOW=1 prints every refusal.
set -euo pipefail
tinykv=$(realpath "${1:?path of the tinykv binary}")
shift
cd "$(dirname "$0")/../../.."
. e2e/peers/servers.sh
here=e2e/peers/storages
cache=$HOME/.cache/aistack/storages
export TMPDIR=$work/tmp
mkdir -p "$cache" "$TMPDIR"
failed=

expect() { # expect PATTERN COMMAND…: it fails within half a minute (or $within seconds), in words that match; they stay in $output
  local pattern=$1 status=0
  shift
  output=$(timeout "${within:-30}" "$@" 2>&1) || status=$?
  if [ $status = 0 ] || [ $status = 124 ] || ! grep -qi -- "$pattern" <<<"$output"; then
    printf '   %s\n   status %s, printed: %s\n   expected a failure that says: %s\n' "$*" $status "$output" "$pattern" >&2
    failed=1
    return 0
  fi
  [ -z "${SHOW:-}" ] || printf '   refused: %s\n' "$output"
}

# A TinyKV with 12 MB, which is more than storages take in one piece from us.
port=$(hack/free-port)
start tinykv "$tinykv" --data-dir "$work/data" --listen-client-urls "http://127.0.0.1:$port" --admin-listen 127.0.0.1:0
wait_for "http://127.0.0.1:$port/health" tinykv
head -c 1000000 /dev/urandom | base64 -w0 >"$work/value"
put() { # put KEY FILE, whose content is base64 already
  { printf '{"key":"%s","value":"' "$(base64 -w0 <<<"$1")"; cat "$2"; printf '"}'; } |
    curl --silent --show-error --fail --output /dev/null --data-binary @- "http://127.0.0.1:$port/v3/kv/put"
}
for number in $(seq 12); do put "large-$number" "$work/value"; done

# The state of a store at one endpoint, in one number.
hash_of() {
  curl --silent --fail --data '{}' "http://127.0.0.1:$1/v3/maintenance/hashkv" |
    python3 -c 'import json, sys; answer = json.load(sys.stdin); print(answer["hash"])'
}

# restored URL: what is there starts, and is what was backed up last.
restored() {
  local data=$work/restored-$RANDOM other
  "$tinykv" restore "$1" --data-dir "$data" >/dev/null
  other=$(hack/free-port)
  start restored "$tinykv" --data-dir "$data" --listen-client-urls "http://127.0.0.1:$other" --admin-listen 127.0.0.1:0
  wait_for "http://127.0.0.1:$other/health" restored
  if [ "$(hash_of "$other")" != "$(hash_of "$port")" ]; then
    echo "   $1: what was restored is not what was backed up" >&2
    failed=1
  fi
  kill "${pids[-1]}" && wait "${pids[-1]}" 2>/dev/null || true
  unset 'pids[-1]'
}

# relay NAME BYTES [SECONDS]: a way to the server at $at which dies after so many bytes, and is back later; at the port $by.
relay() {
  by=$(hack/free-port)
  start "$1" python3 $here/relay.py "$by" "$at" "${@:2}"
  until (exec 3<>"/dev/tcp/127.0.0.1/$by") 2>/dev/null; do sleep 0.1; done
}

# dying URL: the server dies while it is sent a backup, and while it sends one. It is back, and nobody notices; or it is not, and nothing is
# there by that name.
dying() {
  local url=$1 said name within=240
  relay back-soon 6000000 3
  said=$(env "$address=http://127.0.0.1:$by" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url/back-soon")
  restored "${said%%: revision*}"
  relay back-soon-too 6000000 3
  env "$address=http://127.0.0.1:$by" "$tinykv" restore "${said%%: revision*}" --data-dir "$work/through-$RANDOM" >/dev/null
  relay gone 6000000
  expect "cannot write to $url.*see whether the storage is up" env "$address=http://127.0.0.1:$by" \
    "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url/gone"
  name=$(grep -o 'tinykv-[0-9]*-revision-[0-9]*-[0-9a-f]*.db' <<<"$output" | head -n 1)
  expect 'no such backup' "$tinykv" restore "$url/gone/${name:-unnamed}" --data-dir "$work/half"
}

# slow URL: a line on which a backup takes longer than a request to a storage usually may.
slow() {
  local said
  RATE=350000 relay slow 1000000000
  said=$(env "$address=http://127.0.0.1:$by" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$1/slow")
  env "$address=http://127.0.0.1:$by" "$tinykv" restore "${said%%: revision*}" --data-dir "$work/slow-data" >/dev/null
  restored "${said%%: revision*}"
}

# What makes the credentials of a storage wrong is in `wrong`, what makes them none in `none`, both as arguments of env; the words of its
# refusals are in `says_wrong`, `says_none` and `missing`. `address` is the variable that has the server's address, whose port is in `at`.
# GIVE NAME FILE puts an object where the backups go.

# kept URL GIVE…: the last two of three are there, and so is all that is no backup of this cluster.
kept() {
  local url=$1 names=() said name number
  shift
  "$@" theirs.db "$work/value"
  "$@" another/tinykv-00000000000-revision-1.db "$work/value"
  for number in 1 2 3; do
    put "last" <(base64 -w0 <<<"$url $number")
    said=$("$tinykv" backup --endpoints "http://127.0.0.1:$port" --keep 2 "$url")
    name=${said%%: revision*}
    names+=("${name##*/}")
    sleep 1.1
  done
  restored "$url/${names[2]}"
  "$tinykv" restore "$url/${names[1]}" --data-dir "$work/before-$RANDOM" >/dev/null
  expect "cannot read $url/${names[0]}: there is no such backup" "$tinykv" restore "$url/${names[0]}" --data-dir "$work/gone"
  # Neither what others put there nor what lies in folders below was pruned: they are there, and no backups.
  expect "^error: $url/theirs.db.*no SHA-256" "$tinykv" restore "$url/theirs.db" --data-dir "$work/theirs"
  expect 'revision-1.db.*no SHA-256' "$tinykv" restore "$url/another/tinykv-00000000000-revision-1.db" --data-dir "$work/another"
}

# named URL: however a folder is written, and when two are taken at once.
named() {
  local url=$1 folder said first second
  for folder in "$url/" "$url/über uns/北京" "${url%/*}"; do
    said=$("$tinykv" backup --endpoints "http://127.0.0.1:$port" --keep 1 "$folder")
    restored "${said%%: revision*}"
  done
  expect 'left out of the path' "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url#1"
  "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url/at-once" >"$work/first" &
  first=$!
  "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url/at-once" >"$work/second" &
  second=$!
  wait $first
  wait $second
  for said in first second; do
    said=$(<"$work/$said")
    restored "${said%%: revision*}"
  done
}

# read_back URL GIVE…: a backup that was brought there; one that was cut short, and one with a byte changed.
read_back() {
  local url=$1
  shift
  "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$work/whole.db" >/dev/null
  "$@" whole.db "$work/whole.db"
  restored "$url/whole.db"
  head -c 5000001 "$work/whole.db" >"$work/cut.db"
  "$@" cut.db "$work/cut.db"
  expect "^error: $url/cut.db.*cut short" "$tinykv" restore "$url/cut.db" --data-dir "$work/cut"
  printf 'X' | dd of="$work/whole.db" bs=1 seek=5000000 conv=notrunc status=none
  "$@" changed.db "$work/whole.db"
  expect "^error: $url/changed.db.*is damaged" "$tinykv" restore "$url/changed.db" --data-dir "$work/changed"
}

# refused URL: there is no such bucket, and credentials are wrong or none.
refused() {
  local url=$1
  expect "$missing" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "${url%%://*}://nobody-made-this/kv"
  expect "$missing" "$tinykv" restore "${url%%://*}://nobody-made-this/kv/a.db" --data-dir "$work/missing"
  expect "$says_wrong" env "${wrong[@]}" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url"
  # The cloud that this machine might be in is asked, and may take its time to be none.
  within=150 expect "$says_none" env "${none[@]}" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url"
  if [ -n "$(ls "$TMPDIR")" ]; then
    echo '   something is left in the folder of temporary files' >&2
    failed=1
  fi
}

# walk URL GIVE…: the story of one storage.
walk() {
  kept "$@"
  named "$1"
  read_back "$@"
  dying "$1"
  refused "$1"
}

s3() {
  local at
  GOBIN=$cache go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
  at=$(hack/free-port)
  mkdir -p "$work/s3/backups"
  start s3 env ROOT_ACCESS_KEY=team ROOT_SECRET_KEY=team-secret "$cache/versitygw" --port "127.0.0.1:$at" posix "$work/s3"
  until (exec 3<>"/dev/tcp/127.0.0.1/$at") 2>/dev/null; do sleep 0.1; done
  give() {
    curl --silent --show-error --fail --output /dev/null --aws-sigv4 aws:amz:us-east-1:s3 --user team:team-secret \
      --header "x-amz-content-sha256: $(sha256sum <"$2" | cut -d' ' -f1)" --upload-file "$2" "http://127.0.0.1:$at/backups/kv/$1"
  }
  export AWS_ACCESS_KEY_ID=team AWS_SECRET_ACCESS_KEY=team-secret AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:$at
  wrong=(AWS_SECRET_ACCESS_KEY=another) says_wrong='credentials are wrong.*AWS_SECRET_ACCESS_KEY.*SignatureDoesNotMatch'
  none=(-u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY) says_none='no credentials in the environment (AWS_ACCESS_KEY_ID'
  missing='no such bucket' address=AWS_ENDPOINT_URL
  walk s3://backups/kv give
  slow s3://backups/kv
}

gcs() {
  local at
  GOBIN=$cache go install github.com/fsouza/fake-gcs-server@v1.56.1
  at=$(hack/free-port)
  start gcs "$cache/fake-gcs-server" -scheme http -host 127.0.0.1 -port "$at" -backend memory -public-host "127.0.0.1:$at"
  until (exec 3<>"/dev/tcp/127.0.0.1/$at") 2>/dev/null; do sleep 0.1; done
  curl --silent --show-error --fail --output /dev/null --json '{"name": "backups"}' "http://127.0.0.1:$at/storage/v1/b"
  give() {
    curl --silent --show-error --fail --output /dev/null --data-binary "@$2" --header 'content-type: application/octet-stream' \
      "http://127.0.0.1:$at/upload/storage/v1/b/backups/o?uploadType=media&name=kv/${1//\//%2F}"
  }
  # A key as Google's console hands it out, of an account that nobody has.
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$work/key.pem" 2>/dev/null
  GOOGLE_SERVICE_ACCOUNT_KEY=$(python3 -c 'import json, sys; print(json.dumps({"type": "service_account", "project_id": "team",
    "private_key_id": "1", "private_key": open(sys.argv[1]).read(), "client_email": "kv@team.iam.gserviceaccount.com", "client_id": "1"}))' "$work/key.pem")
  export GOOGLE_SERVICE_ACCOUNT_KEY GOOGLE_BASE_URL=http://127.0.0.1:$at
  wrong=(GOOGLE_SERVICE_ACCOUNT_KEY='{"private_key": "none"') says_wrong='service account'
  none=(-u GOOGLE_SERVICE_ACCOUNT_KEY) says_none='no credentials in the environment (GOOGLE_APPLICATION_CREDENTIALS'
  missing='no such bucket' address=GOOGLE_BASE_URL
  # The server has Google's own protocol for reading and listing, and not for writing (fsouza/fake-gcs-server#331).
  read_back gs://backups/kv give
  refused gs://backups/kv
}

azure() {
  local at
  npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --prefix "$cache/azurite" azurite@3.37.0
  at=$(hack/free-port)
  export AZURE_STORAGE_ACCOUNT=team AZURE_STORAGE_KEY
  AZURE_STORAGE_KEY=$(head -c 64 /dev/urandom | base64 -w0)
  start azure env "AZURITE_ACCOUNTS=team:$AZURE_STORAGE_KEY" "$cache/azurite/node_modules/.bin/azurite-blob" --silent --disableTelemetry \
    --blobHost 127.0.0.1 --blobPort "$at" --location "$work/azure"
  until (exec 3<>"/dev/tcp/127.0.0.1/$at") 2>/dev/null; do sleep 0.1; done
  python3 $here/azure.py PUT "http://127.0.0.1:$at/team/backups?restype=container"
  give() { python3 $here/azure.py PUT "http://127.0.0.1:$at/team/backups/kv/$1" "$2"; }
  export AZURE_STORAGE_USE_EMULATOR=true AZURITE_BLOB_STORAGE_URL=http://127.0.0.1:$at
  wrong=("AZURE_STORAGE_KEY=$(head -c 64 /dev/urandom | base64 -w0)") says_wrong='credentials are wrong.*AZURE_STORAGE_KEY'
  # The emulator's own account is none of this one's.
  none=(-u AZURE_STORAGE_ACCOUNT -u AZURE_STORAGE_KEY) says_none='credentials are wrong\|no such container'
  missing='no such container' address=AZURITE_BLOB_STORAGE_URL
  walk az://backups/kv give
}

for storage in ${*:-s3 gcs azure}; do
  case $storage in azure) builds=npm ;; *) builds=go ;; esac
  if command -v $builds >/dev/null; then
    echo "-- $storage"
    $storage
  else
    echo "-- $storage: no $builds on this machine, so its server is not there"
  fi
done
[ -z "$failed" ] || { echo 'error: something above was not as expected' >&2; exit 1; }
echo 'backups in object storage: all as expected'
