"""InferenceServices on a real node, as somebody with kubectl and a stack uses them: versions from the registry, a canary that is taken back, one
that is promoted by hand and one that takes over by itself, sleep and a request that is held, weights from an address, and what is said when
something is wrong.

    models.py PROGRAMS HERE

KUBECONFIG points at a plane with a node and the quickstart's stack; PROGRAMS is the folder with ours; HERE this machine's address as pods
see it.
"""

import functools
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import time

from cluster import PATIENCE, address, attempt, chat, condition, holds, kubectl, listed, one, passed, patch, run, series, until

PROGRAMS, HERE = pathlib.Path(sys.argv[1]), sys.argv[2]
TEAM = "team"
MODELS = pathlib.Path(os.environ.get("AISTACK_MODELS") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "aistack/models")
WEIGHTS = MODELS / "smollm2-135m-instruct"
NAME = "helper"


def plugin(*arguments):
    """`kubectl aistack …`, which kubectl finds on the PATH."""
    return run("kubectl", "aistack", *arguments, "-n", TEAM)


def apply(spec, name=NAME):
    service = {"apiVersion": "platform.dev/v1", "kind": "InferenceService", "metadata": {"name": name, "namespace": TEAM},
               "spec": {"stackRef": {"name": "quickstart"}, **spec}}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(service))


def service(name=NAME):
    return one("isvc", name, TEAM)


def says(kind, reason, name=NAME):
    """Whether a condition has a reason; the whole condition when it does."""
    said = condition(service(name), kind)
    return said if said.get("reason") == reason else None


def pods(version=None, name=NAME):
    """Those of a service, or of one version of it, that are not on their way out."""
    prefix = f"tinyinfer-{name}" + (f"-v{version}-" if version else "")
    return [pod for pod in listed("pods", TEAM) if pod["metadata"]["name"].startswith(prefix) and "deletionTimestamp" not in pod["metadata"]]


def served():
    """Requests by version, as the hub counted them."""
    hub = next(pod for pod in listed("pods", TEAM) if pod["metadata"]["name"] == "modelhub-0")
    total = {}
    for labels, value in series(hub, 8081, "modelhub_target_requests_total"):
        if labels["model"] == NAME:
            total[labels["target"]] = total.get(labels["target"], 0) + value
    return total


