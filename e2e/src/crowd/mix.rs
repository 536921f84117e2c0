//! Which objects a namespace of a crowd has. Of twenty: an AIStack with its own KVCluster, VectorForge, InferenceService and ModelHub;
//! four KVClusters, one of three voters; three VectorCollections, one of them on the stack's servers; six InferenceServices, one on a
//! GPU and one scaled by an autoscaler; two Worlds, two TaskSets and two EnvPools.

use serde_json::{Value, json};

/// Name of the stack of a namespace, which has one at most: its parts have fixed names.
const STACK: &str = "stack";
/// After so many objects the mix begins anew.
const ROUND: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Stack,
    Kv(u8),
    Vector,
    StackVector,
    Service,
    GpuService,
    AutoscaledService,
    World,
    Tasks,
    Envs,
}

fn sort(number: usize) -> Sort {
    match number % ROUND {
        0 if number == 0 => Sort::Stack,
        0..=3 => Sort::Kv(1),
        4 => Sort::Kv(3),
        5 | 6 => Sort::Vector,
        7 => Sort::StackVector,
        8..=11 => Sort::Service,
        12 => Sort::GpuService,
        13 => Sort::AutoscaledService,
        14 | 15 => Sort::World,
        16 | 17 => Sort::Tasks,
        _ => Sort::Envs,
    }
}

/// The objects of a namespace.
pub fn objects(count: usize, has_gpus: bool) -> Vec<Value> {
    (0..count).map(|number| object(number, has_gpus)).collect()
}

fn object(number: usize, has_gpus: bool) -> Value {
    let service = json!({"model": {"name": "m"}, "replicas": 1});
    let with = |spec: &Value, more: Value| {
        let mut spec = spec.clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            spec[name.as_str()] = value.clone();
        }
        spec
    };
    let world = json!({"name": format!("world-{}", number / ROUND * ROUND + 14)});
    let (kind, name, spec) = match sort(number) {
        Sort::Stack => {
            let spec = json!({"tinykv": {"replicas": 1}, "vectorforge": {"replicas": 1},
                "tinyinfer": {"model": "smollm2-135m-instruct"}, "modelhub": {"replicas": 1}});
            ("AIStack", STACK.to_owned(), spec)
        }
        Sort::Kv(voters) => ("KVCluster", format!("kv-{number}"), json!({"replicas": voters})),
        Sort::Vector => ("VectorCollection", format!("vectors-{number}"), json!({"dimension": 384})),
        Sort::StackVector => {
            let spec = json!({"dimension": 384, "stackRef": {"name": STACK}});
            ("VectorCollection", format!("vectors-{number}"), spec)
        }
        Sort::Service => ("InferenceService", format!("service-{number}"), service),
        Sort::GpuService => {
            let gpu = json!({"runtime": "vllm", "gpu": {"product": "nvidia-a100", "count": 1}});
            let more = if has_gpus { gpu } else { json!({"runtime": "vllm"}) };
            ("InferenceService", format!("gpu-{number}"), with(&service, more))
        }
        Sort::AutoscaledService => {
            let spec = json!({"model": {"name": "m"}, "scaling": {"minReplicas": 1, "maxReplicas": 3, "metric": "cpu"},
                "resources": {"cpu": "1", "memory": "1Gi"}});
            ("InferenceService", format!("scaled-{number}"), spec)
        }
        Sort::World => ("World", format!("world-{number}"), json!({"schema": {"builtin": "helpdesk"}})),
        Sort::Tasks => {
            ("TaskSet", format!("tasks-{number}"), json!({"worldRef": world, "levels": {"1": 10}}))
        }
        Sort::Envs => ("EnvPool", format!("envs-{number}"), json!({"worldRef": world})),
    };
    json!({"apiVersion": "platform.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Names of the Services of the vector servers of a namespace.
pub fn vector_servers(count: usize) -> impl Iterator<Item = String> {
    let own = (0..count).filter(|number| sort(*number) == Sort::Vector);
    own.map(|number| format!("vectorforge-vectors-{number}")).chain(["vectorforge".to_owned()])
}

/// Names of InferenceServices with a fixed number of pods and no GPU.
pub fn scaled_services(count: usize) -> impl Iterator<Item = String> {
    (0..count).filter(|number| sort(*number) == Sort::Service).map(|number| format!("service-{number}"))
}
