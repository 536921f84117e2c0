//! The reconcile kernel before a real API server: what it writes, what it leaves alone, and who leads. Nothing acts on objects
//! here, no garbage is collected and no pod runs; what is left is what the kernel itself does.

use std::collections::BTreeMap;
use std::time::Duration;

use aistack_api::operator::OperatorConfig;
use aistack_crds::kv_cluster::KvRestore;
use aistack_crds::{InferenceService, KVCluster, KVClusterSpec};
use anyhow::{Context as _, Result};
use e2e::{Plane, Running, Story, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// What these stories tell of KVClusters.
trait Clusters {
    async fn create(&self, name: &str, spec: KVClusterSpec) -> Result<KVCluster>;
    async fn says(&self, name: &str, reason: &str) -> Result<KVCluster>;
    async fn annotate(&self, name: &str, key: &str, value: Option<&str>) -> Result<()>;
    async fn versions(&self) -> Result<BTreeMap<String, String>>;
    async fn prunes_what_an_earlier_version_made(&self, of: &KVCluster) -> Result<()>;
    async fn settings(&self, with: &str) -> Result<Option<ConfigMap>>;
}

impl Clusters for Story {
    async fn create(&self, name: &str, spec: KVClusterSpec) -> Result<KVCluster> {
        self.api().create(&PostParams::default(), &KVCluster::new(name, spec)).await.context("create")
    }

    /// Waits until the cluster says why it is not ready yet: with no pods, it is being founded.
    async fn says(&self, name: &str, reason: &str) -> Result<KVCluster> {
        let what = format!("{name} says {reason}");
        let says = |kv: &KVCluster| condition(kv, "Ready").is_some_and(|ready| ready.1 == reason);
        self.until(name, &what, says).await
    }

    async fn annotate(&self, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.edit::<KVCluster>(name, &json!({"metadata": {"annotations": {key: value}}})).await
    }

    /// Versions of all that the operator may write, by kind and name.
    async fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions = BTreeMap::new();
        macro_rules! of {
            ($($kind:ty),*) => { $(
                for object in self.api::<$kind>().list(&ListParams::default()).await?.items {
                    let name = format!("{} {}", stringify!($kind), object.name_any());
                    versions.insert(name, object.resource_version().unwrap_or_default());
                }
            )* };
        }
        of!(KVCluster, StatefulSet, ConfigMap, Service, Secret, PodDisruptionBudget);
        Ok(versions)
    }

    /// A child of an earlier version of the operator, which this one does not make, goes.
    async fn prunes_what_an_earlier_version_made(&self, of: &KVCluster) -> Result<()> {
        let owner = kube::Resource::controller_owner_ref(of, &()).context("an owner")?;
        let child = |kind: &str| {
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "earlier", "ownerReferences": [owner],
                "labels": {"app.kubernetes.io/managed-by": "aistack-operator"}}})
        };
        let (maps, services) = (self.api::<ConfigMap>(), self.api::<Service>());
        let params = PatchParams::apply("earlier");
        // Pods of before may read it, and no pod is of the newest template yet.
        maps.patch("earlier", &params, &Patch::Apply(&child("ConfigMap"))).await?;
        let mut service = child("Service");
        service["spec"] = json!({"ports": [{"port": 1}]});
        services.patch("earlier", &params, &Patch::Apply(&service)).await?;
        self.until_gone::<Service>("earlier").await?;
        maps.get("earlier").await?;
        Ok(())
    }

    /// The ConfigMap with the members' settings, of those the one whose settings hold a text.
    async fn settings(&self, with: &str) -> Result<Option<ConfigMap>> {
        let maps = self.api::<ConfigMap>().list(&ListParams::default()).await?.items;
        let has = |map: &ConfigMap| {
            map.data.iter().flatten().any(|(name, text)| name == "tinykv.yaml" && text.contains(with))
        };
        Ok(maps.into_iter().find(|map| map.name_any().starts_with("kv-config-") && has(map)))
    }
}

/// Status and reason of a condition.
fn condition(kv: &KVCluster, kind: &str) -> Option<(String, String)> {
    let conditions = kv.status.as_ref()?.conditions.iter();
    conditions
        .filter(|condition| condition.type_ == kind)
        .map(|condition| (condition.status.clone(), condition.reason.clone()))
        .next()
}

fn three() -> KVClusterSpec {
    KVClusterSpec { replicas: 3, ..KVClusterSpec::default() }
}

