"""The platform on a real node, after the quickstart: every pod's process is killed, the node drained, all images upgraded, the stack deleted
and made again, while somebody asks and somebody writes.

    node.py PLANE CTR NEXT HELM

KUBECONFIG points at the plane in the folder PLANE; CTR is containerd's client; NEXT is the tag that the upgrade goes to; HELM the program.

An ask may fail from the moment that something of the stack is taken away until every pod is Ready and an ask has succeeded again: a stack
of one replica each promises no more. It may fail at no other time, and not at all when only the operator is away. A write that was
acknowledged is there at the end.
"""

import base64
import json
import pathlib
import sys
import threading
import time

import cluster
from cluster import BEGAN, ROOT, is_ready, kubectl, listed, passed, patch, post, run, until

PLANE, CTR, NEXT, HELM = pathlib.Path(sys.argv[1]), *sys.argv[2:5]
TEAM, SYSTEM = "team", "aistack-system"


def address(service):
    return cluster.address(service, TEAM)


def restarts(pod):
    return sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))


class Worker(threading.Thread):
    """Does something again and again, and remembers when it began and ended and whether it succeeded."""

    def __init__(self, once):
        super().__init__(daemon=True)
        self.once, self.done, self.ended = once, [], threading.Event()

    def run(self):
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                self.once()
                error = None
            except OSError as failure:
                error = f"{failure} {failure.read()[:200]!r}" if hasattr(failure, "read") else repr(failure)
            self.done.append((began, time.monotonic(), error))
            self.ended.wait(0.1 if error is None else 0.3)

    def succeeds(self):
        """An attempt that begins now and later succeeds."""
        now = time.monotonic()
        until("a request succeeds", lambda: any(began > now and error is None for began, _, error in list(self.done)))


class Writes:
    """Keys put through the store's Service, one after the other."""

    def __init__(self):
        self.kept = []

    def once(self):
        number = len(self.kept)
        key, value = f"walk/{number:06}", f"value-{number}"
        post(f"http://{address_of['tinykv']}:2379/v3/kv/put", {"key": coded(key), "value": coded(value)})
        self.kept.append((key, value))

    def check(self):
        reply = post(f"http://{address_of['tinykv']}:2379/v3/kv/range", {"key": coded("walk/"), "range_end": coded("walk0")})
        there = {(one["key"], one["value"]) for one in reply.get("kvs", [])}
        lost = [key for key, value in self.kept if (coded(key), coded(value)) not in there]
        assert not lost, f"acknowledged and lost: {lost[:5]} and {len(lost)} in all"
        return len(self.kept)


class Points:
    """The same in the vector database, through Qdrant's protocol."""

    def __init__(self):
        self.kept = 0

    def url(self, rest=""):
        return f"http://{address_of['vectorforge']}:6333/collections/walk{rest}"

    def make(self):
        post(self.url(), {"vectors": {"size": 4, "distance": "Cosine"}}, "PUT")

    def once(self):
        number = self.kept + 1
        point = {"id": number, "vector": [number % 7 + 1, 1, 2, 3], "payload": {"n": number}}
        post(self.url("/points?wait=true"), {"points": [point]}, "PUT")
        self.kept = number

    def check(self):
        lost = []
        for first in range(1, self.kept + 1, 500):
            ids = list(range(first, min(first + 500, self.kept + 1)))
            there = {one["id"]: one["payload"]["n"] for one in post(self.url("/points"), {"ids": ids, "with_payload": True})["result"]}
            lost += [number for number in ids if there.get(number) != number]
        assert not lost, f"acknowledged and lost: points {lost[:5]}, {len(lost)} in all"
        return self.kept


def coded(text):
    return base64.b64encode(text.encode()).decode()


def ask():
    answer = post(f"http://{address_of['modelhub']}:8080/api/v1/rag/handbook/query",
                  {"question": "How many days in advance must leave be requested?", "stream": False})
    assert "leave.md" in json.dumps(answer), answer


address_of = {name: address(name) for name in ("modelhub", "tinykv", "vectorforge")}
writes, points = Writes(), Points()
asks, keys, vectors = Worker(ask), Worker(writes.once), Worker(points.once)
WORKERS = {"asks": asks, "puts": keys, "points": vectors}
# (from, to, what): when a request may fail.
windows = []


def all_ready():
    pods = listed("pods", TEAM)
    return len(pods) == 5 and all(is_ready(pod) for pod in pods) and cluster.stack_ready(TEAM)


