"""The charts before a real API server: installed by helm 3 and helm 4, upgraded, tried by people and by the operator, uninstalled.

    charts.py CHARTS HELM OPERATOR BEFORE

BEFORE is a folder with both charts as they were in an earlier version.
KUBECONFIG points at an API server of one's own, which nothing acts on: no pod runs. So the operator runs here, as the program
OPERATOR, with the service account's token and so with the chart's rights; whatever it may not do shows in its own figures.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import yaml

import cluster
from cluster import PATIENCE, kubectl, names, passed, refused, run, until

CHARTS, HELM, OPERATOR, BEFORE = pathlib.Path(sys.argv[1]), *sys.argv[2:4], pathlib.Path(sys.argv[4])
HERE = pathlib.Path(__file__).parent
SYSTEM = "aistack-system"


def helm(*arguments):
    return run(HELM, *arguments)


# -- templates

VALUES = [
    ("as it comes", [], 0),
    ("namespaced", ["--set", "watch.namespace=team"], 0),
    ("a namespace of digits", ["--set-string", "watch.namespace=2024"], 0),
    ("every switch", [
        "--set", "dashboards.enabled=true", "--set", "metrics.monitors=true", "--set", "metrics.rules=true",
        "--set", "networkPolicy.stacks.namespaces={team,blue}", "--set", "image.digest=sha256:" + "a" * 64,
        "--set", "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
        "--set", "networkPolicy.apiServer.cidrs={10.0.0.1/32,::/0}", "--set", "priorityClassName=system-cluster-critical",
        "--set", "networkPolicy.telemetryTo[0].ports[0].port=4317", "--set", "config.pods_otlp_endpoint=http://collector.telemetry:4317",
        "--set", "components.repository=mirror.example.com/ai", "--set", "components.digests.tinykv=sha256:" + "b" * 64,
    ], 0),
    ("nothing that can be left out", [
        "--set", "rbac.create=false", "--set", "serviceAccount.create=false", "--set", "networkPolicy.enabled=false",
        "--set", "podDisruptionBudget.enabled=false", "--set", "admissionPolicies.enabled=false", "--set", "storePriority.create=false",
    ], 0),
    ("no replicas", ["--set", "replicas=0"], 1),
    ("a word that is no value", ["--set", "replica=3"], 1),
    ("a digest that is none", ["--set", "image.digest=sha256:abc"], 1),
    ("a namespace that is none", ["--set", "watch.namespace=Team_A"], 1),
    ("an address without a port", ["--set", "config.server.admin_listen=0.0.0.0"], 1),
    ("a component's digest that is none", ["--set", "components.digests.tinykv=latest"], 1),
    ("a digest of what is no component", ["--set", "components.digests.etcd=sha256:" + "a" * 64], 1),
    ("stores in a class that is there already", ["--set", "config.store_priority_class=gold"], 0),
    ("two classes of stores", ["--set", "config.store_priority_class=gold", "--set", "storePriority.create=true"], 1),
    ("a priority that is the system's", ["--set", "storePriority.value=2000000000"], 1),
    ("an address that only the pod itself reaches", ["--set", "config.server.admin_listen=127.0.0.1:8090"], 1),
    ("a setting that the operator lacks", ["--set", "config.nosuch=5"], 1),
    ("a Lease that ends before it is renewed", ["--set", "config.lease.duration_seconds=5"], 1),
    ("a certificate for listeners that the operator has not", ["--set", "config.server.tls.cert_file=/x,config.server.tls.key_file=/y"], 1),
    ("keys for the same", ["--set", "config.server.auth.keys_file=/x"], 1),
    ("images that have no such name", ["--set", "components.repository=Foo/Bar"], 1),
    ("a name that objects cannot have", ["--set", "nameOverride=Foo_Bar"], 1),
    ("the account of every pod with the operator's rights", ["--set", "serviceAccount.create=false"], 1),
    ("labels that the operator is found by", ["--set-json", 'podLabels={"app.kubernetes.io/name":"foo","team":"a"}'], 0),
    ("settings of the operator that the chart sets", ["--set", "config.namespace=team"], 1),
    ("an API server without a port, which would be a way out to anywhere", ["--set-json", "networkPolicy.apiServer.ports=[]"], 1),
    ("the same, taken away", ["--set", "networkPolicy.apiServer.ports=null"], 1),
    ("no policies' values at all", ["--set", "networkPolicy=null"], 1),
    ("the values of a chart that did not know who answers names", ["--set", "networkPolicy.dns=null"], 0),
]


def templates():
    for chart in ("aistack-crds", "aistack"):
        helm("lint", "--strict", str(CHARTS / chart))
    for name, values, fails in VALUES:
        command = [HELM, "template", "aistack", str(CHARTS / "aistack"), "--kube-version", "1.37.0", "-n", SYSTEM, *values]
        if fails:
            refused(*command)
        else:
            check_objects(name, [one for one in yaml.safe_load_all(run(*command)) if one])
    passed(f"lint, and {len(VALUES)} sets of values")


def check_objects(name, objects):
    kinds = {one["kind"] for one in objects}
    named = [one["metadata"].get("namespace", "") for one in objects]
    assert all(isinstance(namespace, str) for namespace in named), f"{name}: {named}"
    if name == "namespaced":
        cluster = {kind for kind in kinds if kind.startswith(("Cluster", "Validating", "Priority"))}
        assert not cluster, f"nothing of the cluster in namespaced mode, but {cluster}"
    if name == "every switch":
        wanted = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
        assert wanted <= kinds, wanted - kinds
        config = next(one for one in objects if one["kind"] == "ConfigMap" and "aistack-operator.yaml" in one["data"])
        images = yaml.safe_load(config["data"]["aistack-operator.yaml"])["images"]
        assert images == {"repository": "mirror.example.com/ai", "digests": {"tinykv": "sha256:" + "b" * 64}}, images
        figures(objects)
        policies = [one for one in objects if one["kind"] == "ValidatingAdmissionPolicy"]
        assert any("mirror.example.com/ai" in json.dumps(one) for one in policies), "limits know where images come from"
        sends = [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in objects
                 if one["kind"] == "NetworkPolicy" and {"ports": [{"port": 4317}]} in one["spec"].get("egress", [])]
        inside = "aistack-operator-stacks-inside"
        assert sorted(sends) == [(SYSTEM, "aistack-operator"), ("blue", inside), ("team", inside)], f"traces get out: {sends}"
    reached = {one["metadata"]["namespace"] for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("-engines")}
    assert reached == ({"team", "blue"} if name == "every switch" else set()), f"{name}: engines are open to those who are named, and else to nobody: {reached}"
    classes = [one for one in objects if one["kind"] == "PriorityClass"]
    config = next(one for one in objects if one["kind"] == "ConfigMap" and "aistack-operator.yaml" in one["data"])
    named = yaml.safe_load(config["data"]["aistack-operator.yaml"]).get("store_priority_class")
    is_made = name not in ("namespaced", "a namespace of digits", "nothing that can be left out")
    assert [one["metadata"]["name"] for one in classes] == ([named] if is_made else []), f"{name}: stores are told of the class that there is: {named}"
    assert all(one["value"] < 1_000_000_000 and one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for one in classes)
    for one in objects:
        if one["kind"] == "Deployment":
            template, selected = one["spec"]["template"], one["spec"]["selector"]["matchLabels"]
            labels = template["metadata"]["labels"]
            assert selected.items() <= labels.items(), f"{name}: {selected} finds pods with {labels}"
            assert name != "labels that the operator is found by" or labels["team"] == "a", labels
            if name == "every switch":
                assert template["spec"]["containers"][0]["image"] == "aistack/aistack-operator@sha256:" + "a" * 64
        assert not list(nulls(one)), f"{name}: {one['kind']}, which an API server refuses: null at {list(nulls(one))}"
        assert "AIStack" not in kinds, "a chart installs no stack"


def nulls(value, place=""):
    """Where a template had nothing to say and said so."""
    if value is None:
        yield place
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nulls(one, f"{place}/{key}")


def figures(objects):
    """What alerts and dashboards ask series for, the monitors put on them; those who may read figures reach all that is scraped."""
    def of(kind):
        return [one for one in objects if one["kind"] == kind]

    def series(label):
        return re.sub("[^a-z]", "_", label)

    services, pods = of("ServiceMonitor")[0]["spec"], of("PodMonitor")[0]["spec"]
    service = next(one for one in of("Service") if services["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items())
    operators = {f'{series(label)}="{service["metadata"]["labels"][label]}"' for label in services["targetLabels"]}
    stacks = {f'{series(label)}="{value}"' for label, value in pods["selector"]["matchLabels"].items()}
    assert {one.split("=")[0] for one in stacks} <= {series(label) for label in pods["podTargetLabels"]}, pods
    asked = json.dumps([one["spec"] for one in of("PrometheusRule")]) + "".join(
        text for one in of("ConfigMap") for file, text in one["data"].items() if file.endswith(".json"))
    asked = {matcher.replace("\\", "") for matcher in re.findall(r'app_kubernetes_io_\w+=\\+"[^"]*\\+"', asked)}
    assert asked == operators | stacks, f"asked for {asked}, given to the operator's {operators} and to others' {stacks}"
    admin, http = pods["podMetricsEndpoints"]
    assert (admin["port"], http["port"]) == ("admin", "http"), pods
    keep, policies = http["relabelings"][0], [one["spec"] for one in of("NetworkPolicy") if one["metadata"]["name"].endswith("-engines")]
    label = policies[0]["podSelector"]["matchExpressions"][0]
    assert keep["sourceLabels"] == ["__meta_kubernetes_pod_label_" + series(label["key"])] and keep["regex"] == "|".join(label["values"]), (keep, label)
    assert all(one["ingress"][0]["ports"] == [{"port": "http", "protocol": "TCP"}] and one["ingress"][0]["from"] for one in policies), policies


def csv():
    return yaml.safe_load((CHARTS.parent / "hack/olm/manifests/aistack.clusterserviceversion.yaml").read_text())


def bundle():
    """What OLM starts is what the chart starts: the same container, but for where its settings come from and who says whose user it is."""
    rendered = yaml.safe_load_all(helm("template", "aistack", str(CHARTS / "aistack"), "--kube-version", "1.37.0", "-n", SYSTEM, "--show-only", "templates/operator/deployment.yaml"))
    theirs, ours = (one["spec"]["template"]["spec"] for one in (csv()["spec"]["install"]["spec"]["deployments"][0], next(rendered)))
    for spec in (theirs, ours):
        for key in ("env", "args", "volumeMounts"):
            spec["containers"][0].pop(key, None)
        spec.pop("volumes")
        for key in ("runAsUser", "runAsGroup", "fsGroup"):
            spec["securityContext"].pop(key, None)
    # There is one release of a bundle, and no name that tells several apart.
    for term in (*ours["topologySpreadConstraints"], *(one["podAffinityTerm"] for one in ours["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"])):
        del term["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"]
    assert theirs == ours, f"bundle: {theirs}\nchart: {ours}"
    passed("OLM's bundle starts the container that the chart starts")


# -- from the version before

# Fields that the version before had not, as the API server reads them in objects that were written then: nothing of these is stored.
DEFAULTS = {"InferenceService": {"rollout": "beside"}, "AIStack": {"tinyinfer": {"rollout": "beside"}, "inference": {"rollout": "beside"}}}


def defaulted(spec, defaults):
    """A spec as it is read: with the defaults of what it has."""
    read = dict(spec)
    for field, default in defaults.items():
        if not isinstance(default, dict):
            read.setdefault(field, default)
        elif field in read:
            read[field] = defaulted(read[field], default)
    return read


def upgraded():
    """Both charts of an earlier version, what people made with them, and then these charts over them."""
    helm("install", "aistack-crds", str(BEFORE / "aistack-crds"))
    for kind in names("crd", "default"):
        kubectl("wait", "--for=condition=Established", kind, "--timeout=300s")
    helm("install", "aistack", str(BEFORE / "aistack"), "-n", SYSTEM, "--set", "networkPolicy.stacks.namespaces={team}")
    for one in json.loads(csv()["metadata"]["annotations"]["alm-examples"]):
        kubectl("apply", "--server-side", "-n", "team", "-f", "-", stdin=json.dumps(one))
    kinds = "aistacks,kvclusters,inferenceservices,vectorcollections,worlds,tasksets,envpools"

    def specs():
        return {(one["kind"], one["metadata"]["name"]): (one["metadata"]["uid"], one["metadata"]["generation"], one["spec"])
                for one in json.loads(kubectl("get", kinds, "-n", "team", "-o", "json"))["items"]}

    before = specs()
    assert len(before) == 7, "one of each kind"
    helm("upgrade", "aistack-crds", str(CHARTS / "aistack-crds"))
    # As people do it: with the values that they set, on defaults that are new, and with the very values of the release before.
    helm("upgrade", "aistack", str(CHARTS / "aistack"), "-n", SYSTEM, "--reuse-values")
    helm("upgrade", "aistack", str(CHARTS / "aistack"), "-n", SYSTEM, "--reset-then-reuse-values")
    after = specs()
    told = {name: (uid, generation, defaulted(spec, DEFAULTS.get(name[0], {}))) for name, (uid, generation, spec) in before.items()}
    changed = {name: (told[name], after.get(name)) for name in told if after.get(name) != told[name]}
    assert not changed, f"an upgrade changes nothing that people made, but {changed}"
    assert len(names("networkpolicy", "team")) == 5, "the values that people set are still theirs"
    helm("rollback", "aistack", "1", "-n", SYSTEM)
    for release, namespace in (("aistack", SYSTEM), ("aistack-crds", "default")):
        helm("uninstall", release, "-n", namespace)
    kubectl("delete", kinds, "--all", "-n", "team")
    kubectl("delete", "crd", "--all")
    passed(f"upgraded from an earlier version, and back: {len(before)} objects as they were")


# -- people

def people():
    secrets = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["own"], "verbs": ["get"]}
    kinds = {"apiGroups": ["platform.dev"], "resources": ["*"], "verbs": ["*"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "alice", "namespace": "team"},
            "rules": [secrets, kinds]}
    kubectl("apply", "-f", "-", stdin=json.dumps(role))
    kubectl("create", "rolebinding", "alice", "-n", "team", "--role", "alice", "--user", "alice")
    for secret in ("own", "other"):
        kubectl("create", "secret", "generic", secret, "-n", "team")


def policies():
    steps = yaml.safe_load((HERE / "policies.yaml").read_text())
    # Policies hold a moment after they are there: until the first refusal of one, nothing is known.
    probe = next(step for step in steps if "says" in step)
    until("the policies hold", lambda: "you may not read" in attempt(probe, "--dry-run=server"))
    for step in steps:
        if "says" in step:
            # Limits that were just written may not be known yet.
            until(f"{step['name']}: {step['says']}", lambda: step["says"] in attempt(step, "--dry-run=server"))
        else:
            until(step["name"], lambda: attempt(step) == "")
    passed(f"{len(steps)} writes that policies accept or refuse, each with its words")


def attempt(step, *flags):
    if "scale" in step:
        name, replicas = step["scale"]
        done = cluster.attempt("kubectl", "scale", name, f"--replicas={replicas}", "-n", "team", "--as", step["by"], *flags)
        return "" if done.returncode == 0 else done.stderr
    one = {"apiVersion": "platform.dev/v1", **step["object"]}
    one["metadata"] = {"namespace": "team", **one["metadata"]}
    by = [] if step["by"] == "admin" else ["--as", step["by"]]
    done = cluster.attempt("kubectl", "apply", "--server-side", "--force-conflicts", "--field-manager", "walk", *by, *flags, "-f", "-",
                           stdin=json.dumps(one))
    return "" if done.returncode == 0 else done.stderr


def first_moment():
    """Nobody who waits for an object takes it for ready before the operator has looked at it."""
    stack("team", 1, hub=False)
    assert cluster.one("stack", "walk", "team")["status"] == {"observedGeneration": -1}
    kubectl("delete", "stack", "walk", "-n", "team")
    passed("an object is in progress from its first moment on")


# -- pods

def pods():
    """The pods of the chart are ones that Pod Security's strictest level lets in."""
    # No controller makes a namespace's own service account here.
    kubectl("create", "serviceaccount", "default", "-n", SYSTEM)
    deployment = json.loads(kubectl("get", "deployment", "-n", SYSTEM, "aistack-operator", "-o", "json"))
    template = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "one", "namespace": SYSTEM}, "spec": template["spec"]}
    hooks = [one for one in yaml.safe_load_all(helm("get", "hooks", "aistack", "-n", SYSTEM)) if one]
    assert len(hooks) == 1, hooks
    for one in [pod, *hooks]:
        kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(one))
    loose = json.loads(json.dumps(pod))
    del loose["spec"]["containers"][0]["securityContext"]
    said = refused("kubectl", "create", "--dry-run=server", "-f", "-", stdin=json.dumps(loose))
    assert "restricted" in said, said
    passed("the operator's and the test's pods pass Pod Security's level restricted, which holds")


