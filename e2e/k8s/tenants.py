"""Two teams and their stacks on one cluster, each with an operator of its own that sees one namespace; a third operator sees nothing of either.

    tenants.py HELM

KUBECONFIG points at a plane with a node, on which the kinds are installed and no operator runs.
"""

import json
import pathlib
import subprocess
import sys
import time
import urllib.request

HELM = sys.argv[1]
ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 600
BEGAN = time.monotonic()


def passed(what):
    print(f"  ok    {what} ({time.monotonic() - BEGAN:.0f} s)", flush=True)


def run(*command, fails=False):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not fails:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def until(what, asked):
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        answer = asked()
        if answer:
            return answer
        time.sleep(0.3)
    print(run("kubectl", "get", "pods,stack,kv,isvc,vc", "-A", fails=True))
    sys.exit(f"not within {PATIENCE} s: {what}")


def answers(namespace):
    address = run("kubectl", "get", "service", "modelhub", "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
    body = {"model": "smollm2-135m-instruct", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(f"http://{address}:8080/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["choices"]
    except OSError:
        return None


def figures(namespace):
    """What the operator of a namespace says of itself, by its first pod."""
    pods = json.loads(run("kubectl", "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name=aistack-operator", "-o", "json"))["items"]
    total = 0
    for pod in pods:
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8090/metrics", timeout=30) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("controller_runtime_reconcile_total{"):
                    total += float(line.rsplit(" ", 1)[1])
    return total


def uids(namespace):
    pods = json.loads(run("kubectl", "get", "pods", "-n", namespace, "-o", "json"))["items"]
    return {pod["metadata"]["name"]: (pod["metadata"]["uid"], sum(c["restartCount"] for c in pod["status"]["containerStatuses"])) for pod in pods}


def main():
    for namespace in ("blue", "green", "idle"):
        run("kubectl", "create", "namespace", namespace)
        run("kubectl", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        run(HELM, "install", "aistack", str(ROOT / "charts/aistack"), "--namespace", namespace, "--set", f"watch.namespace={namespace}",
            "--wait", "--timeout", "10m")
    passed("three operators, of a namespace each")
    for namespace in ("blue", "green"):
        run("kubectl", "apply", "-n", namespace, "-f", str(ROOT / "examples/quickstart/stack.yaml"))
    for namespace in ("blue", "green"):
        run("kubectl", "wait", "-n", namespace, "--for=condition=Ready", "--timeout=10m", "stack/quickstart")
        # The hub looks at its engines every other second.
        until(f"the stack in {namespace} answers", lambda namespace=namespace: answers(namespace))
    passed("two stacks of the same name answer")
    assert figures("idle") == 0, "the third operator reconciled something of the others'"
    assert figures("blue") > 0, "the first operator tells its figures"
    account = "system:serviceaccount:idle:aistack-operator"
    for verb, kind in (("list", "aistacks.platform.dev"), ("patch", "statefulsets.apps"), ("get", "secrets"), ("create", "events.events.k8s.io")):
        for namespace, expected in (("blue", "no"), ("idle", "yes")):
            said = run("kubectl", "auth", "can-i", verb, kind, "-n", namespace, "--as", account, fails=True).strip()
            assert said == expected, f"{account} may {verb} {kind} in {namespace}: {said}"
    passed("the third sees neither, and may not")
    before = uids("green")
    run("kubectl", "delete", "stack", "quickstart", "-n", "blue", "--timeout=300s")
    until("nothing of the stack in blue is left", lambda: not [name for name in uids_or_none("blue") if not name.startswith("aistack-operator")])
    assert uids("green") == before, "a pod of green changed"
    assert answers("green")
    passed("blue's stack is deleted, and green's has not noticed")


def uids_or_none(namespace):
    return [line.split()[0] for line in run("kubectl", "get", "pods", "-n", namespace, "--no-headers", fails=True).splitlines()]


main()