class Away:
    """While the stack lacks something, and until it answers again, requests may fail."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        self.began = time.monotonic()

    def __exit__(self, kind, value, trace):
        if kind:
            return
        until(f"{self.what}: all pods are Ready", all_ready)
        for worker in WORKERS.values():
            worker.succeeds()
        ended = time.monotonic()
        windows.append((self.began, ended, self.what))
        failed = sum(1 for worker in WORKERS.values() for began, end, error in list(worker.done) if error and end >= self.began)
        slow = max((end - began, name, error) for name, worker in WORKERS.items() for began, end, error in list(worker.done) if end >= self.began)
        passed(f"{self.what}: all answer again after {ended - self.began:.1f} s; {failed} requests failed meanwhile; "
               f"the slowest was one of the {slow[1]}, {slow[0]:.1f} s ({slow[2] or 'answered'})")


def kill(pod):
    """kill -9 of a container's process, in the node's own numbering."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    tasks = run(CTR, "--address", str(PLANE / "containerd.sock"), "-n", "k8s.io", "task", "ls")
    pid = next(line.split()[1] for line in tasks.splitlines() if line.startswith(container))
    node = (PLANE / "node.pid").read_text().strip()
    first = run("pgrep", "-P", node).split()[0]
    run("nsenter", "-t", first, "-p", "-m", "kill", "-9", pid)


def killed(pod):
    name, namespace, before = pod["metadata"]["name"], pod["metadata"]["namespace"], restarts(pod)
    kill(pod)

    def came_back():
        now = [one for one in listed("pods", namespace) if one["metadata"]["name"] == name]
        return now and restarts(now[0]) > before and is_ready(now[0])

    until(f"{name} came back", came_back)


def every_pod():
    for pod in listed("pods", TEAM):
        with Away(f"kill -9 of {pod['metadata']['name']}"):
            killed(pod)
    began = time.monotonic()
    for pod in listed("pods", SYSTEM):
        killed(pod)
    asks.succeeds()
    blamed = [error for worker in WORKERS.values() for start, _, error in list(worker.done) if error and start > began]
    assert not blamed, f"without the operator requests fail: {blamed[:3]}"
    passed(f"kill -9 of both operators, in {time.monotonic() - began:.1f} s: no request failed")


def drained():
    with Away("the node is drained"):
        # Of two operators one must stay, and there is no other node for the other: the drain is the stack's.
        kubectl("drain", "plane", "--pod-selector", "app.kubernetes.io/managed-by=aistack-operator", "--delete-emptydir-data", "--timeout=300s")
        kubectl("uncordon", "plane")


def upgraded():
    with Away(f"all images go to {NEXT}"):
        run(HELM, "upgrade", "aistack", str(ROOT / "charts/aistack"), "--namespace", SYSTEM, "--reset-then-reuse-values", "--set", f"image.tag={NEXT}", "--wait")
        patch("stack", "quickstart", TEAM, {"spec": {"image": {"tag": NEXT}}})

        def on_next():
            pods = listed("pods", TEAM)
            return all(one["spec"]["containers"][0]["image"].endswith(f":{NEXT}") for one in pods) and all_ready()

        until(f"every pod runs {NEXT}", on_next)


def deleted():
    counts = writes.check(), points.check()
    with Away("the stack is deleted, and made again on its volumes"):
        kubectl("delete", "stack", "quickstart", "-n", TEAM, "--timeout=300s")
        for kind in ("pods", "statefulsets", "deployments", "services", "configmaps", "poddisruptionbudgets", "kv", "isvc", "vc"):
            ours = lambda kind=kind: [one["metadata"]["name"] for one in listed(kind, TEAM)
                                      if one["metadata"]["name"] != "kube-root-ca.crt"]
            until(f"no {kind} is left", lambda: not ours())
        claims = listed("persistentvolumeclaims", TEAM)
        assert len(claims) == 3, f"the volumes stay: {[one['metadata']['name'] for one in claims]}"
        kubectl("apply", "-n", TEAM, "-f", str(ROOT / "examples/quickstart/stack.yaml"))
        until("the stack is Ready again", all_ready)
        address_of.update({name: address(name) for name in address_of})
    after = writes.check(), points.check()
    assert after >= counts, (after, counts)
    passed(f"{after[0]} keys and {after[1]} points were acknowledged, and all are there")


def judged():
    """No request failed outside of the windows."""
    for name, worker in WORKERS.items():
        outside = [(round(began - BEGAN, 1), round(ended - BEGAN, 1), error) for began, ended, error in worker.done
                   if error and not any(since <= ended and began <= to for since, to, _ in windows)]
        assert not outside, f"{name} failed although nothing was away: {outside[:5]}"
        passed(f"{name}: {len(worker.done)}, of which {sum(1 for one in worker.done if one[2])} failed, all while something was away")


def main():
    points.make()
    for worker in WORKERS.values():
        worker.start()
    for worker in WORKERS.values():
        worker.succeeds()
    passed("asks, keys and points go through the Services")
    every_pod()
    drained()
    upgraded()
    deleted()
    for worker in WORKERS.values():
        worker.ended.set()
    for worker in WORKERS.values():
        worker.join()
    judged()
    writes.check(), points.check()


main()