class Asking(threading.Thread):
    """Asks with a session of its own each time, and remembers what failed."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended, self.asked, self.failed = threading.Event(), 0, []

    def run(self):
        while not self.ended.is_set():
            if chat(TEAM, NAME, {"x-session-id": str(self.asked)}) is None:
                self.failed.append(time.monotonic())
            self.asked += 1
            self.ended.wait(0.05)

    def end(self):
        self.ended.set()
        self.join()


def versions():
    hub = f"http://{address('modelhub', TEAM)}:8080"
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / NAME
        copy.mkdir()
        shutil.copy(WEIGHTS / "model.gguf", copy)
        for number in (1, 2):
            # The weights are kept once; a version is what its files say.
            (copy / "notes.txt").write_text(f"version {number}\n")
            run(str(PROGRAMS / "modelhub"), "--url", hub, "models", "push", NAME, *(str(path) for path in copy.iterdir()))
        (copy / "notes.txt").unlink()
        (copy / "model.gguf").write_bytes(b"no weights at all")
        run(str(PROGRAMS / "modelhub"), "--url", hub, "models", "push", NAME, *(str(path) for path in copy.iterdir()))
    apply({"model": {"name": NAME, "version": "1"}})
    until("version 1 is ready", lambda: holds(service(), "Ready"))
    until("it answers", lambda: chat(TEAM, NAME))
    assert holds(service(), "ModelVerified"), condition(service(), "ModelVerified")
    passed("version 1 came from the stack's registry, verified, and answers by the hub")


def canaries():
    asking = Asking()
    asking.start()
    slow = {"steps": [50, 100], "stepSeconds": 86400, "minSamples": 1000000}
    apply({"model": {"name": NAME, "version": "1"}, "canary": {"version": "2", **slow}})
    until("the canary runs", lambda: says("CanaryTaken", "CanaryRunning"))
    until("the canary answers", lambda: served().get("2", 0) >= 5)
    tree = plugin("status", "quickstart") + plugin("status", f"isvc/{NAME}")
    assert NAME in tree, tree
    print(plugin("rollback", NAME), end="", flush=True)
    until("its pods go", lambda: not pods("2"))
    before = served()
    until("version 1 answers on", lambda: served().get("1", 0) >= before.get("1", 0) + 5)
    assert served().get("2", 0) == before.get("2", 0), "a version that was taken back gets no request"
    passed("a canary had its share, and kubectl aistack rollback took it back")

    kubectl("patch", "isvc", NAME, "-n", TEAM, "--type", "merge", "-p", json.dumps({"spec": {"canary": {"version": "2", **slow}}}))
    until("the canary runs again", lambda: says("CanaryTaken", "CanaryRunning"))
    print(plugin("promote", NAME), end="", flush=True)
    until("version 2 is what is served", lambda: holds(service(), "Ready") and service().get("status", {}).get("version") and not pods("1") and pods("2"))
    assert service()["spec"]["model"]["version"] == "2" and "canary" not in service()["spec"]
    passed("kubectl aistack promote made the canary the version, and the old pods went")

    fast = {"steps": [50, 100], "stepSeconds": 10, "minSamples": 5}
    kubectl("patch", "isvc", NAME, "-n", TEAM, "--type", "merge", "-p", json.dumps({"spec": {"canary": {"version": "1", **fast}}}))
    until("the canary has everything", lambda: says("CanaryTaken", "CanarySucceeded"))
    passed("a canary took over by itself, step after step")
    print(plugin("promote", NAME), end="", flush=True)
    until("version 1 is what is served", lambda: holds(service(), "Ready") and not pods("2") and pods("1"))

    kubectl("patch", "isvc", NAME, "-n", TEAM, "--type", "merge", "-p", json.dumps({"spec": {"canary": {"version": "3", **fast}}}))
    said = until("a version that does not start says so", lambda: broken("3"))
    assert chat(TEAM, NAME), "what serves goes on"
    asking.end()
    assert not asking.failed, f"{len(asking.failed)} of {asking.asked} asks failed"
    print(plugin("rollback", NAME), end="", flush=True)
    until("its pods go", lambda: not pods("3"))
    passed(f"a version whose weights are none never had a request, and doctor says: {said}; none of {asking.asked} asks failed meanwhile")


def broken(version):
    """What doctor says of a service whose newest version cannot start."""
    done = attempt("kubectl", "aistack", "doctor", "-n", TEAM)
    lines = [line.strip() for line in done.stdout.splitlines() if f"v{version}" in line or NAME in line]
    return next((line for line in lines if any(word in line for word in ("CrashLoop", "restart", "exit", "gguf", "GGUF"))), None)


def sleep():
    apply({"model": {"name": NAME, "version": "1"}, "scaling": {"minReplicas": 0, "maxReplicas": 1, "idleSeconds": 10, "holdSeconds": 900, "metric": "concurrency"}})
    until("it sleeps", lambda: not pods() and service().get("status", {}).get("replicas", 0) == 0)
    began = time.monotonic()
    assert chat(TEAM, NAME, seconds=PATIENCE), "the request that woke it was answered"
    passed(f"it slept, and the request that woke it was held and answered after {time.monotonic() - began:.1f} s")
    until("it sleeps again", lambda: not pods())
    passed("it sleeps again when nobody asks")


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def weights():
    """From an address, by digest."""
    file = WEIGHTS / "model.gguf"
    server = http.server.ThreadingHTTPServer((HERE, 0), functools.partial(Files, directory=str(WEIGHTS)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://{HERE}:{server.server_address[1]}/{file.name}"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    wrong = "0" * 64
    apply({"model": {"name": "fetched", "uri": uri, "sha256": wrong}}, "fetched")
    said = until("another digest is refused", lambda: condition(service("fetched"), "ModelVerified").get("status") == "False" and condition(service("fetched"), "ModelVerified"))
    assert digest in said["message"] or wrong in said["message"], said
    doctor = attempt("kubectl", "aistack", "doctor", "-n", TEAM)
    assert "fetched" in doctor.stdout, doctor.stdout + doctor.stderr
    patch("isvc", "fetched", TEAM, {"spec": {"model": {"sha256": digest}}})
    until("the right digest is taken", lambda: holds(service("fetched"), "Ready") and holds(service("fetched"), "ModelVerified"))
    until("it answers", lambda: chat(TEAM, "fetched"))
    server.shutdown()
    passed("weights from an address: another digest is refused by name, the right one serves")


def gone():
    kubectl("delete", "isvc", NAME, "fetched", "-n", TEAM, "--timeout=600s")
    until("their pods are gone", lambda: not pods() and not pods(name="fetched"))
    until("their models are no more", lambda: chat(TEAM, NAME) is None and chat(TEAM, "fetched") is None)
    until("nothing is wrong any more", lambda: attempt("kubectl", "aistack", "doctor", "-n", TEAM).returncode == 0)
    passed("deleted: pods, routes and models")


with tempfile.TemporaryDirectory() as path:
    os.symlink(PROGRAMS / "aistack", pathlib.Path(path) / "kubectl-aistack")
    os.environ["PATH"] = f"{path}:{os.environ['PATH']}"
    versions()
    canaries()
    sleep()
    weights()
    gone()