#[tokio::test]
async fn an_object_becomes_its_children_and_says_so() -> Result<()> {
    let Some(story) = Story::begin("becomes").await? else { return Ok(()) };
    story.create("kv", three()).await?;
    let kv = story.says("kv", "WaitingForPods").await?;
    let status = kv.status.clone().context("a status")?;
    assert_eq!(status.observed_generation, kv.metadata.generation);
    assert_eq!(status.summary.as_deref(), Some("0/3 voters"));
    assert_eq!(status.endpoint.as_deref(), Some("http://kv.becomes.svc:2379"));
    assert_eq!(condition(&kv, "Reconciling").map(|said| said.0).as_deref(), Some("True"), "kstatus waits");
    assert!(
        status.conditions.iter().all(|condition| condition.observed_generation == kv.metadata.generation)
    );
    let set = story.api::<StatefulSet>().get("kv").await?;
    let owner =
        set.metadata.owner_references.as_ref().and_then(|owners| owners.first()).context("an owner")?;
    assert_eq!((owner.kind.as_str(), owner.controller), ("KVCluster", Some(true)));
    assert_eq!(Some(&owner.uid), kv.metadata.uid.as_ref());
    let managers: Vec<_> = set.managed_fields().iter().filter_map(|entry| entry.manager.as_deref()).collect();
    assert_eq!(managers, ["aistack-operator"]);
    for name in ["kv", "kv-members"] {
        story.api::<Service>().get(name).await?;
    }
    story.operator.stop().await
}

#[tokio::test]
async fn at_rest_and_after_a_restart_nothing_is_written() -> Result<()> {
    let Some(story) = Story::begin("rest").await? else { return Ok(()) };
    for number in 0..5 {
        story.create(&format!("kv-{number}"), three()).await?;
    }
    for number in 0..5 {
        story.says(&format!("kv-{number}"), "WaitingForPods").await?;
    }
    let writes = story.operator.until_settled().await?;
    let versions = story.versions().await?;
    // Each is looked at again every few seconds while its pods are missing.
    story.operator.until_reconciled(story.operator.reconciled() + 10).await?;
    assert_eq!(story.versions().await?, versions);
    assert_eq!(story.operator.writes(), writes, "a request that changes nothing is one too many");

    let Story { plane, namespace, operator, .. } = story;
    operator.stop().await?;
    let second = Running::start(plane, &namespace).await?;
    second.until_reconciled(10).await?;
    assert_eq!(second.writes(), 0, "what was applied is read off the objects");
    let story = Story { plane, client: plane.client(), namespace, operator: second };
    assert_eq!(story.versions().await?, versions);
    story.operator.stop().await
}

#[tokio::test]
async fn drift_is_healed_and_what_others_add_is_left() -> Result<()> {
    let Some(story) = Story::begin("drift").await? else { return Ok(()) };
    story.create("kv", three()).await?;
    story.says("kv", "WaitingForPods").await?;
    let maps = story.api::<ConfigMap>();
    let before = story.settings("").await?.context("the settings")?;
    let (name, before) = (before.name_any(), before.data.context("data")?);
    let edit = json!({"data": {"tinykv.yaml": "quota_bytes: 1", "theirs": "stays"}});
    maps.patch(&name, &PatchParams::default(), &Patch::Merge(&edit)).await?;
    let healed = |map: &ConfigMap| {
        let data = map.data.clone().unwrap_or_default();
        data.get("tinykv.yaml") == before.get("tinykv.yaml") && data.contains_key("theirs")
    };
    wait::object(&maps, &story.client, &name, "the edit is taken back", healed).await?;
    let sets = story.api::<StatefulSet>();
    sets.delete("kv", &DeleteParams::background()).await?;
    wait::object(&sets, &story.client, "kv", "what was deleted is made anew", |_| true).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn an_edit_reaches_the_children_and_what_is_wanted_no_more_goes() -> Result<()> {
    let Some(story) = Story::begin("edit").await? else { return Ok(()) };
    let kv = story.create("kv", three()).await?;
    story.says("kv", "WaitingForPods").await?;
    story.prunes_what_an_earlier_version_made(&kv).await?;
    let before = story.settings("").await?.context("the settings")?;
    let edit = json!({"spec": {"quota": "4Gi"}});
    story.api::<KVCluster>().patch("kv", &PatchParams::default(), &Patch::Merge(&edit)).await?;
    wait::until("the edit reaches the configuration", || story.settings("4294967296")).await?;
    let still = story.api::<ConfigMap>().get(&before.name_any()).await?;
    assert_eq!(still.data, before.data, "a pod of before that starts anew reads what it was made with");
    let seen =
        |kv: &KVCluster| kv.status.as_ref().is_some_and(|status| status.observed_generation == Some(2));
    wait::object(&story.api(), &story.client, "kv", "the status is of the edit", seen).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn a_secret_that_only_points_at_an_object_stays() -> Result<()> {
    let Some(story) = Story::begin("points").await? else { return Ok(()) };
    // It has no pods that might read them.
    let external = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService", "metadata": {"name": "talk"},
        "spec": {"model": {"name": "m"}, "runtime": "external", "endpoint": "http://127.0.0.1:9"}});
    let services = story.api::<InferenceService>();
    let service = services.create(&PostParams::default(), &serde_json::from_value(external)?).await?;
    let owner = kube::Resource::controller_owner_ref(&service, &()).context("an owner")?;
    let secrets = story.api::<Secret>();
    let points = |name: &str, labels: serde_json::Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "ownerReferences": [owner], "labels": labels}});
    let theirs =
        secrets.create(&PostParams::default(), &serde_json::from_value(points("theirs", json!({})))?).await?;
    let ours = json!({"app.kubernetes.io/managed-by": "aistack-operator"});
    secrets.create(&PostParams::default(), &serde_json::from_value(points("ours", ours))?).await?;
    // What carries our label is pruned, so the turn that would have deleted the other one has been.
    story.until_gone::<Secret>("ours").await?;
    assert_eq!(secrets.get("theirs").await?.uid(), theirs.uid());
    story.operator.stop().await
}

