//! `restore`: a new KVCluster that begins with a backup.

use aistack_crds::kv_cluster::{KvRestore, KvTls};
use aistack_crds::{KVCluster, KVClusterSpec};
use clap::Args;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::json;

use super::{Place, PluginError, say};
use crate::kv_cluster;

/// Make a new KVCluster that begins with a backup
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The new KVCluster.
    name: String,
    /// The backup.
    #[arg(long, value_name = "URL")]
    from: String,
    /// KVCluster that it is to be like: its voters, volumes, quota, TLS, resources and image; of a stack's store too. Left out, the
    /// defaults.
    #[arg(long, value_name = "KVCLUSTER")]
    like: Option<String>,
    /// Secret with the storage's credentials as environment variables; left out, the one that the other's backups use.
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// Voters; left out, as many as the other has, or 3.
    #[arg(long, value_name = "N")]
    replicas: Option<i32>,
}

pub(super) async fn run(place: &Place, asked: &Restore) -> Result<(), PluginError> {
    let name = asked.name.strip_prefix("kv/").unwrap_or(&asked.name);
    let other = match asked.like.as_deref() {
        Some(like) => Some(other(place, like).await?),
        None => None,
    };
    let elsewhere = elsewhere(place, name, asked);
    nothing_is_left(place, name, &elsewhere).await?;
    let spec = spec(asked, other.as_ref());
    let made =
        place.api::<KVCluster>().create(&PostParams::default(), &KVCluster::new(name, spec.clone())).await;
    match made {
        Ok(_) => {
            for line in told(place, name, asked, &spec, other.as_ref()) {
                say(line)?;
            }
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Err(PluginError::refused(format!(
            "KVCluster {name} is there and has data of its own; a backup becomes a new cluster\n  give that another name: {elsewhere}"
        ))),
        Err(error) => Err(PluginError::asked(&format!("make KVCluster {name}"), &error)),
    }
}

async fn other(place: &Place, like: &str) -> Result<KVCluster, PluginError> {
    let (like, object) = super::act::kv(place, like).await?;
    serde_json::from_value(object)
        .map_err(|error| PluginError::failed(format!("KVCluster {like} cannot be read: {error}")))
}

/// The same under another name.
fn elsewhere(place: &Place, name: &str, asked: &Restore) -> String {
    let given = |flag: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!(" {flag} {value}")).unwrap_or_default()
    };
    format!(
        "kubectl aistack restore {name}-restored -n {} --from {}{}{}",
        place.namespace,
        asked.from,
        given("--like", &asked.like),
        given("--secret", &asked.secret)
    )
}

/// Backups are left out: many restore to look, and to go back.
fn spec(asked: &Restore, other: Option<&KVCluster>) -> KVClusterSpec {
    let like = other.map(|other| other.spec.clone()).unwrap_or_default();
    let others_secret = like.backup.as_ref().and_then(|backup| backup.secret_name.clone());
    let secret_name = asked.secret.clone().or(others_secret);
    KVClusterSpec {
        replicas: asked.replicas.unwrap_or(if other.is_some() { like.replicas } else { 3 }),
        restore: Some(KvRestore { source: asked.from.clone(), secret_name }),
        backup: None,
        ..like
    }
}

/// What was made, and what is to be done besides.
fn told(
    place: &Place,
    name: &str,
    asked: &Restore,
    spec: &KVClusterSpec,
    other: Option<&KVCluster>,
) -> Vec<String> {
    let namespace = &place.namespace;
    let encrypted = if spec.tls.is_some() { "with TLS" } else { "without TLS" };
    let (voters, storage, quota) = (spec.replicas, &spec.storage, &spec.quota);
    let mut lines = vec![
        format!("kv/{name}: begins with {}", asked.from),
        format!("  {voters} voters of {storage}, quota {quota}, {encrypted}"),
    ];
    if other.is_none() {
        lines.push("  TLS and a storage class cannot be added to it later; --like KVCLUSTER takes all from the one that was backed up".to_owned());
    }
    if let Some(KvTls { secret_name: Some(secret), .. }) = &spec.tls {
        lines.push(format!(
            "  the certificate of Secret {secret} must be for {name} and its members too (docs/operator.md)"
        ));
    }
    if let Some(backup) = other.and_then(|other| other.spec.backup.as_ref()) {
        let patch = json!({"spec": {"backup": backup}});
        lines.push(format!(
            "  it has no backups yet; once it is ready: kubectl patch kv {name} -n {namespace} --type merge -p '{patch}'"
        ));
    }
    lines.push(format!(
        "  wait for it: kubectl wait -n {namespace} --for=condition=Ready kv/{name} --timeout=10m"
    ));
    lines
}

/// Says before it is tried what the operator would refuse. Who may not look at claims is told by the operator alone.
async fn nothing_is_left(place: &Place, name: &str, elsewhere: &str) -> Result<(), PluginError> {
    let api = place.api::<KVCluster>();
    let members = ListParams::default().labels(&format!(
        "app.kubernetes.io/name={},app.kubernetes.io/instance={name}",
        kv_cluster::COMPONENT
    ));
    let claims = place.api::<PersistentVolumeClaim>().list_metadata(&members).await;
    let left: Vec<String> = claims.iter().flatten().map(ResourceExt::name_any).collect();
    let is_there = api.get_metadata_opt(name).await.is_ok_and(|found| found.is_some());
    if left.is_empty() || is_there {
        return Ok(());
    }
    Err(PluginError::refused(format!(
        "volumes of an earlier KVCluster {name} are there, whose data it would go on with\n  restore under another name: {elsewhere}\n  \
         or give them up for good: kubectl delete pvc -n {} {}",
        place.namespace,
        left.join(" ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(like: Option<&str>, secret: Option<&str>, replicas: Option<i32>) -> Restore {
        Restore {
            name: "new".to_owned(),
            from: "s3://b/x.db".to_owned(),
            like: like.map(str::to_owned),
            secret: secret.map(str::to_owned),
            replicas,
        }
    }

    #[test]
    fn it_is_like_the_one_that_was_lost() {
        let other: KVCluster = serde_json::from_value(json!({
            "apiVersion": "platform.dev/v1", "kind": "KVCluster", "metadata": {"name": "old"},
            "spec": {"replicas": 5, "storage": "50Gi", "quota": "20Gi", "storageClassName": "fast",
                "tls": {"issuerRef": {"name": "ca"}}, "restore": {"source": "s3://b/older.db"},
                "backup": {"schedule": "0 3 * * *", "destination": "s3://b/old", "secretName": "keys"}},
        }))
        .expect("a cluster");
        let made = spec(&asked(Some("old"), None, None), Some(&other));
        let begins = made.restore.as_ref().expect("a backup");
        assert_eq!((begins.source.as_str(), begins.secret_name.as_deref()), ("s3://b/x.db", Some("keys")));
        assert!(made.backup.is_none());
        let same =
            KVClusterSpec { restore: other.spec.restore.clone(), backup: other.spec.backup.clone(), ..made };
        assert_eq!(same, other.spec);
        let made = spec(&asked(Some("old"), Some("mine"), Some(1)), Some(&other));
        assert_eq!(made.replicas, 1);
        assert_eq!(made.restore.and_then(|restore| restore.secret_name).as_deref(), Some("mine"));
    }

    #[test]
    fn alone_it_has_the_defaults() {
        let made = spec(&asked(None, None, None), None);
        let restore = made.restore.clone();
        assert_eq!(made, KVClusterSpec { replicas: 3, restore, ..KVClusterSpec::default() });
    }
}
