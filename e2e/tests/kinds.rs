//! The seven kinds before a real API server: what is refused, what each becomes, and what it says of itself.

use aistack_crds::{AIStack, EnvPool, InferenceService, KVCluster, Kind, TaskSet, VectorCollection, World};
use anyhow::{Context as _, Result};
use e2e::story::says;
use e2e::{Plane, Story};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::{Value, json};

fn documents(text: &str) -> Vec<(Option<String>, Option<String>, Value)> {
    let comment = |document: &str, key: &str| {
        document.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned)
    };
    let read = |document: &str| {
        let object = Value::deserialize(serde_yaml_ng::Deserializer::from_str(document)).expect("YAML");
        (comment(document, "# refused: "), comment(document, "# fix: "), object)
    };
    text.split("\n---\n").map(read).collect()
}

/// As `kubectl create --dry-run=server --validate=strict` has it.
async fn try_create(client: &Client, namespace: &str, object: &Value) -> Result<(), kube::Error> {
    let kind = object["kind"].as_str().and_then(Kind::from_name).expect("a kind of ours");
    let plural = kind.resource().plural;
    let path =
        format!("/apis/platform.dev/v1/namespaces/{namespace}/{plural}?dryRun=All&fieldValidation=Strict");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())
        .expect("a request");
    client.request::<Value>(request).await.map(drop)
}

