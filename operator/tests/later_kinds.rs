//! What World, TaskSet and EnvPool become once their components are there: the same pods as everybody's.

use aistack_crds::{EnvPool, TaskSet, World};
use aistack_operator::{Manifests, env_pool, task_set, world};
use serde_json::{Value, json};

fn read<K: serde::de::DeserializeOwned>(kind: &str, spec: &Value) -> K {
    let object = json!({"apiVersion": "platform.dev/v1", "kind": kind,
        "metadata": {"name": "shop", "namespace": "team"}, "spec": spec});
    serde_json::from_value(object).expect("an object of this kind")
}

fn all() -> Vec<(&'static str, Manifests)> {
    let made: World =
        read("World", &json!({"schema": {"builtin": "shop"}, "seed": 7, "resources": {"memory": "1Gi"}}));
    let away: World = read(
        "World",
        &json!({"schema": {"inline": "CREATE TABLE a (b INT)"}, "output": {"url": "s3://b/w"}}),
    );
    let told: World = read("World", &json!({"schema": {"configMap": "tables"}}));
    let tasks: TaskSet =
        read("TaskSet", &json!({"worldRef": {"name": "shop"}, "levels": {"1": 200, "3": 50}}));
    let pool: EnvPool = read(
        "EnvPool",
        &json!({"worldRef": {"name": "shop"}, "taskSetRef": {"name": "shop"}, "replicas": 2,
            "pod": {"nodeSelector": {"pool": "cpu"}}}),
    );
    vec![
        ("world", world::build(&world::validate(&made).expect("valid"))),
        ("world_in_object_storage", world::build(&world::validate(&away).expect("valid"))),
        ("task_set", task_set::build(&task_set::validate(&tasks).expect("valid"))),
        ("world_of_a_config_map", world::build(&world::validate(&told).expect("valid"))),
        ("env_pool", env_pool::build(&env_pool::validate(&pool).expect("valid"))),
    ]
}

#[test]
fn manifests() {
    for (name, manifests) in all() {
        insta::assert_snapshot!(name, manifests.to_yaml());
    }
}

#[test]
fn every_pod_is_restricted_and_mounts_what_it_names() {
    for (name, manifests) in all() {
        let workload = manifests.iter().map(|manifest| serde_json::to_value(manifest).expect("plain data"));
        let pods: Vec<Value> =
            workload.filter_map(|object| object.pointer("/spec/template/spec").cloned()).collect();
        assert_eq!(pods.len(), 1, "{name}");
        for pod in pods {
            let at = |pointer: &str| pod.pointer(pointer).cloned().unwrap_or_default();
            assert_eq!(at("/securityContext/runAsNonRoot"), true, "{name}");
            assert_eq!(at("/securityContext/seccompProfile/type"), "RuntimeDefault", "{name}");
            assert_eq!(at("/automountServiceAccountToken"), false, "{name}");
            assert_eq!(at("/containers/0/securityContext/readOnlyRootFilesystem"), true, "{name}");
            assert_eq!(at("/containers/0/securityContext/capabilities/drop/0"), "ALL", "{name}");
            let mounts = at("/containers/0/volumeMounts");
            for volume in at("/volumes").as_array().expect("volumes") {
                let is_mounted =
                    mounts.as_array().expect("mounts").iter().any(|mount| mount["name"] == volume["name"]);
                assert!(is_mounted, "{name} mounts {} nowhere", volume["name"]);
            }
        }
    }
}

#[test]
fn tasks_that_are_none_are_refused() {
    let tasks: TaskSet = read("TaskSet", &json!({"worldRef": {"name": "shop"}, "levels": {"1": 0}}));
    let problems = task_set::validate(&tasks).expect_err("no task");
    assert_eq!(problems[0].path, "spec.levels");
}

#[test]
fn a_pool_that_grows_makes_no_pod_anew() {
    let template = |replicas: i32| {
        let pool: EnvPool = read("EnvPool", &json!({"worldRef": {"name": "shop"}, "replicas": replicas}));
        let built = env_pool::build(&env_pool::validate(&pool).expect("valid"));
        let set = built.iter().find(|manifest| manifest.kind() == "StatefulSet").expect("a StatefulSet");
        serde_json::to_value(set).expect("plain data").pointer("/spec/template").cloned()
    };
    assert!(template(1).is_some() && template(1) == template(3));
}

#[test]
fn an_autoscaler_owns_the_number_of_a_pools_servers() {
    let scaling = json!({"minReplicas": 2, "maxReplicas": 9, "targetCpuPercent": 60});
    let spec = json!({"worldRef": {"name": "shop"}, "scaling": scaling, "resources": {"cpu": "1"}});
    let pool: EnvPool = read("EnvPool", &spec);
    let built = env_pool::build(&env_pool::validate(&pool).expect("valid"));
    let of_kind = |kind: &str| {
        let manifest = built.iter().find(|manifest| manifest.kind() == kind).expect(kind);
        serde_json::to_value(manifest).expect("plain data")
    };
    assert_eq!(of_kind("StatefulSet").pointer("/spec/replicas"), None);
    let scaler = of_kind("HorizontalPodAutoscaler");
    assert_eq!(scaler["spec"]["scaleTargetRef"]["kind"], "StatefulSet");
    assert_eq!((&scaler["spec"]["minReplicas"], &scaler["spec"]["maxReplicas"]), (&json!(2), &json!(9)));
    assert_eq!(scaler.pointer("/spec/metrics/0/resource/target/averageUtilization"), Some(&json!(60)));
}
