#!/usr/bin/env bash
# Backups in object storage, by the storages' own protocols: taken, kept, found, restored, and refused in words. The servers are versitygw
# (S3, signatures checked), fake-gcs-server (Google's protocol, credentials taken and not checked) and Azurite (Azure's, signatures checked).
#   run.sh PATH_TO_TINYKV
set -euo pipefail
tinykv=$(realpath "${1:?path of the tinykv binary}")
cd "$(dirname "$0")/../../.."
. e2e/peers/servers.sh
here=e2e/peers/storages
cache=$HOME/.cache/aistack/storages
mkdir -p "$cache"
failed=

expect() { # expect PATTERN COMMAND…: it fails within half a minute, in words that match
  local pattern=$1 output status=0
  shift
  output=$(timeout 30 "$@" 2>&1) || status=$?
  if [ $status = 0 ] || [ $status = 124 ] || ! grep -qi -- "$pattern" <<<"$output"; then
    printf '   %s\n   status %s, printed: %s\n   expected a failure that says: %s\n' "$*" $status "$output" "$pattern" >&2
    failed=1
    return 0
  fi
  [ -z "${SHOW:-}" ] || printf '   refused: %s\n' "$output"
}

# A TinyKV with 12 MiB, which is more than storages take in one piece from us.
port=$(hack/free-port)
start tinykv "$tinykv" --data-dir "$work/data" --listen-client-urls "http://127.0.0.1:$port" --admin-listen 127.0.0.1:0
wait_for "http://127.0.0.1:$port/health" tinykv
head -c 1000000 /dev/urandom | base64 -w0 >"$work/value"
put() { # put KEY FILE, whose content is base64 already
  { printf '{"key":"%s","value":"' "$(base64 -w0 <<<"$1")"; cat "$2"; printf '"}'; } |
    curl --silent --fail --output /dev/null --data-binary @- "http://127.0.0.1:$port/v3/kv/put"
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

# walk URL GIVE…: the story of one storage. GIVE NAME FILE puts an object beside the backups. What makes the credentials wrong is in `wrong`,
# what makes them none in `none`, both as arguments of env; the words of its refusals are in `says_wrong` and `says_none`.
walk() {
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
  expect "${names[0]}.*not found" "$tinykv" restore "$url/${names[0]}" --data-dir "$work/gone"
  # Neither what others put there nor what lies in folders below was pruned: they are there, and no backups.
  expect 'theirs.db.*no SHA-256' "$tinykv" restore "$url/theirs.db" --data-dir "$work/theirs"
  expect 'revision-1.db.*no SHA-256' "$tinykv" restore "$url/another/tinykv-00000000000-revision-1.db" --data-dir "$work/another"
  # One that was cut short, and one with a byte changed.
  "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$work/whole.db" >/dev/null
  head -c 5000001 "$work/whole.db" >"$work/cut.db"
  "$@" cut.db "$work/cut.db"
  expect 'cut.db.*cut short' "$tinykv" restore "$url/cut.db" --data-dir "$work/cut"
  printf 'X' | dd of="$work/whole.db" bs=1 seek=5000000 conv=notrunc status=none
  "$@" changed.db "$work/whole.db"
  expect 'changed.db is damaged' "$tinykv" restore "$url/changed.db" --data-dir "$work/changed"
  expect "$missing" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "${url%%://*}://nobody-made-this/kv"
  expect "$missing" "$tinykv" restore "${url%%://*}://nobody-made-this/kv/a.db" --data-dir "$work/missing"
  expect "$says_wrong" env "${wrong[@]}" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url"
  expect "$says_none" env "${none[@]}" "$tinykv" backup --endpoints "http://127.0.0.1:$port" "$url"
  if [ -n "$(find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'tinykv-*' -newer "$work/value" 2>/dev/null)" ]; then
    echo '   something is left in the folder of temporary files' >&2
    failed=1
  fi
}

s3() {
  local at
  GOBIN=$cache go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
  at=$(hack/free-port)
  mkdir -p "$work/s3/backups"
  start s3 env ROOT_ACCESS_KEY=team ROOT_SECRET_KEY=team-secret "$cache/versitygw" --port "127.0.0.1:$at" posix "$work/s3"
  until (exec 3<>"/dev/tcp/127.0.0.1/$at") 2>/dev/null; do sleep 0.1; done
  give() {
    curl --silent --fail --output /dev/null --aws-sigv4 aws:amz:us-east-1:s3 --user team:team-secret --upload-file "$2" \
      "http://127.0.0.1:$at/backups/kv/$1"
  }
  export AWS_ACCESS_KEY_ID=team AWS_SECRET_ACCESS_KEY=team-secret AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:$at
  wrong=(AWS_SECRET_ACCESS_KEY=another) says_wrong='SignatureDoesNotMatch'
  none=(-u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY) says_none='credential'
  missing='NoSuchBucket\|bucket does not exist'
  walk s3://backups/kv give
}

gcs() {
  local at
  GOBIN=$cache go install github.com/fsouza/fake-gcs-server@v1.56.1
  at=$(hack/free-port)
  start gcs "$cache/fake-gcs-server" -scheme http -host 127.0.0.1 -port "$at" -backend memory -public-host "127.0.0.1:$at"
  until (exec 3<>"/dev/tcp/127.0.0.1/$at") 2>/dev/null; do sleep 0.1; done
  curl --silent --fail --output /dev/null --json '{"name": "backups"}' "http://127.0.0.1:$at/storage/v1/b"
  give() {
    curl --silent --fail --output /dev/null --data-binary "@$2" --header 'content-type: application/octet-stream' \
      "http://127.0.0.1:$at/upload/storage/v1/b/backups/o?uploadType=media&name=kv/${1//\//%2F}"
  }
  # A key as Google's console hands it out, of an account that nobody has.
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$work/key.pem" 2>/dev/null
  GOOGLE_SERVICE_ACCOUNT_KEY=$(python3 -c 'import json, sys; print(json.dumps({"type": "service_account", "project_id": "team",
    "private_key_id": "1", "private_key": open(sys.argv[1]).read(), "client_email": "kv@team.iam.gserviceaccount.com", "client_id": "1"}))' "$work/key.pem")
  export GOOGLE_SERVICE_ACCOUNT_KEY GOOGLE_BASE_URL=http://127.0.0.1:$at
  wrong=(GOOGLE_SERVICE_ACCOUNT_KEY='{"private_key": "none"') says_wrong='service account'
  none=(-u GOOGLE_SERVICE_ACCOUNT_KEY) says_none='credential\|token'
  missing='not found'
  walk gs://backups/kv give
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
  wrong=("AZURE_STORAGE_KEY=$(head -c 64 /dev/urandom | base64 -w0)") says_wrong='AuthorizationFailure\|AuthenticationFailed'
  # The emulator's own account is none of this one's.
  none=(-u AZURE_STORAGE_ACCOUNT -u AZURE_STORAGE_KEY) says_none='AuthorizationFailure\|AuthenticationFailed\|ResourceNotFound\|InvalidUri\|403\|400\|404'
  missing='ContainerNotFound'
  walk az://backups/kv give
}

if command -v go >/dev/null; then
  echo '-- S3: versitygw'
  s3
  echo '-- Google Cloud Storage: fake-gcs-server'
  gcs
else
  echo '-- S3 and Google Cloud Storage: no Go on this machine, so their servers were not built'
fi
if command -v npm >/dev/null; then
  echo '-- Azure: Azurite'
  azure
else
  echo '-- Azure: no npm on this machine, so its server was not installed'
fi
[ -z "$failed" ] || { echo 'error: something above was not as expected' >&2; exit 1; }
echo 'backups in object storage: all as expected'
