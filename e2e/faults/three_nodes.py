#!/usr/bin/env python3
"""Three members of TinyKV under `aistack up`: `e2e/three_nodes.sh` runs this with the folder of the built programs."""
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from stack import ROOT, Stack, check_error, wait_for

MANIFEST = "examples/three-nodes.yaml"
NAMES = ["tinykv-0", "tinykv-1", "tinykv-2"]


def text64(text):
    return base64.b64encode(text.encode()).decode()


class Member:
    """A member, spoken to through etcd's JSON gateway."""

    def __init__(self, pod):
        self.name = pod["name"]
        self.pid = pod["process"]["pid"]
        self.ports = dict(pod["ports"])

    def post(self, path, body, seconds=300):
        url = f"http://127.0.0.1:{self.ports['client']}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=seconds) as answer:
            return json.load(answer)

    def leads(self):
        try:
            status = self.post("/v3/maintenance/status", {})
        except OSError:
            return False
        return status.get("leader", "0") == status["header"]["member_id"]

    def get(self, key):
        """The value, linearizably; waits for a leader."""
        def read():
            try:
                return self.post("/v3/kv/range", {"key": text64(key)})
            except OSError:
                return None
        found = wait_for(f"{self.name} reads", read).get("kvs")
        return base64.b64decode(found[0]["value"]).decode() if found else None


def members(stack):
    pods = stack.pods()
    return [Member(pods[name]) for name in NAMES]


def leader(stack):
    return wait_for("a leader", lambda: next((member for member in members(stack) if member.leads()), None))


class Writer(threading.Thread):
    """Writes through any member that takes it, and notes what was acknowledged."""

    def __init__(self, stack):
        super().__init__()
        self.members = members(stack)
        self.acknowledged = {}
        self.failed = 0
        self.ended = threading.Event()

    def run(self):
        number = 0
        while not self.ended.is_set():
            number += 1
            key, value = f"ledger/{number:06}", f"{number}"
            try:
                self.members[number % 3].post("/v3/kv/put", {"key": text64(key), "value": text64(value)})
                self.acknowledged[key] = value
            except OSError:  # Whether it was written is unknown; another member is next.
                self.failed += 1
                time.sleep(0.01)

    def goes_on(self):
        so_far = len(self.acknowledged)
        wait_for("writes go on", lambda: len(self.acknowledged) >= so_far + 20)


