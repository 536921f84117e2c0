"""The platform from Git, by Argo CD itself.

    walk.py APPLICATION CLONE

Everything is Synced, and Healthy when it answers and not before; an edit in Git rolls; what somebody changes in the cluster is taken back;
another sync changes nothing.
"""

import json
import pathlib
import subprocess
import sys
import time
import urllib.request

APPLICATION, CLONE = sys.argv[1], pathlib.Path(sys.argv[2])
APPS = ("aistack", "aistack-crds", "aistack-operator", "aistack-stack")
TEAM, SYSTEM = "aistack", "aistack-system"
PATIENCE = 600
BEGAN = time.monotonic()


def passed(what):
    print(f"  ok    {what} ({time.monotonic() - BEGAN:.0f} s)", flush=True)


def run(*command, fails=False):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not fails:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def one(kind, name, namespace):
    return json.loads(run("kubectl", "get", kind, name, "-n", namespace, "-o", "json", fails=True) or "{}")


def app(name):
    status = one("application", name, "argocd").get("status", {})
    return status.get("sync", {}).get("status"), status.get("health", {}).get("status"), status.get("sync", {}).get("revision")


def stack_ready():
    stack = one("stack", "quickstart", TEAM)
    conditions = stack.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" and c["observedGeneration"] == stack["metadata"]["generation"] for c in conditions)


def until(what, asked):
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        answer = asked()
        if answer:
            return answer
        time.sleep(0.3)
    for name in APPS:
        print(json.dumps(one("application", name, "argocd").get("status", {}), indent=1)[:4000])
    print(run("kubectl", "get", "pods,stack,kv,isvc,vc", "-A", fails=True))
    sys.exit(f"not within {PATIENCE} s: {what}")


def all_well(revision=None):
    states = [app(name) for name in APPS]
    return all(sync == "Synced" and health == "Healthy" and (revision is None or at == revision) for sync, health, at in states)


def git(*arguments):
    return run("git", "-C", str(CLONE), "-c", "user.name=e2e", "-c", "user.email=e2e@example.com", *arguments).strip()


def refresh():
    for name in APPS:
        run("kubectl", "annotate", "application", name, "-n", "argocd", "argocd.argoproj.io/refresh=hard", "--overwrite")


def answers():
    address = run("kubectl", "get", "service", "modelhub", "-n", TEAM, "-o", "jsonpath={.spec.clusterIP}")
    body = {"model": "smollm2-135m-instruct", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(f"http://{address}:8080/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["choices"]
    except OSError:
        return None


def brought():
    run("kubectl", "apply", "-f", APPLICATION)
    early = []

    def healthy():
        # In this order: a stack may become Ready between the two looks, and cannot become unready.
        _, health, _ = app("aistack-stack")
        if health == "Healthy" and not stack_ready():
            early.append(time.monotonic() - BEGAN)
        return health == "Healthy"

    until("the stack is Healthy", healthy)
    assert not early, f"Healthy before the stack was Ready, at {early}"
    # The hub looks at its engines every other second (docs/operator.md).
    began = time.monotonic()
    until("a stack that is Healthy answers", answers)
    assert time.monotonic() - began < 60, "long after it was called Healthy"
    passed("the stack is Healthy, and answers; it was not called so before it was Ready")
    until("all four are Synced and Healthy", all_well)
    passed("all four Applications are Synced and Healthy, wave after wave")


def edited():
    path = CLONE / "examples/quickstart/stack.yaml"
    text = path.read_text()
    changed = text.replace("modelhub:    {replicas: 1, storage: 1Gi}", 'modelhub:    {replicas: 1, storage: 1Gi, pod: {annotations: {edited: "in-git"}}}')
    assert changed != text
    path.write_text(changed)
    git("commit", "--quiet", "--all", "--message", "an edit")
    git("push", "--quiet", "origin", "HEAD:main")
    revision = git("rev-parse", "HEAD")
    refresh()

    def rolled():
        pod = one("pod", "modelhub-0", TEAM)
        return pod.get("metadata", {}).get("annotations", {}).get("edited") == "in-git" and stack_ready() and all_well(revision)

    until("the edit has rolled", rolled)
    passed("an edit in Git rolled the hub, and all is Synced and Healthy at the new revision")


def drifted():
    run("kubectl", "patch", "stack", "quickstart", "-n", TEAM, "--type", "merge", "-p", '{"spec": {"vectorforge": {"pod": {"annotations": {"by": "hand"}}}, "modelhub": {"pod": {"annotations": {"edited": "by-hand"}}}}}')
    run("kubectl", "scale", "deployment", "aistack-operator", "-n", SYSTEM, "--replicas=1")
    refresh()

    def healed():
        stack, operator = one("stack", "quickstart", TEAM), one("deployment", "aistack-operator", SYSTEM)
        return (stack["spec"]["modelhub"]["pod"]["annotations"]["edited"] == "in-git" and operator["spec"]["replicas"] == 2
                and stack_ready() and all_well())

    until("what was changed by hand is as in Git", healed)
    passed("drift of the stack and of the operator's Deployment is healed")


def at_rest():
    def versions():
        return {name: one(kind, name, namespace)["metadata"]["resourceVersion"] for kind, name, namespace in (
            ("stack", "quickstart", TEAM), ("deployment", "aistack-operator", SYSTEM), ("crd", "aistacks.platform.dev", SYSTEM))}

    until("all is at rest", all_well)
    seen = []
    for _ in range(2):
        for name in APPS:
            # As Argo CD's own program asks for one: with the options of the Application.
            options = one("application", name, "argocd")["spec"]["syncPolicy"].get("syncOptions", [])
            operation = {"operation": {"sync": {"syncOptions": options}}}
            run("kubectl", "patch", "application", name, "-n", "argocd", "--type", "merge", "-p", json.dumps(operation))

        def synced():
            states = [one("application", name, "argocd") for name in APPS]
            return all("operation" not in state and state["status"]["operationState"]["phase"] == "Succeeded" for state in states)

        until("another sync ended", synced)
        refresh()
        until("nothing differs", all_well)
        seen.append(versions())
    assert seen[0] == seen[1], f"a sync of what is there already wrote: {seen}"
    passed("two more syncs leave an empty diff, and the second wrote nothing")


brought()
edited()
drifted()
at_rest()
