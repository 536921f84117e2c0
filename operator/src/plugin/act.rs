//! Changes by hand: each is an edit of an object that kubectl could make as well.

use aistack_crds::inference_service::CanarySpec;
use aistack_crds::{InferenceService, Kind};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Place, PluginError, short};
use crate::kernel::reconcile::PAUSED;

/// How often an edit is decided anew when others write meanwhile.
const TRIES: usize = 16;

async fn service(place: &Place, name: &str) -> Result<(InferenceService, CanarySpec), PluginError> {
    let name = name.strip_prefix("isvc/").unwrap_or(name);
    let (_, object) = place.find(&format!("isvc/{name}")).await?;
    let object: InferenceService = serde_json::from_value(object)
        .map_err(|error| PluginError::failed(format!("InferenceService {name} cannot be read: {error}")))?;
    let Some(canary) = object.spec.canary.clone() else {
        return Err(PluginError::refused(format!(
            "InferenceService {name} has no canary\n  give it one: kubectl patch isvc {name} --type merge -p '{{\"spec\":{{\"canary\":{{\"version\":\"2\"}}}}}}'"
        )));
    };
    Ok((object, canary))
}

async fn patch(place: &Place, kind: Kind, name: &str, patch: &Value) -> Result<(), PluginError> {
    let patched = place.of_kind(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.map(drop).map_err(|error| PluginError::asked(&format!("edit {} {name}", kind.name()), &error))
}

/// Edits a service by what its canary is; again when somebody else wrote meanwhile, the operator's status among it.
async fn edit_canary(
    place: &Place,
    name: &str,
    spec: impl Fn(&CanarySpec) -> Value,
) -> Result<(String, CanarySpec), PluginError> {
    for _ in 0..TRIES {
        let (object, canary) = service(place, name).await?;
        let name = object.metadata.name.clone().unwrap_or_default();
        let edit =
            json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "spec": spec(&canary)});
        let api = place.of_kind(Kind::InferenceService);
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(&edit)).await {
            Ok(_) => return Ok((name, canary)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(PluginError::asked(&format!("edit InferenceService {name}"), &error)),
        }
    }
    Err(PluginError::failed(format!("{name} was changed by others {TRIES} times meanwhile; try again")))
}

/// The canary becomes the version.
pub(super) async fn promote(place: &Place, name: &str) -> Result<(), PluginError> {
    let spec =
        |canary: &CanarySpec| json!({"model": {"version": canary.version}, "canary": null, "traffic": null});
    let (name, canary) = edit_canary(place, name, spec).await?;
    println!("isvc/{name}: version {} gets every request once its pods are ready", canary.version);
    Ok(())
}

/// The canary goes.
pub(super) async fn rollback(place: &Place, name: &str) -> Result<(), PluginError> {
    let (name, canary) = edit_canary(place, name, |_| json!({"canary": null})).await?;
    println!("isvc/{name}: version {} gets no request any more, and its pods go", canary.version);
    Ok(())
}

/// Whether an object is left alone.
pub(super) async fn pause(place: &Place, name: &str, is_paused: bool) -> Result<(), PluginError> {
    let (kind, object) = place.find(name).await?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let value = if is_paused { json!("true") } else { Value::Null };
    patch(place, kind, name, &json!({"metadata": {"annotations": {PAUSED: value}}})).await?;
    let done =
        if is_paused { "nothing is done to it until it is resumed" } else { "it is looked after again" };
    println!("{}/{name}: {done}", short(kind));
    Ok(())
}

/// A backup now.
pub(super) async fn backup(place: &Place, name: &str) -> Result<(), PluginError> {
    let name = name.strip_prefix("kv/").unwrap_or(name);
    place.find(&format!("kv/{name}")).await?;
    Err(PluginError::failed(format!(
        "the operator of this version takes no backups\n  by hand: kubectl port-forward svc/{name} 2379, then etcdctl --endpoints 127.0.0.1:2379 snapshot save {name}.db (docs/tinykv/backup.md)"
    )))
}

/// Back from a backup.
pub(super) async fn restore(place: &Place, name: &str, from: &str) -> Result<(), PluginError> {
    let name = name.strip_prefix("kv/").unwrap_or(name);
    place.find(&format!("kv/{name}")).await?;
    Err(PluginError::failed(format!(
        "the operator of this version restores nothing, so {from} was not looked at\n  by hand: docs/tinykv/backup.md"
    )))
}