#[tokio::test]
async fn a_volume_of_somebody_elses_is_not_used() -> Result<()> {
    let Some(story) = Story::begin("volumes").await? else { return Ok(()) };
    let claims = story.api::<PersistentVolumeClaim>();
    let theirs = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data-kv-0"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    claims.create(&PostParams::default(), &serde_json::from_value(theirs)?).await?;
    story.create("kv", three()).await?;
    let kv = story.says("kv", "NameTaken").await?;
    let message = &kv.status.as_ref().context("a status")?.conditions[0].message;
    assert!(message.contains("PersistentVolumeClaim data-kv-0"), "{message}");
    assert!(story.api::<StatefulSet>().get_opt("kv").await?.is_none(), "nothing would mount it");
    // As a claim of an earlier cluster of this name is: that one is taken up again.
    let ours = json!({"metadata": {"labels": {"app.kubernetes.io/name": "tinykv", "app.kubernetes.io/instance": "kv"}}});
    story.edit::<PersistentVolumeClaim>("data-kv-0", &ours).await?;
    story.says("kv", "WaitingForPods").await?;
    story.operator.stop().await
}

#[tokio::test]
async fn a_backup_is_not_restored_over_volumes_that_are_there() -> Result<()> {
    let Some(story) = Story::begin("left").await? else { return Ok(()) };
    let left = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data-kv-0",
        "labels": {"app.kubernetes.io/name": "tinykv", "app.kubernetes.io/instance": "kv"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claims = story.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &serde_json::from_value(left)?).await?;
    // The API server tells when something was made in whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let restore = Some(KvRestore { source: "pvc://shelf/kv.db".to_owned(), secret_name: None });
    story.create("kv", KVClusterSpec { restore, ..three() }).await?;
    let kv = story.says("kv", "RestoreRefused").await?;
    let message = &kv.status.as_ref().context("a status")?.conditions[0].message;
    assert!(message.contains("kubectl delete pvc data-kv-0"), "{message}");
    assert!(story.api::<StatefulSet>().get_opt("kv").await?.is_none(), "nothing would mount it");
    story.edit::<KVCluster>("kv", &json!({"spec": {"restore": null}})).await?;
    story.says("kv", "WaitingForPods").await?;
    story.operator.stop().await
}