# -- the operator

class Operator:
    """The operator with the rights of a release's service account, and the settings of its ConfigMap."""

    def __init__(self, folder, namespace, name):
        self.folder = pathlib.Path(folder)
        config = yaml.safe_load(kubectl("config", "view", "--raw"))
        token = kubectl("create", "token", name, "-n", namespace).strip()
        config["users"] = [{"name": "operator", "user": {"token": token}}]
        config["contexts"] = [{"name": "plane", "context": {"cluster": config["clusters"][0]["name"], "user": "operator"}}]
        config["current-context"] = "plane"
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(config))
        settings = json.loads(kubectl("get", "configmap", name, "-n", namespace, "-o", "json"))["data"]
        (self.folder / "aistack-operator.yaml").write_text(settings["aistack-operator.yaml"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        listen = self.url.removeprefix("http://")
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(
            [OPERATOR, "--config", str(self.folder / "aistack-operator.yaml"), "--set", f"server.admin_listen={listen}",
             "--set", f"server.telemetry.otlp_file={self.folder / 'traces'}"],
            env={**os.environ, "KUBECONFIG": str(self.folder / "kubeconfig")}, stdout=self.log, stderr=self.log,
        )
        until("the operator is ready", lambda: self.ask("/readyz") is not None)

    def ask(self, path):
        assert self.process.poll() is None, (self.folder / "log").read_text()[-4000:]
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return None

    def asked(self):
        """Requests by method and answer, as it counted them."""
        found = re.findall(r'^rest_client_requests_total\{([^}]*)\} ([0-9.]+)$', self.ask("/metrics") or "", re.M)
        return {tuple(sorted(re.findall(r'"([^"]*)"', labels))): float(count) for labels, count in found}

    def stop(self):
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0
        self.log.close()
        log = (self.folder / "log").read_text()
        refused = [line for line in log.splitlines() if "forbidden" in line.lower()]
        assert not refused, "\n".join(refused[:5])

    def spans(self):
        """Steps of reconciliations, by name, that it told of until it was stopped."""
        lines = [json.loads(line) for line in (self.folder / "traces").read_text().splitlines()]
        spans = [span for line in lines for resource in line["resourceSpans"] for scope in resource["scopeSpans"] for span in scope["spans"]]
        turns = {span["spanId"] for span in spans if span["name"] == "reconcile"}
        return {span["name"] for span in spans if span.get("parentSpanId") in turns}


def stack(namespace, replicas, hub):
    spec = {"tinykv": {"replicas": replicas}, "vectorforge": {"replicas": 1}}
    if hub:
        spec |= {"modelhub": {"replicas": 1}, "tinyinfer": {"model": "smollm2-135m-instruct"}}
    one = {"apiVersion": "platform.dev/v1", "kind": "AIStack", "metadata": {"name": "walk", "namespace": namespace}, "spec": spec}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(one))


def operates(namespace, account_namespace, name):
    """A stack is made, changed and pruned; a World and an EnvPool say what they lack; nothing that was asked for is refused."""
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(folder, account_namespace, name)
        until("it leads", lambda: 'leader_election_master_status{name="aistack-operator"} 1' in (operator.ask("/metrics") or ""))
        stack(namespace, 3, hub=True)
        hub = "statefulset.apps/modelhub"
        until("the stack's servers are made", lambda: {hub, "statefulset.apps/tinykv"} <= names("statefulset", namespace))
        until("it says how it fares", lambda: kubectl("get", "stack", "walk", "-n", namespace, "-o", "jsonpath={.status.summary}"))
        # What is merely under way is in the conditions; an Event tells of what is wrong, such as a name that is taken.
        kubectl("create", "service", "clusterip", "taken", "--tcp=1", "-n", namespace)
        taken = {"apiVersion": "platform.dev/v1", "kind": "KVCluster", "metadata": {"name": "taken", "namespace": namespace}, "spec": {"replicas": 1}}
        kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(taken))
        until("an Event tells of it", lambda: names("events.events.k8s.io", namespace))
        kubectl("delete", "kvcluster/taken", "service/taken", "-n", namespace)
        stack(namespace, 3, hub=False)
        until("what is wanted no more is deleted", lambda: hub not in names("statefulset", namespace))
        stack(namespace, 5, hub=False)
        replicas = ["get", "kvcluster", "tinykv", "-n", namespace, "-o", "jsonpath={.spec.replicas}"]
        until("an edit of the stack reaches its child, which no policy keeps from the operator", lambda: kubectl(*replicas) == "5")
        asked = operator.asked()
        refused = {key: count for key, count in asked.items() if "403" in key}
        assert asked and not refused, asked
        operator.stop()
        steps = {"dereference", "apply", "act", "status"}
        assert steps <= operator.spans(), f"a reconciliation's trace has its steps: {operator.spans()}"
    passed(f"the operator in {namespace}: {int(sum(asked.values()))} requests, none refused")


