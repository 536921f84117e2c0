//! A KVCluster that names an issuer, before the kind of cert-manager: what there is to be signed is asked for, mounted, and goes again.
//! The kind is cert-manager's own; the test is the issuer.

use aistack_crds::KVCluster;
use aistack_operator::certificate::Certificate;
use anyhow::{Result, ensure};
use e2e::story::says;
use e2e::{Bed, Story, module, wait};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::certificates::{authority, signed};
use super::clients::Writers;
use super::monitor::until_at_rest;

const MODULE: &str = "github.com/cert-manager/cert-manager@v1.18.2";
const KV: &str = "apiVersion: platform.dev/v1
kind: KVCluster
metadata: {name: kv}
spec: {replicas: 1, tls: {issuerRef: {name: ca}}}
";

/// What cert-manager does when an issuer has signed.
async fn sign(story: &Story, authority: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>) -> Result<Certificate> {
    let asked = story.until("kv-tls", "it is asked for", |_: &Certificate| true).await?;
    ensure!(asked.spec.issuer_ref.name == "ca" && asked.spec.issuer_ref.kind == "Issuer");
    ensure!(asked.spec.usages.iter().any(|usage| usage == "client auth"), "members are clients, too");
    let mut secret = signed(asked.spec.dns_names.clone(), authority)?;
    let named = [("cert-manager.io/certificate-name".to_owned(), "kv-tls".to_owned())];
    secret.metadata.annotations = Some(named.into());
    story.api::<Secret>().create(&PostParams::default(), &secret).await?;
    let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "up to date", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [ready]}});
    let certificates = story.api::<Certificate>();
    certificates.patch_status("kv-tls", &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(asked)
}

fn has(kv: &KVCluster, kind: &str, reason: &str) -> bool {
    kv.status.as_ref().is_some_and(|status| says(&status.conditions, kind, reason))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_signs_for_a_group() -> Result<()> {
    let Some(bed) = Bed::of_processes() else { return Ok(()) };
    let story = Story::on(&bed.plane, "issued").await?;
    let secrets = story.api::<Secret>();
    let other: Secret = serde_json::from_value(json!({"metadata": {"name": "kv-tls"}}))?;
    secrets.create(&PostParams::default(), &other).await?;
    story.apply(KV).await?;
    let taken = |kv: &KVCluster| has(kv, "Degraded", "NameTaken");
    story.until("kv", "somebody else's Secret is not written over", taken).await?;
    secrets.delete("kv-tls", &DeleteParams::default()).await?;
    let lacking = |kv: &KVCluster| has(kv, "Ready", "KindMissing") && has(kv, "Degraded", "KindMissing");
    let kv = story.until("kv", "it says that there is no such kind", lacking).await?;
    let said = format!("{:?}", kv.status);
    ensure!(said.contains("install cert-manager, or name a Secret"), "{said}");
    let kinds: Api<CustomResourceDefinition> = Api::all(story.client.clone());
    let kind = module::kind(MODULE, "deploy/crds/crd-certificates.yaml")?;
    kinds.create(&PostParams::default(), &kind).await?;
    let authority = authority()?;
    let waits = |kv: &KVCluster| has(kv, "Ready", "WaitingForCertificate");
    story.until("kv", "the kind has come, and nobody has signed", waits).await?;
    let asked = sign(&story, &authority).await?;
    let kv = until_at_rest(&story, "kv", 1).await?;
    ensure!(has(&kv, "Certified", "Issued"), "{:?}", kv.status);
    let writers = Writers::begin_over_tls(bed, "issued", 5, authority.pem());
    wait::until("all have written", || async { Ok((writers.done() > 50).then_some(())) }).await?;
    // It is for members that come later, too.
    story.edit::<KVCluster>("kv", &json!({"spec": {"replicas": 3}})).await?;
    until_at_rest(&story, "kv", 3).await?;
    let certificates = story.api::<Certificate>();
    let now = certificates.get("kv-tls").await?;
    ensure!(now.metadata.generation == asked.metadata.generation, "nothing had to be signed anew");
    ensure!(all_have(&story, "kv-tls", true).await?, "one of another namespace's cluster is refused");
    // One by hand lacks the name that members ask for: they stop asking before the first gets it, and ask again when all have
    // the issuer's.
    let mut names = vec!["kv".to_owned()];
    names.extend((0..3).map(|ordinal| format!("kv-{ordinal}.kv-members")));
    let mut by_hand = signed(names, &authority)?;
    by_hand.metadata.name = Some("mine".to_owned());
    secrets.create(&PostParams::default(), &by_hand).await?;
    let mine = json!({"spec": {"tls": {"issuerRef": null, "secretName": "mine"}}});
    let issued = json!({"spec": {"tls": {"issuerRef": {"name": "ca"}, "secretName": null}}});
    for (edit, secret, is_named) in [(mine, "mine", false), (issued, "kv-tls", true)] {
        story.edit::<KVCluster>("kv", &edit).await?;
        wait::until("all members have the certificate", || async {
            Ok(all_have(&story, secret, is_named).await?.then_some(()))
        })
        .await?;
        until_at_rest(&story, "kv", 3).await?;
        wait::until("the Certificate goes once no member has it, and the Secret stays", || async {
            Ok((certificates.get_opt("kv-tls").await?.is_some() == is_named).then_some(()))
        })
        .await?;
    }
    writers.end(bed, "issued").await?;
    story.operator.stop().await
}

/// Whether every pod mounts a Secret, and refuses members that have not the name of this very cluster.
async fn all_have(story: &Story, secret: &str, is_named: bool) -> Result<bool> {
    let pods = story.api::<Pod>().list(&ListParams::default()).await?;
    let has = |pod: &Pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut mounted = spec.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref());
        let mut variables = spec.containers.iter().flat_map(|container| container.env.iter().flatten());
        mounted.any(|mounted| mounted.secret_name.as_deref() == Some(secret))
            && variables.any(|variable| variable.name == "TINYKV_PEER_TLS__ALLOWED_HOSTS") == is_named
    };
    Ok(pods.items.len() == 3 && pods.items.iter().all(has))
}
