//! A table of manifests, right and wrong, and what is said about each.

use aistack_crds::Kind;
use aistack_crds::check::{check, check_update};
use serde_json::{Value, json};

fn object(kind: Kind, spec: &Value) -> Value {
    json!({"apiVersion": "platform.dev/v1", "kind": kind.name(), "metadata": {"name": "thing"}, "spec": spec})
}

/// What is said about a spec, one violation a line; empty when it is accepted.
fn said(kind: Kind, spec: &str) -> String {
    let spec: Value = serde_yaml_ng::from_str(spec).expect("the table's YAML");
    match check(&kind.crd(), &object(kind, &spec)) {
        Ok(_) => String::new(),
        Err(violations) => violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

#[track_caller]
fn refused(kind: Kind, spec: &str, needle: &str) {
    let said = said(kind, spec);
    assert!(said.contains(needle), "{spec}\nshould be refused with  {needle}\nbut was answered    {said:?}");
}

#[track_caller]
fn accepted(kind: Kind, spec: &str) {
    assert_eq!(said(kind, spec), "", "{spec}");
}

#[test]
fn stacks() {
    use Kind::AIStack;
    accepted(
        AIStack,
        "{tinykv: {replicas: 3}, vectorforge: {replicas: 2, storage: 100Gi}, tinyinfer: {replicas: 5, model: llama-7b, gpu: nvidia-a100}, modelhub: {replicas: 3}}",
    );
    accepted(AIStack, "{tinykv: {}}");
    accepted(AIStack, "{sql: {type: postgres, endpoint: 'postgres://db:5432/x'}}");
    let table = [
        ("{}", "spec: is empty; name at least one component"),
        (
            "{tinykv: {replicas: 2}}",
            "spec.tinykv.replicas: 2 is even; a Raft cluster of 2 survives no failure; use 1 (laptop) or 3, 5, 7",
        ),
        ("{tinykv: {replicas: 4}}", "a Raft cluster of 4 survives no more failures than one of 3"),
        ("{tinykv: {replicas: 9}}", "spec.tinykv.replicas: 9 is out of range; allowed is from 1 to 7"),
        ("{tinykv: {replicas: 0}}", "spec.tinykv.replicas: 0 is out of range"),
        (
            "{tinykv: {replicas: three}}",
            "spec.tinykv.replicas: is the text \"three\", but a whole number is wanted",
        ),
        ("{tinykv: {replica: 3}}", "spec.tinykv.replica: is not a field; did you mean replicas?"),
        ("{tinykv: }", "spec.tinykv: is empty; write {} for the defaults"),
        ("{tiny: {}}", "spec.tiny: is not a field"),
        (
            "{tinykv: {storage: 10 gigs}}",
            "spec.tinykv.storage: `10 gigs` does not have the right form; write a size such as 500Mi or 100Gi",
        ),
        ("{tinykv: {storage: 10}}", "spec.tinykv.storage: is the number 10, but text (quote it) is wanted"),
        (
            "{tinykv: {}, kvStore: {type: etcd, endpoints: ['http://e:2379']}}",
            "spec.kvStore: is set beside spec.tinykv",
        ),
        (
            "{kvStore: {type: etcd, endpoints: []}}",
            "spec.kvStore.endpoints: has 0 entries; at least 1 are needed",
        ),
        (
            "{kvStore: {type: etcd, endpoints: ['e:2379']}}",
            "spec.kvStore.endpoints[0]: `e:2379` does not have the right form; write an address such as http://host:8000",
        ),
        (
            "{kvStore: {type: etcd, endpoints: ['http://e:1', 'http://e:1']}}",
            "spec.kvStore.endpoints[1]: repeats \"http://e:1\"",
        ),
        (
            "{kvStore: {type: zookeeper, endpoints: ['http://e:2379']}}",
            "spec.kvStore.type: `zookeeper` is not one of etcd",
        ),
        ("{vectorStore: {type: qdrent, endpoint: 'http://q:6333'}}", "did you mean qdrant?"),
        ("{vectorStore: {type: qdrant}}", "spec.vectorStore.endpoint: is missing"),
        (
            "{vectorforge: {}, vectorStore: {type: qdrant, endpoint: 'http://q:6333'}}",
            "spec.vectorStore: is set beside spec.vectorforge",
        ),
        ("{tinyinfer: {}}", "spec.tinyinfer.model: is missing"),
        ("{tinyinfer: {model: m, gpuCount: 2}}", "spec.tinyinfer.gpuCount: is set without gpu"),
        (
            "{tinyinfer: {model: m, replicas: 1, scaling: {maxReplicas: 3}}}",
            "spec.tinyinfer.replicas: is set beside scaling",
        ),
        (
            "{tinyinfer: {model: m, scaling: {minReplicas: 5, maxReplicas: 3}}}",
            "has minReplicas above maxReplicas",
        ),
        (
            "{tinyinfer: {model: m}, inference: {type: vllm, model: m}}",
            "spec.inference: is set beside spec.tinyinfer",
        ),
        ("{inference: {type: external, model: m}}", "spec.inference.endpoint: is missing"),
        (
            "{inference: {type: vllm, model: m, endpoint: 'http://v:8000', replicas: 2}}",
            "spec.inference.endpoint: is set, so the server already runs",
        ),
        ("{modelhub: {}}", "has a model hub but no key-value store"),
        ("{modelhub: {}, tinykv: {}}", "has a model hub but no vector database"),
        ("{modelhub: {}, tinykv: {}, vectorforge: {}}", "has a model hub but no inference engine"),
        (
            "{modelhub: {}, modelHub: {}, tinykv: {}, vectorforge: {}, tinyinfer: {model: m}}",
            "spec.modelHub: is set beside spec.modelhub",
        ),
        (
            "{minidb: {}, sql: {type: postgres, endpoint: 'postgres://d/x'}}",
            "spec.sql: is set beside spec.minidb",
        ),
        ("{envruntime: {}, envRuntime: {}}", "spec.envRuntime: is set beside spec.envruntime"),
        ("{envRuntime: {interfaces: {mcp: false, openenv: false}}}", "are all off"),
    ];
    for (spec, needle) in table {
        refused(AIStack, spec, needle);
    }
}

#[test]
fn inference_services() {
    use Kind::InferenceService;
    accepted(InferenceService, "{model: {name: llama-7b}}");
    accepted(InferenceService, "{model: {name: m}, runtime: external, endpoint: 'http://v:8000'}");
    accepted(
        InferenceService,
        "{model: {name: m}, traffic: [{version: '1', percent: 90}, {version: '2', percent: 10}, {version: '3', percent: 50, shadow: true}]}",
    );
    let table = [
        ("{}", "spec.model: is missing"),
        ("{model: {name: m, version: '1', uri: 's3://b/m'}}", "names both version and uri"),
        ("{model: {name: m}, runtime: external}", "spec.endpoint: is missing; runtime external"),
        ("{model: {name: m}, endpoint: 'http://v:8000'}", "spec.endpoint: is set, but only runtime external"),
        (
            "{model: {name: m}, runtime: external, endpoint: 'http://v:8000', gpu: {}}",
            "spec.runtime: is external",
        ),
        ("{model: {name: m}, runtime: tinyinfr}", "did you mean tinyinfer?"),
        (
            "{model: {name: m}, traffic: [{version: '1', percent: 60}, {version: '2', percent: 30}]}",
            "spec.traffic: must share exactly 100 percent",
        ),
        (
            "{model: {name: m}, traffic: [{version: '1', percent: 50}, {version: '1', percent: 50}]}",
            "spec.traffic[1]: repeats version \"1\"",
        ),
        ("{model: {name: m}, traffic: [{version: '1', percent: 101}]}", "101 is out of range"),
        (
            "{model: {name: m}, canary: {version: '2', steps: [50, 10, 100]}}",
            "spec.canary.steps: must rise and end at 100",
        ),
        (
            "{model: {name: m}, canary: {version: '2', steps: [5, 50]}}",
            "spec.canary.steps: must rise and end at 100",
        ),
        (
            "{model: {name: m}, task: embed, speculative: {draftModel: d}}",
            "spec.speculative: needs task chat",
        ),
        ("{model: {name: m}, gpu: {count: 0}}", "spec.gpu.count: 0 is out of range"),
        (
            "{model: {name: m}, replicas: 1, scaling: {maxReplicas: 2}}",
            "spec.replicas: is set beside spec.scaling",
        ),
        ("{model: {name: m}, resources: {cpu: lots}}", "write cores such as 2 or 500m"),
        ("{model: {name: '../../etc'}}", "spec.model.name"),
    ];
    for (spec, needle) in table {
        refused(InferenceService, spec, needle);
    }
}

#[test]
fn vector_collections() {
    use Kind::VectorCollection;
    accepted(VectorCollection, "{dimension: 384}");
    accepted(
        VectorCollection,
        "{dimension: 384, stackRef: {name: quickstart}, payloadIndexes: [{field: a.b, type: keyword}]}",
    );
    let table = [
        ("{}", "spec.dimension: is missing"),
        ("{dimension: 0}", "0 is out of range; allowed is from 1 to 65536"),
        ("{dimension: 8, distance: cosine}", "did you mean Cosine?"),
        (
            "{dimension: 8, stackRef: {name: s}, storage: 1Gi}",
            "spec.stackRef: is set, so the collection lives on the stack's VectorForge",
        ),
        ("{dimension: 8, replicationFactor: 2}", "spec.replicationFactor: is above replicas"),
        (
            "{dimension: 8, payloadIndexes: [{field: a, type: keyword}, {field: a, type: text}]}",
            "repeats field \"a\"",
        ),
        ("{dimension: 8, hnsw: {m: 1}}", "spec.hnsw.m: 1 is out of range"),
    ];
    for (spec, needle) in table {
        refused(VectorCollection, spec, needle);
    }
}

#[test]
fn learning_kinds() {
    accepted(Kind::World, "{schema: {builtin: helpdesk}}");
    accepted(Kind::TaskSet, "{worldRef: {name: w}, levels: {'1': 200, '5': 3}}");
    accepted(Kind::EnvPool, "{worldRef: {name: w}}");
    let table = [
        (Kind::World, "{schema: {}}", "spec.schema: needs exactly one of builtin, inline and configMap"),
        (Kind::World, "{schema: {builtin: a, inline: b}}", "needs exactly one"),
        (
            Kind::TaskSet,
            "{worldRef: {name: w}, levels: {'6': 1}}",
            "spec.levels: has a level other than 1 to 5",
        ),
        (Kind::TaskSet, "{worldRef: {name: w}, levels: {}}", "has 0 entries; at least 1 are needed"),
        (
            Kind::TaskSet,
            "{worldRef: {name: w}, levels: {'1': 1}, split: {train: 50}}",
            "spec.split: must share exactly 100 percent",
        ),
        (Kind::EnvPool, "{worldRef: {name: W}}", "use lower-case letters"),
        (Kind::EnvPool, "{worldRef: {name: w}, agent: {model: m}}", "spec.agent.endpoint: is missing"),
    ];
    for (kind, spec, needle) in table {
        refused(kind, spec, needle);
    }
}

#[test]
fn changes_that_would_lose_data_are_refused() {
    let table = [
        (Kind::KVCluster, "{storage: 8Gi}", "{storage: 4Gi}", "4Gi is smaller than 8Gi"),
        (Kind::KVCluster, "{storage: 8Gi}", "{storage: 8192Mi}", ""),
        (
            Kind::KVCluster,
            "{storageClassName: a}",
            "{storageClassName: b}",
            "spec.storageClassName: cannot be added, changed or removed",
        ),
        (Kind::KVCluster, "{storageClassName: a}", "{}", "spec.storageClassName: cannot be"),
        // Kubernetes takes no other template of claims for a StatefulSet that is there.
        (Kind::KVCluster, "{}", "{storageClassName: a}", "spec.storageClassName: cannot be added"),
        (
            Kind::AIStack,
            "{tinykv: {}, vectorforge: {}}",
            "{tinykv: {}, vectorforge: {storageClassName: a}}",
            "spec.vectorforge.storageClassName: cannot be added",
        ),
        (
            Kind::VectorCollection,
            "{dimension: 8, storageClassName: a}",
            "{dimension: 8, storageClassName: b}",
            "spec.storageClassName: cannot be added, changed",
        ),
        (
            Kind::VectorCollection,
            "{dimension: 8, storage: 16Gi}",
            "{dimension: 8}",
            "spec.storage: would shrink",
        ),
        (
            Kind::VectorCollection,
            "{dimension: 8}",
            "{dimension: 8, storage: 4Gi}",
            "spec.storage: would shrink",
        ),
        (Kind::VectorCollection, "{dimension: 8, storage: 4Gi}", "{dimension: 8}", ""),
        (Kind::VectorCollection, "{dimension: 8}", "{dimension: 8, storage: 9Gi}", ""),
        (Kind::VectorCollection, "{dimension: 8}", "{dimension: 16}", "spec.dimension: cannot change"),
        (
            Kind::VectorCollection,
            "{dimension: 8}",
            "{dimension: 8, distance: Dot}",
            "spec.distance: cannot change",
        ),
        (
            Kind::VectorCollection,
            "{dimension: 8}",
            "{dimension: 8, stackRef: {name: s}}",
            "spec.stackRef: cannot be added or removed",
        ),
        (
            Kind::World,
            "{schema: {builtin: a}}",
            "{schema: {builtin: a}, seed: 1}",
            "cannot change; a world is made once",
        ),
        (
            Kind::AIStack,
            "{vectorforge: {storage: 2Gi}}",
            "{vectorforge: {storage: 1Gi}}",
            "spec.vectorforge.storage: a volume can grow but not shrink",
        ),
    ];
    for (kind, old, new, needle) in table {
        let parse = |spec: &str| object(kind, &serde_yaml_ng::from_str(spec).expect("the table's YAML"));
        let said = match check_update(&kind.crd(), &parse(old), &parse(new)) {
            Ok(_) => String::new(),
            Err(violations) => violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        };
        assert!(
            said.contains(needle) && said.is_empty() == needle.is_empty(),
            "{kind} {old} -> {new}: {said:?}"
        );
    }
}

#[test]
fn schedules_are_what_a_cron_job_takes() {
    let spec = |schedule: &str| format!("{{backup: {{schedule: '{schedule}', destination: 's3://b/p'}}}}");
    for schedule in
        ["0 3 * * *", "*/5 * * * *", "30 2 1,15 * mon-fri", "0-30/10 0 ? jan,JUN 0", "59 23 31 12 6"]
    {
        accepted(Kind::KVCluster, &spec(schedule));
    }
    for schedule in [
        "",
        "daily",
        "@hourly",
        "60 3 * * *",
        "0 24 * * *",
        "0 3 32 * *",
        "0 3 * 13 *",
        "0 3 * * 7",
        "0 3 * *",
        "0 3 * * * *",
        "*/0 3 * * *",
        "0 3 * foo *",
    ] {
        assert_ne!(said(Kind::KVCluster, &spec(schedule)), "", "{schedule}");
    }
}

#[test]
fn names_are_dns_labels() {
    for (name, good) in [("quickstart", true), ("Quick", false), ("a_b", false), ("-a", false), ("", false)] {
        let mut stack = object(Kind::AIStack, &json!({"tinykv": {}}));
        stack["metadata"]["name"] = json!(name);
        assert_eq!(check(&Kind::AIStack.crd(), &stack).is_ok(), good, "{name:?}");
    }
    let mut long = object(Kind::AIStack, &json!({"tinykv": {}}));
    long["metadata"]["name"] = json!("a".repeat(31));
    let said = check(&Kind::AIStack.crd(), &long).expect_err("too long")[0].to_string();
    assert!(said.contains("longer than 30 characters"), "{said}");
}

#[test]
fn defaults_are_filled_in() {
    let stack = check(&Kind::AIStack.crd(), &object(Kind::AIStack, &json!({"tinykv": {}}))).expect("valid");
    assert_eq!(stack["spec"]["tinykv"]["replicas"], 1);
    assert_eq!(stack["spec"]["tinykv"]["storage"], "8Gi");
}
