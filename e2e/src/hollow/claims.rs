//! A provisioner: a volume for each claim, larger when the claim is, gone when it is.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, ResourceExt as _};
use serde_json::json;

/// Name of the StorageClass whose volumes are folders.
const CLASS: &str = "hollow";

/// The scheduler is told that volumes come once a pod is placed, as most provisioners have it: else it turns down each pod that comes
/// before its volume, and tries again a second later.
pub(super) async fn storage_class(client: &Client) -> Result<()> {
    let api: Api<StorageClass> = Api::all(client.clone());
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "hollow.platform.dev", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    let params = PatchParams::apply("hollow").force();
    api.patch(CLASS, &params, &Patch::Apply(&class)).await.context("make a StorageClass")?;
    Ok(())
}

/// Folder of a claim's volume.
pub(super) fn folder(volumes: &Path, claim: &PersistentVolumeClaim) -> PathBuf {
    volumes.join(claim.uid().unwrap_or_default())
}

pub(super) async fn follow(client: Client, volumes: PathBuf) {
    let api: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let mut claims = watch(api, watcher::Config::default()).default_backoff().boxed();
    // Claims whose volume is made and that are not bound yet: they change several times until they are.
    let mut made = HashSet::new();
    while let Some(event) = claims.next().await {
        let done = match event {
            Ok(Event::Apply(claim) | Event::InitApply(claim)) => {
                settle(&client, &volumes, &claim, &mut made).await
            }
            Ok(Event::Delete(claim)) => {
                made.remove(&claim.uid());
                remove(&client, &volumes, &claim).await
            }
            _ => Ok(()),
        };
        if let Err(error) = done {
            eprintln!("hollow claim: {error:#}");
        }
    }
}

fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("hollow-{}", claim.uid().unwrap_or_default())
}

async fn remove(client: &Client, volumes: &Path, claim: &PersistentVolumeClaim) -> Result<()> {
    let _ = std::fs::remove_dir_all(folder(volumes, claim));
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let _ = api.delete(&volume_name(claim), &DeleteParams::default()).await;
    Ok(())
}

async fn settle(
    client: &Client,
    volumes: &Path,
    claim: &PersistentVolumeClaim,
    made: &mut HashSet<Option<String>>,
) -> Result<()> {
    let value = serde_json::to_value(claim)?;
    let asked = value.pointer("/spec/resources/requests/storage").cloned().unwrap_or_default();
    let has = value.pointer("/status/capacity/storage").cloned().unwrap_or_default();
    if claim.metadata.deletion_timestamp.is_some() || asked == has {
        return Ok(());
    }
    if has.is_null() && !made.insert(claim.uid()) {
        return Ok(());
    }
    let folder = folder(volumes, claim);
    std::fs::create_dir_all(&folder)?;
    let namespace = claim.namespace().unwrap_or_default();
    let name = volume_name(claim);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": asked},
        "accessModes": value.pointer("/spec/accessModes"),
        "storageClassName": value.pointer("/spec/storageClassName"),
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": folder},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace,
            "name": claim.name_any(), "uid": claim.uid()},
    }});
    let api: Api<PersistentVolume> = Api::all(client.clone());
    if has.is_null() {
        match api.create(&PostParams::default(), &serde_json::from_value(volume)?).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made?),
        }
    } else {
        // What is bound already was made larger.
        let grown = json!({"spec": {"capacity": {"storage": asked}}});
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&grown)).await?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        let grown = json!({"status": {"capacity": {"storage": asked}}});
        claims.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&grown)).await?;
    }
    Ok(())
}
