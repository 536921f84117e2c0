"""The platform from Git, by Argo CD itself.

    argocd.py APPLICATION CLONE

Each wave begins when the one before it is done; everything is Synced, and Healthy when it answers and not before; an edit in Git rolls; what
somebody changes in the cluster is taken back; another sync changes nothing; the root's end leaves the volumes.
"""

import json
import pathlib
import sys
import time

import cluster
from cluster import chat, condition, kubectl, listed, names, one, passed, patch, run

APPLICATION, CLONE = sys.argv[1], pathlib.Path(sys.argv[2])
APPS = ("aistack", "aistack-crds", "aistack-operator", "aistack-stack")
TEAM, SYSTEM = "aistack", "aistack-system"


def app(name):
    status = one("application", name, "argocd").get("status", {})
    return status.get("sync", {}).get("status"), status.get("health", {}).get("status"), status.get("sync", {}).get("revision")


def stack_ready():
    return cluster.stack_ready(TEAM)


def until(what, asked):
    try:
        return cluster.until(what, asked)
    except SystemExit:
        for name in APPS:
            print(json.dumps(one("application", name, "argocd").get("status", {}), indent=1)[:4000])
        raise


def all_well(revision=None):
    states = [app(name) for name in APPS]
    return all(sync == "Synced" and health == "Healthy" and (revision is None or at == revision) for sync, health, at in states)


def git(*arguments):
    return run("git", "-C", str(CLONE), "-c", "user.name=e2e", "-c", "user.email=e2e@example.com", *arguments).strip()


def refresh():
    for name in APPS:
        kubectl("annotate", "application", name, "-n", "argocd", "argocd.argoproj.io/refresh=hard", "--overwrite")


def brought():
    kubectl("apply", "-f", APPLICATION)
    early = []

    def healthy():
        # In this order: a stack may become Ready between the two looks, and cannot become unready.
        _, health, _ = app("aistack-stack")
        if health == "Healthy" and not stack_ready():
            early.append(time.monotonic() - cluster.BEGAN)
        return health == "Healthy"

    until("the stack is Healthy", healthy)
    assert not early, f"Healthy before the stack was Ready, at {early}"
    # The hub looks at its engines now and then (docs/operator.md).
    until("a stack that is Healthy answers", lambda: chat(TEAM))
    passed("the stack is Healthy, and answers; it was not called so before it was Ready")
    until("all four are Synced and Healthy", all_well)
    passed("all four Applications are Synced and Healthy")


def kinds():
    return listed("crd", SYSTEM, "-l", "app.kubernetes.io/name=aistack-crds")


def in_waves():
    began = {name: one("application", name, "argocd")["metadata"]["creationTimestamp"] for name in APPS}
    listed_since = [condition(kind, "Established")["lastTransitionTime"] for kind in kinds()]
    ready_since = condition(one("deployment", "aistack-operator", SYSTEM), "Available")["lastTransitionTime"]
    assert len(listed_since) == 7 and max(listed_since) <= began["aistack-operator"], f"the operator before the kinds: {listed_since}, {began}"
    assert ready_since <= began["aistack-stack"], f"the stack before the operator was ready: {ready_since}, {began}"
    passed("the operator came when all seven kinds were there, and the stack when the operator was ready")


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
    patch("stack", "quickstart", TEAM, {"spec": {part: {"pod": {"annotations": {"edited": "by-hand"}}} for part in ("vectorforge", "modelhub")}})
    kubectl("scale", "deployment", "aistack-operator", "-n", SYSTEM, "--replicas=1")
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
            patch("application", name, "argocd", {"operation": {"sync": {"syncOptions": options}}})

        def synced():
            states = [one("application", name, "argocd") for name in APPS]
            return all("operation" not in state and state["status"]["operationState"]["phase"] == "Succeeded" for state in states)

        until("another sync ended", synced)
        refresh()
        until("nothing differs", all_well)
        seen.append(versions())
    assert seen[0] == seen[1], f"a sync of what is there already wrote: {seen}"
    passed("two more syncs leave an empty diff, and the second wrote nothing")


def removed():
    volumes = names("pvc", TEAM)
    assert {f"persistentvolumeclaim/data-{part}-0" for part in ("tinykv", "vectorforge", "modelhub")} <= volumes, volumes
    kubectl("delete", "application", "aistack", "-n", "argocd", "--wait=false")
    cluster.until("all four Applications are gone", lambda: not names("application", "argocd"))
    cluster.until("nothing of them runs", lambda: not names("stack,statefulset,deployment,pod", TEAM) | names("deployment,pod", SYSTEM))
    assert one("namespace", TEAM, TEAM)["status"]["phase"] == "Active", "the namespace goes, and with it the volumes"
    claims = listed("pvc", TEAM)
    assert names("pvc", TEAM) == volumes and not any("deletionTimestamp" in claim["metadata"] for claim in claims), claims
    assert len(kinds()) == 7, kinds()
    passed("the root's end takes everything away but the kinds, and the namespace with its volumes")


brought()
in_waves()
edited()
drifted()
at_rest()
removed()
