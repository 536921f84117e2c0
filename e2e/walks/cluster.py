"""What every walk does with the cluster that KUBECONFIG points at: run programs, look at objects, wait for conditions, ask a stack's hub.

A walk is a script beside this file. It ends at the first thing that is not so, and prints a line for each that is.
"""

import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
# Seconds that anything may take. Machines stall.
PATIENCE = 900
BEGAN = time.monotonic()


def passed(what):
    print(f"  ok    {what} ({time.monotonic() - BEGAN:.0f} s)", flush=True)


def attempt(*command, stdin=None):
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def run(*command, stdin=None, may_fail=False):
    """What a program prints; the walk ends when it fails and may not."""
    done = attempt(*command, stdin=stdin)
    if done.returncode and not may_fail:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def refused(*command, stdin=None):
    """What a program says that must fail."""
    done = attempt(*command, stdin=stdin)
    if not done.returncode:
        sys.exit(f"it should have failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stderr


def kubectl(*arguments, stdin=None, may_fail=False):
    return run("kubectl", *arguments, stdin=stdin, may_fail=may_fail)


def one(kind, name, namespace):
    """An object, or nothing when there is none."""
    return json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json", may_fail=True) or "{}")


def listed(kind, namespace, *more):
    return json.loads(kubectl("get", kind, "-n", namespace, *more, "-o", "json"))["items"]


def names(kind, namespace):
    """As KIND/NAME."""
    return set(kubectl("get", kind, "-n", namespace, "-o", "name").split())


def patch(kind, name, namespace, body):
    kubectl("patch", kind, name, "-n", namespace, "--type", "merge", "-p", json.dumps(body))


def until(what, asked, every=0.3):
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        answer = asked()
        if answer:
            return answer
        time.sleep(every)
    print(kubectl("get", "pods,stack,kv,isvc,vc,events", "-A", may_fail=True), flush=True)
    sys.exit(f"not within {PATIENCE} s: {what}")


def condition(thing, kind):
    """A condition of an object; nothing when it has none of the kind."""
    return next((one for one in thing.get("status", {}).get("conditions", []) if one["type"] == kind), {})


def holds(thing, kind):
    """Whether a condition is true of what the object asks for now."""
    said = condition(thing, kind)
    return said.get("status") == "True" and said.get("observedGeneration", thing["metadata"]["generation"]) == thing["metadata"]["generation"]


def stack_ready(namespace):
    return holds(one("stack", "quickstart", namespace), "Ready")


def is_ready(pod):
    return condition(pod, "Ready").get("status") == "True" and "deletionTimestamp" not in pod["metadata"]


def address(service, namespace):
    """Of a Service; the plane leads this machine to it."""
    return kubectl("get", "service", service, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")


def post(url, body, method="POST", headers=None, seconds=60):
    """What a server answers; OSError when it does not."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})}, method=method)
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        return json.load(answer)


def series(pod, port, name):
    """What a pod says of itself: the labels and the value of each series of a name."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:{port}/metrics", timeout=60) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + "{"):
                labels, value = line[len(name) + 1:].rsplit("} ", 1)
                yield dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


def chat(namespace, model="smollm2-135m-instruct", headers=None, seconds=60):
    """A few words of a model by the hub of a namespace; nothing when nobody answers."""
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    try:
        return post(f"http://{address('modelhub', namespace)}:8080/v1/chat/completions", body, headers=headers, seconds=seconds)
    except OSError:
        return None
