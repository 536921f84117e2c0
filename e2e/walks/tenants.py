"""Two teams and their stacks on one cluster, each with an operator of its own that sees one namespace; a third operator sees nothing of either.

    tenants.py HELM

KUBECONFIG points at a plane with a node, on which the kinds are installed and no operator runs.
"""

import sys

from cluster import ROOT, attempt, chat, kubectl, listed, passed, run, series, until

HELM = sys.argv[1]


def figures(namespace):
    """Reconciliations of a namespace's operators, as these count them."""
    pods = listed("pods", namespace, "-l", "app.kubernetes.io/name=aistack-operator")
    return sum(value for pod in pods for _, value in series(pod, 8090, "controller_runtime_reconcile_total"))


def uids(namespace):
    pods = listed("pods", namespace)
    return {pod["metadata"]["name"]: (pod["metadata"]["uid"], sum(c["restartCount"] for c in pod["status"]["containerStatuses"])) for pod in pods}


def main():
    for namespace in ("blue", "green", "idle"):
        kubectl("create", "namespace", namespace)
        kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        run(HELM, "install", "aistack", str(ROOT / "charts/aistack"), "--namespace", namespace, "--set", f"watch.namespace={namespace}",
            "--wait", "--timeout", "10m")
    passed("three operators, of a namespace each")
    for namespace in ("blue", "green"):
        kubectl("apply", "-n", namespace, "-f", str(ROOT / "examples/quickstart/stack.yaml"))
    for namespace in ("blue", "green"):
        kubectl("wait", "-n", namespace, "--for=condition=Ready", "--timeout=10m", "stack/quickstart")
        # The hub looks at its engines now and then.
        until(f"the stack in {namespace} answers", lambda namespace=namespace: chat(namespace))
    passed("two stacks of the same name answer")
    assert figures("idle") == 0, "the third operator reconciled something of the others'"
    assert figures("blue") > 0, "the first operator tells its figures"
    account = "system:serviceaccount:idle:aistack-operator"
    for verb, kind in (("list", "aistacks.platform.dev"), ("patch", "statefulsets.apps"), ("get", "secrets"), ("create", "events.events.k8s.io")):
        for namespace, expected in (("blue", "no"), ("idle", "yes")):
            said = attempt("kubectl", "auth", "can-i", verb, kind, "-n", namespace, "--as", account).stdout.strip()
            assert said == expected, f"{account} may {verb} {kind} in {namespace}: {said}"
    passed("the third sees neither, and may not")
    before = uids("green")
    kubectl("delete", "stack", "quickstart", "-n", "blue", "--timeout=300s")
    until("nothing of the stack in blue is left", lambda: not [name for name in uids_or_none("blue") if not name.startswith("aistack-operator")])
    assert uids("green") == before, "a pod of green changed"
    assert chat("green")
    passed("blue's stack is deleted, and green's has not noticed")


def uids_or_none(namespace):
    return [line.split()[0] for line in kubectl("get", "pods", "-n", namespace, "--no-headers", may_fail=True).splitlines()]


main()