#[tokio::test]
async fn bad_manifests_are_refused_by_field_and_with_what_to_do() -> Result<()> {
    let Some(plane) = Plane::shared().await else { return Ok(()) };
    let (client, namespace) = (plane.client(), plane.namespace("bad").await?);
    let mut cases = documents(include_str!("refused.yaml"));
    cases.extend(documents(include_str!("../peers/apiserver/refused.yaml")));
    let mut wrong = Vec::new();
    for (refused, fix, object) in &cases {
        let told = match try_create(&client, &namespace, object).await {
            Err(kube::Error::Api(status)) => status.message.clone(),
            Ok(()) => "accepted".to_owned(),
            Err(error) => return Err(error.into()),
        };
        let said = |words: &Option<String>| words.as_ref().is_none_or(|words| told.contains(words.as_str()));
        if !said(refused) || !said(fix) {
            wrong.push(format!("{object}\n  wanted {refused:?} {fix:?}\n  told {told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 75, "only {} manifests", cases.len());
    println!("{} bad manifests, each refused", cases.len());
    Ok(())
}

#[tokio::test]
async fn hostile_sizes_and_forbidden_changes_are_refused() -> Result<()> {
    let Some(plane) = Plane::shared().await else { return Ok(()) };
    let (client, namespace) = (plane.client(), plane.namespace("hostile").await?);
    let head =
        |kind: &str| json!({"apiVersion": "platform.dev/v1", "kind": kind, "metadata": {"name": "thing"}});
    let with = |kind: &str, spec: Value| {
        let mut object = head(kind);
        object["spec"] = spec;
        object
    };
    let huge = "x".repeat(1 << 20);
    let many: Vec<Value> = (0..1000).map(|n| json!({"field": format!("f{n}"), "type": "keyword"})).collect();
    let table = [
        (with("World", json!({"schema": {"inline": huge}})), "spec.schema.inline"),
        (with("VectorCollection", json!({"dimension": 8, "payloadIndexes": many})), "spec.payloadIndexes"),
        (with("KVCluster", json!({"replicas": 9_007_199_254_740_993_i64})), "spec.replicas"),
    ];
    for (object, field) in table {
        let told = try_create(&client, &namespace, &object).await.expect_err(field).to_string();
        assert!(told.contains(field), "{field}: {}", &told[..told.len().min(500)]);
    }
    let api: Api<KVCluster> = Api::namespaced(client.clone(), &namespace);
    let kept = json!({"storage": "8Gi", "storageClassName": "fast"});
    api.create(&PostParams::default(), &serde_json::from_value(with("KVCluster", kept))?).await?;
    for (change, word) in [
        (json!({"spec": {"storage": "4Gi"}}), "4Gi is smaller than 8Gi; a volume can grow but not shrink"),
        (json!({"spec": {"storageClassName": "slow"}}), "the storage class of a volume is for ever"),
        (json!({"spec": {"storageClassName": null}}), "cannot be added, changed or removed"),
        (json!({"spec": {"replicas": 4}}), "4 is even"),
        (
            json!({"spec": {"tls": {"secretName": "tls"}}}),
            "encryption cannot be switched on or off under a group",
        ),
        (
            json!({"spec": {"restore": {"source": "pvc://backups/b"}}}),
            "what a cluster began with cannot change",
        ),
    ] {
        let told = api.patch("thing", &PatchParams::default(), &Patch::Merge(&change)).await;
        let told = told.expect_err(word).to_string();
        assert!(told.contains(word), "{word}: {told}");
    }
    Ok(())
}

#[tokio::test]
async fn an_edit_takes_no_volumes_away() -> Result<()> {
    let Some(plane) = Plane::shared().await else { return Ok(()) };
    let (client, namespace) = (plane.client(), plane.namespace("retention").await?);
    let api: Api<AIStack> = Api::namespaced(client, &namespace);
    let engine = json!({"type": "external", "endpoint": "https://engine.example.com", "model": "m"});
    let stack = json!({"apiVersion": "platform.dev/v1", "kind": "AIStack", "metadata": {"name": "thing"},
        "spec": {"retention": "Delete", "tinykv": {}, "vectorforge": {}, "inference": engine, "modelHub": {}}});
    api.create(&PostParams::default(), &serde_json::from_value(stack)?).await?;
    let edit = async |spec: Value| {
        api.patch("thing", &PatchParams::default(), &Patch::Merge(&json!({"spec": spec}))).await
    };
    for (field, spec) in [
        ("spec.tinykv", json!({"tinykv": null, "kvStore": {"type": "etcd", "endpoints": ["http://e:2379"]}})),
        ("spec.tinykv", json!({"tinykv": null, "retention": "Retain"})),
        (
            "spec.vectorforge",
            json!({"vectorforge": null, "vectorStore": {"type": "qdrant", "endpoint": "http://q:6333"}}),
        ),
        ("spec.modelhub", json!({"modelHub": null})),
    ] {
        let told = edit(spec).await.expect_err(field).to_string();
        assert!(told.contains(field) && told.contains("set retention: Retain"), "{told}");
    }
    edit(json!({"modelHub": null, "modelhub": {}})).await?;
    edit(json!({"retention": null})).await?;
    edit(json!({"modelhub": null, "vectorforge": null})).await?;
    Ok(())
}

#[tokio::test]
async fn a_stack_becomes_its_children_and_says_in_a_line_how_they_fare() -> Result<()> {
    let Some(story) = Story::begin("stack").await? else { return Ok(()) };
    let text = "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: all}\nspec:\n  tinykv: {replicas: 3}\n  vectorforge: {}\n  \
                tinyinfer: {model: m, embedding: {model: e}}\n  modelhub: {requireKeys: true}\n";
    story.apply(text).await?;
    let stack: AIStack = story
        .until("all", "it waits for its parts", |stack: &AIStack| {
            let summary = stack.status.as_ref().and_then(|status| status.summary.clone()).unwrap_or_default();
            ["tinykv: WaitingForPods", "chat: WaitingForPods", "embed: WaitingForPods"]
                .iter()
                .all(|part| summary.contains(part))
        })
        .await?;
    let summary = stack.status.context("a status")?.summary.context("a line")?;
    assert!(summary.starts_with("0/5 ready; "), "{summary}");
    let kv = story.api::<KVCluster>().get("tinykv").await?;
    assert_eq!(kv.metadata.owner_references.as_ref().map(|owners| owners[0].kind.as_str()), Some("AIStack"));
    let services = story.api::<InferenceService>();
    assert_eq!(services.get("chat").await?.spec.model.name, "m");
    story.until("tinyinfer-chat", "the chat model's Deployment", |_: &Deployment| true).await?;
    story.api::<StatefulSet>().get("modelhub").await?;
    let secrets = story.api::<Secret>();
    let key = secrets.get("modelhub-admin").await?.data.context("data")?;

    let edit = json!({"spec": {"tinykv": {"replicas": 3, "quota": "4Gi"}, "tinyinfer": {"model": "other", "embedding": null}}});
    let stacks = story.api::<AIStack>();
    stacks.patch("all", &PatchParams::default(), &Patch::Merge(&edit)).await?;
    story.until("tinykv", "the edit reaches the child", |kv: &KVCluster| kv.spec.quota == "4Gi").await?;
    story.until("chat", "the model too", |chat: &InferenceService| chat.spec.model.name == "other").await?;
    story.until_gone::<InferenceService>("embed").await?;
    assert_eq!(secrets.get("modelhub-admin").await?.data.context("data")?, key, "generated once");

    // The end of it: at rest nothing is written.
    let writes = story.operator.until_settled().await?;
    story.operator.until_reconciled(story.operator.reconciled() + 5).await?;
    assert_eq!(story.operator.writes(), writes);
    story.operator.stop().await
}

#[tokio::test]
async fn the_manifests_of_the_plan_apply_as_they_stand() -> Result<()> {
    for (name, text) in [
        ("plan-production", include_str!("../../examples/production.yaml")),
        ("plan-hybrid", include_str!("../../examples/hybrid.yaml")),
    ] {
        let Some(story) = Story::begin(name).await? else { return Ok(()) };
        story.apply(text).await?;
        let stack = story.api::<AIStack>().list(&ListParams::default()).await?.items.remove(0);
        let told = |stack: &AIStack| {
            let conditions =
                stack.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            says(&conditions, "Supported", "NotInThisVersion") && conditions[0].observed_generation == Some(1)
        };
        story.until(&stack.name_any(), "what this version leaves undone is said", told).await?;
        story.operator.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_of_somebody_elses_is_asked_and_reported() -> Result<()> {
    let Some(story) = Story::begin("external").await? else { return Ok(()) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let there = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
        }
    });
    let gone = format!("http://127.0.0.1:{}", e2e::plane::free_port()?);
    let service = |name: &str, endpoint: &str| {
        format!(
            "apiVersion: platform.dev/v1\nkind: InferenceService\nmetadata: {{name: {name}}}\n\
             spec: {{model: {{name: m}}, runtime: external, endpoint: '{endpoint}'}}\n"
        )
    };
    story.apply(&service("there", &there)).await?;
    story.apply(&service("gone", &gone)).await?;
    for (name, reason) in [("there", "Reachable"), ("gone", "Unreachable")] {
        let told = |service: &InferenceService| {
            service.status.as_ref().is_some_and(|status| says(&status.conditions, "Ready", reason))
        };
        story.until(name, reason, told).await?;
    }
    assert!(
        story.api::<Deployment>().list(&ListParams::default()).await?.items.is_empty(),
        "nothing is run for it"
    );
    story.operator.stop().await
}

#[tokio::test]
async fn a_collection_has_a_server_of_its_own_or_waits_for_a_stacks() -> Result<()> {
    let Some(story) = Story::begin("vectors").await? else { return Ok(()) };
    let text = "apiVersion: platform.dev/v1\nkind: VectorCollection\nmetadata: {name: own}\nspec: {dimension: 8}\n---\n\
                apiVersion: platform.dev/v1\nkind: VectorCollection\nmetadata: {name: shared}\n\
                spec: {dimension: 8, stackRef: {name: later}}\n";
    story.apply(text).await?;
    let told = |reason: &'static str| {
        move |object: &VectorCollection| {
            object.status.as_ref().is_some_and(|status| says(&status.conditions, "Ready", reason))
        }
    };
    story.until("own", "it waits for its server", told("WaitingForPods")).await?;
    story.until("vectorforge-own", "it has one", |_: &StatefulSet| true).await?;
    story.until("own-collection", "and a request", |_: &ConfigMap| true).await?;
    story.until("shared", "there is no stack", told("WaitingForStack")).await?;
    let stack =
        "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: later}\nspec: {vectorforge: {}}\n";
    story.apply(stack).await?;
    let shared = story.until("shared", "the stack is noticed", told("WaitingForPods")).await?;
    assert_eq!(shared.finalizers(), ["platform.dev/vectorcollection"]);
    // The stack's server never ran, so there is nothing to be taken away once it is gone; the annotation lets it go before.
    let escape = json!({"metadata": {"annotations": {"platform.dev/skip-cleanup": "true"}}});
    let api = story.api::<VectorCollection>();
    api.patch("shared", &PatchParams::default(), &Patch::Merge(&escape)).await?;
    api.delete("shared", &DeleteParams::default()).await?;
    story.until_gone::<VectorCollection>("shared").await?;
    story.operator.stop().await
}

#[tokio::test]
async fn kinds_whose_component_is_missing_say_so_and_start_nothing() -> Result<()> {
    let Some(story) = Story::begin("missing").await? else { return Ok(()) };
    let text = "apiVersion: platform.dev/v1\nkind: World\nmetadata: {name: shop}\nspec: {schema: {builtin: shop}}\n---\n\
                apiVersion: platform.dev/v1\nkind: TaskSet\nmetadata: {name: shop}\n\
                spec: {worldRef: {name: shop}, levels: {'1': 10}}\n---\n\
                apiVersion: platform.dev/v1\nkind: EnvPool\nmetadata: {name: shop}\nspec: {worldRef: {name: shop}}\n";
    story.apply(text).await?;
    macro_rules! missing {
        ($($kind:ty),*) => { $(
            let told = |object: &$kind| {
                object.status.as_ref().is_some_and(|status| says(&status.conditions, "Degraded", "ComponentMissing"))
            };
            story.until("shop", "its component is missing", told).await?;
        )* };
    }
    missing!(World, TaskSet, EnvPool);
    assert!(story.api::<StatefulSet>().list(&ListParams::default()).await?.items.is_empty());
    story.operator.stop().await
}