#[tokio::test]
async fn what_an_edit_leaves_out_goes_from_a_child_that_was_made_with_it() -> Result<()> {
    let Some(story) = Story::begin("less").await? else { return Ok(()) };
    let sets = story.api::<StatefulSet>();
    let spec = |disk: Option<&str>| json!({"pod": {"nodeSelector": {"disk": disk}}});
    // At once, and after another value was applied beside what the creation set.
    for (name, edits) in [("once", &[None][..]), ("twice", &[Some("nvme"), None])] {
        let pod = serde_json::from_value(spec(Some("ssd"))["pod"].clone())?;
        story.create(name, KVClusterSpec { pod, ..three() }).await?;
        story.says(name, "WaitingForPods").await?;
        for disk in edits {
            story.edit::<KVCluster>(name, &json!({"spec": spec(*disk)})).await?;
            let is_so = |set: &StatefulSet| {
                let pod = set.spec.template.spec.as_ref();
                let selector = pod.and_then(|pod| pod.node_selector.as_ref());
                selector.and_then(|selector| selector.get("disk")).map(String::as_str) == *disk
            };
            wait::object(&sets, &story.client, name, "the template is as the edit has it", is_so).await?;
        }
    }
    story.operator.stop().await
}

#[tokio::test]
async fn somebody_elses_object_is_never_adopted() -> Result<()> {
    let Some(story) = Story::begin("taken").await? else { return Ok(()) };
    let services = story.api::<Service>();
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kv"}, "spec": {"ports": [{"port": 80}]}});
    let theirs = services.create(&PostParams::default(), &serde_json::from_value(theirs)?).await?;
    story.create("kv", three()).await?;
    let kv = story.says("kv", "NameTaken").await?;
    assert_eq!(condition(&kv, "Stalled").map(|said| said.0).as_deref(), Some("True"), "kstatus gives up");
    let message = &kv.status.as_ref().context("a status")?.conditions[0].message;
    assert!(message.contains("Service kv") && message.contains("delete or rename it"), "{message}");
    wait::until("an Event tells of it", || async {
        let told = wait::events(&story.client, "taken", "kv").await;
        Ok(told.contains("Warning NameTaken").then_some(()))
    })
    .await?;
    let now = services.get("kv").await?;
    assert_eq!(now.resource_version(), theirs.resource_version(), "it was not touched");
    services.delete("kv", &DeleteParams::default()).await?;
    story.says("kv", "WaitingForPods").await?;
    story.operator.stop().await
}

#[tokio::test]
async fn what_belongs_to_nobody_is_taken_over_when_a_person_says_so() -> Result<()> {
    let Some(story) = Story::begin("adopt").await? else { return Ok(()) };
    story.create("kv", three()).await?;
    story.says("kv", "WaitingForPods").await?;
    let before = story.api::<StatefulSet>().get("kv").await?;
    // As `kubectl delete --cascade=orphan` leaves it.
    story.edit::<StatefulSet>("kv", &json!({"metadata": {"ownerReferences": null}})).await?;
    let kv = story.says("kv", "NameTaken").await?;
    let message = &kv.status.as_ref().context("a status")?.conditions[0].message;
    assert!(message.contains("annotate StatefulSet/kv platform.dev/adopt=KVCluster/kv"), "{message}");
    let adopt = |by: &str| json!({"metadata": {"annotations": {"platform.dev/adopt": by}}});
    story.edit::<StatefulSet>("kv", &adopt("AIStack/kv")).await?;
    story.edit::<StatefulSet>("kv", &adopt("KVCluster/kv")).await?;
    story.says("kv", "WaitingForPods").await?;
    let after = story.api::<StatefulSet>().get("kv").await?;
    assert_eq!(after.uid(), before.uid(), "it was not made anew");
    assert_eq!(after.metadata.owner_references, before.metadata.owner_references);
    story.operator.stop().await
}

