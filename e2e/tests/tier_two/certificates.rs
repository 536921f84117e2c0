//! Certificates of a KVCluster are renewed under its members, while clients write.

use std::time::Instant;

use aistack_crds::KVCluster;
use anyhow::{Context as _, Result, ensure};
use e2e::story::says;
use e2e::{Bed, Story, wait};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use nix::sys::signal::Signal;
use serde_json::json;

use super::clients::Writers;
use super::day_two::pods;
use super::monitor::until_at_rest;

/// How often.
const RENEWALS: usize = 3;

/// A certificate for a cluster's members.
fn certificate(
    cluster: &str,
    namespace: &str,
    authority: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>,
) -> Result<Secret> {
    let mut names = vec![cluster.to_owned(), format!("{cluster}.{namespace}.svc")];
    names.extend((0..3).map(|ordinal| format!("{cluster}-{ordinal}.{cluster}-members")));
    signed(names, authority)
}

/// The Secret `kv-tls` with an authority's certificate, and one that it signed.
pub fn signed(names: Vec<String>, authority: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>) -> Result<Secret> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(names)?;
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let signed = params.signed_by(&key, authority)?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "kv-tls"},
        "stringData": {"tls.crt": signed.pem(), "tls.key": key.serialize_pem(), "ca.crt": authority.pem()}});
    Ok(serde_json::from_value(secret)?)
}

pub fn authority() -> Result<rcgen::CertifiedIssuer<'static, rcgen::KeyPair>> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
    Ok(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate()?)?)
}

/// The certificate that a member serves clients by.
async fn served(bed: &Bed, namespace: &str, pod: &str, authority: &str) -> Result<Vec<u8>> {
    use rustls::pki_types::pem::PemObject as _;
    let live = bed.hollow.live(namespace).into_iter().find(|live| live.name == pod).context("it runs")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(format!("{}:2379", live.address)).await?;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect("kv".try_into()?, stream).await?;
    let (_, session) = stream.get_ref();
    let certificates = session.peer_certificates().context("it shows one")?;
    Ok(certificates[0].as_ref().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_under_the_members() -> Result<()> {
    let Some(bed) = Bed::of_processes() else { return Ok(()) };
    let story = Story::on(&bed.plane, "renewed").await?;
    let authority = authority()?;
    let secrets = story.api::<Secret>();
    secrets.create(&PostParams::default(), &certificate("kv", "renewed", &authority)?).await?;
    story
        .apply("apiVersion: platform.dev/v1\nkind: KVCluster\nmetadata: {name: kv}\nspec: {replicas: 3, tls: {secretName: kv-tls}}\n")
        .await?;
    until_at_rest(&story, "kv", 3).await?;
    let (began_as, ran_as) = (pods(&story).await?, bed.hollow.live("renewed"));
    let writers = Writers::begin_over_tls(bed, "renewed", 50, authority.pem());
    let began = Instant::now();
    wait::until("all have written", || async { Ok((writers.done() > 200).then_some(())) }).await?;
    for _ in 0..RENEWALS {
        let before = served(bed, "renewed", "kv-0", &authority.pem()).await?;
        let renewed = certificate("kv", "renewed", &authority)?;
        story.edit::<Secret>("kv-tls", &json!({"stringData": renewed.string_data})).await?;
        for pod in ["kv-0", "kv-1", "kv-2"] {
            wait::until("the new certificate is served", || async {
                let now = served(bed, "renewed", pod, &authority.pem()).await?;
                Ok((now != before).then_some(()))
            })
            .await?;
        }
        // Each client connects anew at every tenth operation.
        let enough = writers.done() + 50 * 10;
        wait::until("all have met it", || async { Ok((writers.done() > enough).then_some(())) }).await?;
    }
    let seen = writers.end(bed, "renewed").await?;
    println!(
        "{RENEWALS} renewals in {:.1} s: {} operations, {} of them at the second try",
        began.elapsed().as_secs_f64(),
        seen.done,
        seen.retried
    );
    ensure!(pods(&story).await? == began_as, "no pod was made anew for it");
    let live = bed.hollow.live("renewed");
    ensure!(live == ran_as, "processes stay as they are: {ran_as:?} are {live:?}");
    // Members know one another by it, too: one that starts anew is let in.
    for live in &live {
        live.signal(Signal::SIGKILL);
    }
    wait::until("each was started again", || async {
        let now = bed.hollow.live("renewed");
        Ok(now.iter().all(|now| now.is_ready && !live.contains(now)).then_some(()))
    })
    .await?;
    until_at_rest(&story, "kv", 3).await?;
    ensure!(pods(&story).await? == began_as, "no pod was made anew for it");
    story.operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_is_gone_to_once_all_members_know_it() -> Result<()> {
    let Some(bed) = Bed::of_processes() else { return Ok(()) };
    let story = Story::on(&bed.plane, "authorities").await?;
    let (one, other) = (authority()?, authority()?);
    let both = format!("{}\n{}", one.pem(), other.pem());
    let secrets = story.api::<Secret>();
    let mut next = certificate("kv", "authorities", &other)?;
    next.metadata.name = Some("next".to_owned());
    for secret in [certificate("kv", "authorities", &one)?, next] {
        secrets.create(&PostParams::default(), &secret).await?;
    }
    story
        .apply("apiVersion: platform.dev/v1\nkind: KVCluster\nmetadata: {name: kv}\nspec: {replicas: 3, tls: {secretName: kv-tls}}\n")
        .await?;
    until_at_rest(&story, "kv", 3).await?;
    let began_as = pods(&story).await?;
    let writers = Writers::begin_over_tls(bed, "authorities", 5, both.clone());
    story.edit::<KVCluster>("kv", &json!({"spec": {"tls": {"secretName": "next"}}})).await?;
    let is_held = |kv: &KVCluster| {
        let conditions = kv.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
        says(conditions, "Degraded", "CertificateMismatch") && says(conditions, "Ready", "Ready")
    };
    let kv = story.until::<KVCluster>("kv", "its members would not let one another in", is_held).await?;
    let members = kv.status.map(|status| status.members).unwrap_or_default();
    ensure!(members.len() == 3 && members.iter().all(|member| member.ready), "all answer: {members:?}");
    // A process that starts anew meanwhile has what the others have.
    bed.hollow.live("authorities")[0].signal(Signal::SIGKILL);
    let enough = writers.done() + 100;
    wait::until("clients are served", || async { Ok((writers.done() > enough).then_some(())) }).await?;
    ensure!(pods(&story).await? == began_as, "no pod is made anew");
    for secret in ["kv-tls", "next"] {
        story.edit::<Secret>(secret, &json!({"stringData": {"ca.crt": both}})).await?;
    }
    wait::until("every pod is made anew", || async {
        let now = pods(&story).await?;
        Ok((now.len() == 3 && now.iter().all(|pod| !began_as.contains(pod))).then_some(()))
    })
    .await?;
    let kv = until_at_rest(&story, "kv", 3).await?;
    ensure!(!is_held(&kv), "{:?}", kv.status);
    served(bed, "authorities", "kv-0", &other.pem()).await.context("the other authority's is served")?;
    // Nobody needs the first any more.
    story.edit::<Secret>("next", &json!({"stringData": {"ca.crt": other.pem()}})).await?;
    let enough = writers.done() + 100;
    wait::until("clients are served", || async { Ok((writers.done() > enough).then_some(())) }).await?;
    writers.end(bed, "authorities").await?;
    until_at_rest(&story, "kv", 3).await?;
    story.operator.stop().await
}