def killed_in_turn(stack):
    """The leader first, twice; then whoever is left: asks and writes go on, and what was acknowledged is there."""
    said = []
    writer = Writer(stack)
    writer.start()
    try:
        left = set(NAMES)
        for round in range(4):
            leading = leader(stack)
            name = leading.name if round < 2 or not left else sorted(left)[0]
            left.discard(name)
            writer.goes_on()
            old = stack.pods()[name]
            asking = subprocess.Popen(
                [stack.bin / "aistack", "ask", "--rag", "handbook", "How much does lunch cost?"], cwd=ROOT,
                env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            os.kill(old["process"]["pid"], signal.SIGKILL)
            begun = time.monotonic()
            code, text = stack.ask()
            assert code == 0 and "office/kitchen.md" in text, f"an ask after the end of {name}: {code}\n{text}"
            code, text = stack.hub("rag", "list")
            assert code == 0 and "handbook" in text, f"the registry after the end of {name}: {code}\n{text}"
            writer.goes_on()
            took = time.monotonic() - begun
            text, _ = asking.communicate(timeout=900)
            assert asking.returncode == 0, f"the ask in the middle of the end of {name}: {asking.returncode}\n{text}"
            wait_for(f"{name} runs again", lambda: stack.pods()[name]["process"]["pid"] not in (0, old["process"]["pid"]))
            wait_for("every pod is Ready", stack.all_ready)
            assert stack.pods()[name]["ports"] == old["ports"], "at the ports that the others know"
            said.append(f"{name}{' (leader)' if name == leading.name else ''} {took:.1f} s")
    finally:
        writer.ended.set()
        writer.join()
    lost(stack, writer.acknowledged)
    return f"{', '.join(said)}; {len(writer.acknowledged)} writes acknowledged, none lost, {writer.failed} to be tried again", writer


def lost(stack, acknowledged):
    """Every member has every acknowledged write."""
    for member in members(stack):
        member.get("ledger/000001")  # A linearizable read: it has caught up with all that was acknowledged.
        pages, key = {}, "ledger/"
        while True:
            answer = member.post("/v3/kv/range", {"key": text64(key), "range_end": text64("ledger0"), "limit": "1000"})
            for found in answer.get("kvs", []):
                key = base64.b64decode(found["key"]).decode()
                pages[key] = base64.b64decode(found["value"]).decode()
            if not answer.get("more"):
                break
            key += "\0"
        missing = [key for key, value in acknowledged.items() if pages.get(key) != value]
        assert not missing, f"{member.name} lost {len(missing)}: {missing[:5]}"


def looked_at(stack):
    """Three rows, one of them the leader's; the hub knows all three."""
    def table():
        code, text = stack.run("status")
        return code == 0 and text
    text = wait_for("status is Ready", table)
    rows = [line for line in text.splitlines() if line.strip().startswith("member ")]
    assert [row.split()[1] for row in rows] == NAMES, text
    assert sum(" leader " in row for row in rows) == 1 and sum(" follower " in row for row in rows) == 2, text
    cluster = next(line for line in text.splitlines() if "KVCluster" in line)
    assert " 3/3 " in cluster and " leader tinykv-" in cluster, text
    hub = (stack.state / "aistack" / stack.name / "pods/modelhub-0/config/modelhub.yaml").read_text()
    for member in members(stack):
        assert f"http://127.0.0.1:{member.ports['client']}" in hub, hub
    listed = members(stack)[0].post("/v3/cluster/member/list", {})["members"]
    assert sorted(one["name"] for one in listed) == NAMES, listed
    return cluster.strip()


def again(stack, writer):
    """Down and up: the same members at the same peer ports, with the same data."""
    before = {member.name: (member.ports["peer"], member.post("/v3/maintenance/status", {})["header"]["member_id"])
              for member in members(stack)}
    code, text = stack.down()
    assert code == 0, text
    stack.up()
    after = {member.name: (member.ports["peer"], member.post("/v3/maintenance/status", {})["header"]["member_id"])
             for member in members(stack)}
    assert before == after, (before, after)
    lost(stack, writer.acknowledged)
    assert stack.asks_well()
    return "the same members, ports and data"


def another_number(stack):
    """Fewer or more members than have data are refused before anything starts."""
    code, text = stack.down()
    assert code == 0, text
    manifest = (ROOT / MANIFEST).read_text()
    for replicas in (1, 5):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(manifest.replace("{replicas: 3,", f"{{replicas: {replicas},"))
            file.flush()
            code, text = stack.run("up", "--detach", "--port", stack.port, "-f", file.name)
        assert code == 2 and "founded with 3 members" in text and f"says replicas: {replicas}" in text, (code, text)
        check_error(text)
    return text.splitlines()[0]


def a_lost_volume(stack):
    """The runbook of docs/tinykv.md: a member without its data does not come back as itself, and is replaced by a new one."""
    name = "tinykv-2"
    shutil.rmtree(stack.state / "aistack" / stack.name / "volumes" / f"data-{name}")
    code, text = stack.run("up", "--detach", "--port", stack.port, "-f", stack.manifest)
    assert code == 4 and "has already been bootstrapped" in text, (code, text)
    text = stack.good("logs", name)
    assert "etcdctl member remove" in text and "--initial-cluster-state existing" in text, text
    assert wait_for("two of three are enough", stack.asks_well)
    present = members(stack)[0]
    listed = {one["name"]: one for one in present.post("/v3/cluster/member/list", {})["members"]}
    present.post("/v3/cluster/member/remove", {"ID": listed[name]["ID"]})
    present.post("/v3/cluster/member/add", {"peerURLs": listed[name]["peerURLs"]})
    code, text = stack.down()
    assert code == 0, text
    stack.environment["TINYKV_INITIAL_CLUSTER_STATE"] = "existing"
    stack.up()
    del stack.environment["TINYKV_INITIAL_CLUSTER_STATE"]
    assert members(stack)[2].get("ledger/000001") == "1", "the new member has the data"
    assert stack.asks_well()
    return "refused with what to do, then replaced by a new member"


def moved_to_one(stack):
    """docs/tinykv.md, "More members, or fewer": the keys are taken along by hand."""
    script = r"""
        etcdctl --endpoints "$OLD" get --prefix "" -w json > "$WORK/keys.json"
        aistack down
        rm -r "$XDG_STATE_HOME"/aistack/three-nodes/volumes/data-tinykv-*
        sed 's/{replicas: 3,/{replicas: 1,/' examples/three-nodes.yaml > "$WORK/one.yaml"
        aistack up --detach --port "$PORT" -f "$WORK/one.yaml"
        new=$({ aistack status -o json || [ $? -eq 4 ]; } | jq -r '.objects[] | select(.kind == "KVCluster").addresses[0]')
        jq -c '.kvs[] | {key, value}' "$WORK/keys.json" | grep -v "$LEDGER" |
          while read -r pair; do curl -fsS "http://$new/v3/kv/put" -d "$pair"; done
    """
    with tempfile.TemporaryDirectory() as work:
        environment = dict(
            stack.environment, WORK=work, PORT=str(stack.port), OLD=f"127.0.0.1:{members(stack)[0].ports['client']}", ETCDCTL_API="3",
            LEDGER=text64("ledger"), PATH=f"{stack.bin}:{os.environ['PATH']}")
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout
    assert [one["ready"] for one in stack.status()["objects"] if one["kind"] == "KVCluster"][0].endswith("/1")
    # The hub reads its registry anew.
    assert wait_for("what was ingested is known to the new store", stack.asks_well)
    return "the registry, its passages and answers are there"


def main(bin_folder):
    stack = Stack(bin_folder, manifest=MANIFEST, name="three-nodes")
    # What is waited for here has minutes, however slow the machine is.
    stack.environment["MODELHUB_KV__TIMEOUT_MS"] = "240000"
    stack.environment["TINYKV_REQUEST_LIMITS__TIMEOUT_MS"] = "240000"

    def step(name, test, *arguments):
        begun = time.monotonic()
        said, *more = [out] if isinstance(out := test(*arguments), str) else out
        print(f"  {name:<16}{time.monotonic() - begun:5.1f} s   {said}", flush=True)
        return more[0] if more else None

    def begin():
        stack.up()
        code, text = stack.ingest()
        assert code == 0, text
        assert stack.asks_well()
        return "up, ingested, asked"

    try:
        step("up", begin)
        step("status", looked_at, stack)
        writer = step("kill -9", killed_in_turn, stack)
        step("down and up", again, stack, writer)
        step("other numbers", another_number, stack)
        step("a lost volume", a_lost_volume, stack)
        step("three to one", moved_to_one, stack)
    except BaseException:
        print(stack.run("logs", "--stack", stack.name, "--tail", "15")[1][-6000:], file=sys.stderr)
        raise
    finally:
        stack.down("--purge", "--stack", stack.name)
        shutil.rmtree(stack.state, ignore_errors=True)


main(*sys.argv[1:])
