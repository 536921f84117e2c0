//! A KVCluster that names an issuer, before the kind of cert-manager: what there is to be signed is asked for, mounted, and goes again.
//! The kind is cert-manager's own; the test is the issuer.

use aistack_crds::KVCluster;
use aistack_operator::certificate::Certificate;
use anyhow::{Result, ensure};
use e2e::story::says;
use e2e::{Bed, Story, module, wait};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::certificates::{authority, signed};
use super::clients::Writers;
use super::day_two::pods;
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
    writers.end(bed, "issued").await?;
    let certificates = story.api::<Certificate>();
    let now = certificates.get("kv-tls").await?;
    ensure!(now.metadata.generation == asked.metadata.generation, "nothing had to be signed anew");
    // Whoever names the Secret keeps it: the Certificate goes, and nothing else.
    let before = pods(&story).await?;
    let by_hand = json!({"spec": {"tls": {"issuerRef": null, "secretName": "kv-tls"}}});
    story.edit::<KVCluster>("kv", &by_hand).await?;
    wait::until("the Certificate is pruned", || async {
        Ok(certificates.get_opt("kv-tls").await?.is_none().then_some(()))
    })
    .await?;
    until_at_rest(&story, "kv", 3).await?;
    ensure!(pods(&story).await? == before, "no pod was made anew for it");
    story.operator.stop().await
}