# -- the walk

def main():
    version = helm("version", "--short").strip()
    print(f"helm {version}", flush=True)
    templates()
    bundle()
    kubectl("create", "namespace", "team")
    kubectl("create", "namespace", SYSTEM)
    kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    upgraded()
    helm("install", "aistack-crds", str(CHARTS / "aistack-crds"))
    for kind in names("crd", "default"):
        kubectl("wait", "--for=condition=Established", kind, "--timeout=60s")
    notes = helm("install", "aistack", str(CHARTS / "aistack"), "-n", SYSTEM)
    assert "kubectl apply" in notes and "are not installed" not in notes.split("Network policies")[0], notes
    # What it tells to do next is pasted as it stands.
    begin = notes.index("echo '{")
    step = notes[begin:notes.index("  kubectl wait")]
    # kubectl before 1.33 takes what begins with a brace for JSON.
    json.loads(step[step.index("{"):step.rindex("}") + 1])
    pasted = cluster.attempt("bash", "-c", step)
    assert pasted.stdout.strip() == "aistack.platform.dev/quickstart created", (step, pasted.stdout, pasted.stderr)
    kubectl("delete", "stack", "quickstart", "-n", "default")
    helm("upgrade", "aistack-crds", str(CHARTS / "aistack-crds"), "--set", "annotations.example\\.com/a=b")
    helm("upgrade", "aistack", str(CHARTS / "aistack"), "-n", SYSTEM, "--set", "networkPolicy.stacks.namespaces={team}")
    assert len(names("networkpolicy", "team")) == 5
    passed("installed and upgraded")
    first_moment()
    people()
    pods()
    policies()
    kubectl("delete", "aistacks,kvclusters,inferenceservices,vectorcollections", "--all", "-n", "team", "--wait=false")
    kubectl("delete", "configmap", "aistack-limits", "-n", "team")
    operates("team", SYSTEM, "aistack-operator")
    # A second release, which has rights in one namespace only.
    kubectl("create", "namespace", "blue")
    kubectl("create", "namespace", "blue-ops")
    helm("install", "aistack", str(CHARTS / "aistack"), "-n", "blue-ops", "--set", "watch.namespace=blue")
    for verb, kind, namespace, allowed in [("list", "secrets", "blue", True), ("list", "secrets", "team", False),
                                           ("get", "nodes", "blue", False), ("list", "secrets", "blue-ops", False)]:
        said = cluster.attempt("kubectl", "auth", "can-i", verb, kind, "-n", namespace, "--as",
                               "system:serviceaccount:blue-ops:aistack-operator")
        assert said.stdout.strip() == ("yes" if allowed else "no"), (verb, kind, namespace, said.stdout, said.stderr)
    operates("blue", "blue-ops", "aistack-operator")
    for release, namespace in [("aistack", "blue-ops"), ("aistack", SYSTEM), ("aistack-crds", "default")]:
        helm("uninstall", release, "-n", namespace)
    left = {name.split("/")[1] for name in names("crd", "default")}
    assert len(left) == 7, left
    assert not names("validatingadmissionpolicies", "default")
    assert names("stack", "team") == {"aistack.platform.dev/walk"}, "what people made stays"
    passed("uninstalled: the kinds and what people made stay")
    kubectl("create", "namespace", "moved")
    helm("install", "kinds", str(CHARTS / "aistack-crds"), "--take-ownership")
    helm("install", "platform", str(CHARTS / "aistack"), "-n", "moved")
    helm("upgrade", "platform", str(CHARTS / "aistack"), "-n", "moved")
    assert names("priorityclass", "default") >= {"priorityclass.scheduling.k8s.io/aistack-store"}, "stores go on naming it"
    passed("installed again under other names and in another namespace, beside what stayed")


main()
