#!/usr/bin/env bash
# Other people's clients against one tinykv: etcdctl as Debian ships it (3.4), etcdctl 3.7 from its
# Go module, and Python's etcd3.
#   clients.sh PATH_TO_TINYKV
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tinykv=${1:?path of the tinykv binary}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack
work=$(mktemp -d)
port=$("$here/../../../hack/free-port")
"$tinykv" --data-dir "$work/data" --listen-client-urls "http://127.0.0.1:$port" --admin-listen 127.0.0.1:0 \
  >"$work/log.txt" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 $server 2>/dev/null || { cat "$work/log.txt" >&2; exit 1; }
  sleep 0.1
done

says() { # says PATTERN COMMAND…: the command, whatever its exit status, prints something that matches
  local pattern=$1 output
  shift
  output=$("$@" 2>&1) || true
  grep -q -- "$pattern" <<<"$output" || { printf '%s\n  printed: %s\n  expected: %s\n' "$*" "$output" "$pattern" >&2; return 1; }
}

watch_says() { # watch_says PATTERN COMMAND…: a command that goes on by itself prints a matching line, and is ended then
  local pattern=$1 pid tries=0
  shift
  "$@" >"$work/watch.txt" 2>&1 &
  pid=$!
  until grep -q -- "$pattern" "$work/watch.txt"; do
    { kill -0 $pid && [ $((tries += 1)) -lt 3000 ]; } 2>/dev/null || { cat "$work/watch.txt" >&2; return 1; }
    sleep 0.1
  done
  kill $pid
  wait $pid 2>/dev/null || true
}

story() { # one walk through etcdctl; the argument list is the etcdctl to use
  local ctl=("$@" --endpoints "127.0.0.1:$port") lease revision
  "${ctl[@]}" del --prefix "" >/dev/null
  "${ctl[@]}" put a 1 >/dev/null
  "${ctl[@]}" put b 2 >/dev/null
  says '^1 2 $' sh -c '"$@" get --prefix "" --print-value-only | tr "\n" " "' sh "${ctl[@]}"
  printf 'version("a") = "1"\n\nput a one\n\nput a uno\n\n' | "${ctl[@]}" txn >/dev/null
  says '^one$' "${ctl[@]}" get a --print-value-only
  lease=$("${ctl[@]}" lease grant 100 | awk '{print $2}')
  "${ctl[@]}" put leased x --lease="$lease" >/dev/null
  says 'TTL(100)' "${ctl[@]}" lease keep-alive --once "$lease"
  says 'attached keys(\[leased\])' "${ctl[@]}" lease timetolive "$lease" --keys
  "${ctl[@]}" lease revoke "$lease" >/dev/null
  says '"count":0\|"revision":[0-9]*,"raft_term":[0-9]*}}' "${ctl[@]}" get leased -w json
  revision=$("${ctl[@]}" get a -w json | python3 -c 'import json,sys; print(json.load(sys.stdin)["kvs"][0]["mod_revision"])')
  watch_says '^PUT$' "${ctl[@]}" watch a --rev "$revision"
  "${ctl[@]}" compaction "$revision" >/dev/null
  says 'mvcc: required revision has been compacted' "${ctl[@]}" get a --rev 1
  says 'is healthy' "${ctl[@]}" endpoint health
  says '3\.7\.' "${ctl[@]}" endpoint status
  says started "${ctl[@]}" member list
  "${ctl[@]}" alarm list >/dev/null
  says 'listens to no peers' "${ctl[@]}" member promote 1
}

guarded() { # users, roles, locks and elections; the argument list is the etcdctl to use
  local ctl=("$@" --endpoints "127.0.0.1:$port" --command-timeout 120s --dial-timeout 60s)
  "${ctl[@]}" user add root:secret >/dev/null
  "${ctl[@]}" user grant-role root root >/dev/null
  "${ctl[@]}" user add ann:pass >/dev/null
  "${ctl[@]}" role add staff >/dev/null
  "${ctl[@]}" role grant-permission staff readwrite mine/ --prefix >/dev/null
  "${ctl[@]}" user grant-role ann staff >/dev/null
  "${ctl[@]}" auth enable >/dev/null
  local root=("${ctl[@]}" --user root:secret) ann=("${ctl[@]}" --user ann:pass)
  says 'user name is empty' "${ctl[@]}" get mine/a
  says 'invalid user ID or password' "${ctl[@]}" --user ann:guess get mine/a
  says '^OK$' "${ann[@]}" put mine/a 1
  says 'permission denied' "${ann[@]}" put yours/a 1
  says 'permission denied' "${ann[@]}" get --prefix ""
  says 'permission denied' "${ann[@]}" watch --prefix ""
  says 'permission denied' "${ann[@]}" role list
  says '^staff$' "${root[@]}" role list
  says '\[mine/, mine0)' "${root[@]}" role get staff
  says 'Roles: staff' "${ann[@]}" user get ann
  says 'root user\|invalid auth management' "${root[@]}" user delete root
  "${root[@]}" auth disable >/dev/null
  for user in root ann; do "${ctl[@]}" user delete $user >/dev/null; done
  "${ctl[@]}" role delete staff >/dev/null
  says '^held$' "${ctl[@]}" lock door echo held
  watch_says '^crown/' "${ctl[@]}" elect crown somebody
}

gateway() { # curl as etcd's documentation shows it
  local url=http://127.0.0.1:$port
  says '"revision"' curl -sL "$url/v3/kv/put" -X POST -d '{"key": "Zm9v", "value": "YmFy"}'
  says '"value":"YmFy"' curl -sL "$url/v3/kv/range" -X POST -d '{"key": "Zm9v"}'
  says '"count":"1"' curl -sL "$url/v3/kv/range" -X POST -d '{"key": "Zm9v", "range_end": "Zm9w"}'
  says '"succeeded":true' curl -sL "$url/v3/kv/txn" -X POST \
    -d '{"compare":[{"target":"VERSION","key":"Zm9v","version":"1"}],"success":[{"requestRange":{"key":"Zm9v"}}]}'
  watch_says '"result":.*"created":true' curl -sN "$url/v3/watch" -X POST -d '{"create_request": {"key":"Zm9v"}}'
  says '"etcdserver":"3\.7' curl -s "$url/version"
  says '"health":"true"' curl -s "$url/health"
  says 'ok' curl -s "$url/readyz"
}

(cd "$here" && go build -o "$cache/etcd/etcdctl" go.etcd.io/etcd/etcdctl/v3)
story "$cache/etcd/etcdctl"
guarded "$cache/etcd/etcdctl"
gateway
echo "etcdctl $("$cache/etcd/etcdctl" version | head -1 | awk '{print $3}'): ok"
if debian=$(command -v etcdctl); then
  story env ETCDCTL_API=3 "$debian"
  echo "etcdctl $(ETCDCTL_API=3 "$debian" version | head -1 | awk '{print $3}'): ok"
fi

venv=$cache/venv-etcd3
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python "$venv/bin/python" "$here/python/etcd3_client.py" 127.0.0.1 "$port"