#[tokio::test]
async fn nothing_is_done_to_what_is_paused() -> Result<()> {
    let Some(story) = Story::begin("paused").await? else { return Ok(()) };
    story.create("kv", three()).await?;
    story.says("kv", "WaitingForPods").await?;
    story.annotate("kv", "platform.dev/paused", Some("true")).await?;
    let is_paused = |kv: &KVCluster| condition(kv, "Paused").is_some();
    wait::object(&story.api(), &story.client, "kv", "it says that it is paused", is_paused).await?;
    let edit = json!({"spec": {"quota": "4Gi"}});
    story.api::<KVCluster>().patch("kv", &PatchParams::default(), &Patch::Merge(&edit)).await?;
    let seen = |kv: &KVCluster| {
        let conditions = kv.status.iter().flat_map(|status| &status.conditions);
        conditions.filter(|condition| condition.type_ == "Paused").any(|it| it.observed_generation == Some(2))
    };
    wait::object(&story.api(), &story.client, "kv", "the edit was seen", seen).await?;
    assert!(story.settings("4294967296").await?.is_none(), "and nothing was done");
    story.annotate("kv", "platform.dev/paused", None).await?;
    let goes_on = |kv: &KVCluster| condition(kv, "Paused").is_none();
    wait::object(&story.api(), &story.client, "kv", "it goes on", goes_on).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn a_secret_that_is_missing_is_named_and_its_arrival_is_noticed() -> Result<()> {
    let Some(story) = Story::begin("secrets").await? else { return Ok(()) };
    let tls = aistack_crds::kv_cluster::KvTls { secret_name: Some("kv-tls".to_owned()), issuer_ref: None };
    story.create("kv", KVClusterSpec { tls: Some(tls), ..three() }).await?;
    let kv = story.says("kv", "SecretMissing").await?;
    assert!(kv.status.context("a status")?.conditions[0].message.contains("kv-tls"));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kv-tls"}});
    story.api::<Secret>().create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    story.says("kv", "WaitingForPods").await?;
    story.operator.stop().await
}

#[tokio::test]
async fn a_refused_child_keeps_none_of_the_others_from_being_applied() -> Result<()> {
    let Some(story) = Story::begin("refused").await? else { return Ok(()) };
    let backup = |schedule: &str| json!({"schedule": schedule, "destination": "pvc://shelf/kv"});
    // A range that ends before it begins: the schema takes it, and a CronJob does not.
    let spec = KVClusterSpec { backup: Some(serde_json::from_value(backup("0 3 * * fri-1"))?), ..three() };
    let kv = story.create("kv", spec).await?;
    story.until("kv", "its StatefulSet is there", |_: &StatefulSet| true).await?;
    let told = |kv: &KVCluster| condition(kv, "Degraded").is_some_and(|degraded| degraded.1 == "ApplyFailed");
    story.until::<KVCluster>("kv", "what is refused is said", told).await?;
    let kv_now = story.says("kv", "WaitingForPods").await?;
    assert!(told(&kv_now), "and beside it how the pods fare");
    // What comes later in the list, and what goes, do so beside it.
    story.prunes_what_an_earlier_version_made(&kv).await?;
    story.edit::<KVCluster>("kv", &json!({"spec": {"backup": backup("0 3 1-9 * *")}})).await?;
    let is_well = |kv: &KVCluster| condition(kv, "Degraded").is_some_and(|degraded| degraded.0 == "False");
    story.until::<KVCluster>("kv", "an edit mends it", is_well).await?;
    story.operator.stop().await
}

#[tokio::test]
async fn one_leads_and_hands_over() -> Result<()> {
    let Some(plane) = Plane::shared().await else { return Ok(()) };
    let namespace = plane.namespace("leads").await?;
    let mut config = OperatorConfig { namespace: Some(namespace.clone()), ..OperatorConfig::default() };
    config.lease.namespace = Some(namespace.clone());
    // Long enough for a machine that stalls: a leader that cannot renew in time ends, as it should.
    (config.lease.renew_seconds, config.lease.deadline_seconds, config.lease.duration_seconds) = (2, 25, 30);
    let clusters: Api<KVCluster> = Api::namespaced(plane.client(), &namespace);
    let client = plane.client();
    let made = |name: &'static str| {
        let (clusters, client) = (clusters.clone(), client.clone());
        async move {
            clusters.create(&PostParams::default(), &KVCluster::new(name, three())).await?;
            let says = |kv: &KVCluster| condition(kv, "Ready").is_some();
            wait::object(&clusters, &client, name, "somebody works", says).await
        }
    };
    let first = Running::begin(plane, &config)?;
    made("one").await?;
    assert!(first.leads());
    let mut second = Running::begin(plane, &config)?;
    wait::until("the second is ready to take over", || async { Ok(second.health.is_ready().then_some(())) })
        .await?;
    assert!(!second.leads(), "one leads at a time");
    assert_eq!(second.writes(), 0);

    let began = std::time::Instant::now();
    first.stop().await?;
    wait::until("the second leads", || async { Ok(second.leads().then_some(())) }).await?;
    println!("handed over in {} ms", began.elapsed().as_millis());
    made("two").await?;

    let third = Running::begin(plane, &config)?;
    wait::until("the third is ready to take over", || async { Ok(third.health.is_ready().then_some(())) })
        .await?;
    let began = std::time::Instant::now();
    second.kill().await;
    wait::until("the third leads", || async { Ok(third.leads().then_some(())) }).await?;
    println!(
        "taken over {} ms after a death, of a Lease of {} s",
        began.elapsed().as_millis(),
        config.lease.duration_seconds
    );
    made("three").await?;
    third.stop().await
}
