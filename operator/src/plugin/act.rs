//! Changes by hand: each is an edit of an object that kubectl could make as well.

use aistack_crds::inference_service::{CanarySpec, TrafficTarget};
use aistack_crds::{InferenceService, Kind};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Place, PluginError, is_paused, say, short};
use crate::kernel::reconcile::PAUSED;

/// How often an edit is decided anew when others write meanwhile.
const TRIES: usize = 16;

async fn service(place: &Place, name: &str) -> Result<(InferenceService, CanarySpec), PluginError> {
    let name = name.strip_prefix("isvc/").unwrap_or(name);
    let (_, object) = place.find(&format!("isvc/{name}")).await?;
    let of_stack = stack_of(&object).map(str::to_owned);
    if is_paused(&object) {
        return Err(PluginError::refused(format!(
            "InferenceService {name} is paused: nothing would come of it\n  first: kubectl aistack resume isvc/{name} -n {}",
            place.namespace
        )));
    }
    let object: InferenceService = serde_json::from_value(object)
        .map_err(|error| PluginError::failed(format!("InferenceService {name} cannot be read: {error}")))?;
    let Some(canary) = object.spec.canary.clone() else {
        let fix = match of_stack {
            Some(stack) => format!(
                "it is a part of AIStack {stack}; an InferenceService of its own, with stackRef, can have one"
            ),
            None => format!(
                "give it one, beside the version that serves: kubectl patch isvc {name} -n {} --type merge -p '{}'",
                place.namespace,
                json!({"spec": {"model": {"version": "1"}, "canary": {"version": "2"}}})
            ),
        };
        return Err(PluginError::refused(format!("InferenceService {name} has no canary\n  {fix}")));
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
    spec: impl Fn(&[TrafficTarget], &CanarySpec) -> Value,
) -> Result<(String, CanarySpec), PluginError> {
    for _ in 0..TRIES {
        let (object, canary) = service(place, name).await?;
        let name = object.metadata.name.clone().unwrap_or_default();
        let spec = spec(&object.spec.traffic, &canary);
        let edit = json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "spec": spec});
        let api = place.of_kind(Kind::InferenceService);
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(&edit)).await {
            Ok(_) => return Ok((name, canary)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(PluginError::asked(&format!("edit InferenceService {name}"), &error)),
        }
    }
    Err(PluginError::failed(format!("{name} was changed by others {TRIES} times meanwhile; try again")))
}

/// Shares when that version gets every request: headers that choose another, and shadows, stay as they are.
fn led_to(version: &str, traffic: &[TrafficTarget]) -> Vec<TrafficTarget> {
    let its = traffic.iter().find(|target| target.version == version);
    let promoted = TrafficTarget {
        version: version.to_owned(),
        percent: 100,
        headers: its.map(|target| target.headers.clone()).unwrap_or_default(),
        shadow: false,
    };
    let others = traffic.iter().filter(|target| target.version != version);
    let others = others.filter(|target| target.shadow || !target.headers.is_empty()).cloned();
    let others = others
        .map(|target| TrafficTarget { percent: if target.shadow { target.percent } else { 0 }, ..target });
    std::iter::once(promoted).chain(others).collect()
}

/// The canary becomes the version.
pub(super) async fn promote(place: &Place, name: &str) -> Result<(), PluginError> {
    let spec = |traffic: &[TrafficTarget], canary: &CanarySpec| {
        let traffic = led_to(&canary.version, traffic);
        // The version alone needs no share.
        let traffic = (traffic.len() > 1).then_some(traffic);
        json!({"model": {"version": canary.version}, "canary": null, "traffic": traffic})
    };
    let (name, canary) = edit_canary(place, name, spec).await?;
    say(format_args!("isvc/{name}: version {} gets every request once its pods are ready", canary.version))
}

/// The canary goes.
pub(super) async fn rollback(place: &Place, name: &str) -> Result<(), PluginError> {
    let (name, canary) = edit_canary(place, name, |_, _| json!({"canary": null})).await?;
    say(format_args!("isvc/{name}: version {} gets no request any more, and its pods go", canary.version))
}

/// Whether an object is left alone.
pub(super) async fn pause(place: &Place, name: &str, to_pause: bool) -> Result<(), PluginError> {
    let (kind, object) = place.find(name).await?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let value = if to_pause { json!("true") } else { Value::Null };
    patch(place, kind, name, &json!({"metadata": {"annotations": {PAUSED: value}}})).await?;
    let done =
        if to_pause { "nothing is done to it until it is resumed" } else { "it is looked after again" };
    say(format_args!("{}/{name}: {done}", short(kind)))
}

/// The stack that made an object.
fn stack_of(object: &Value) -> Option<&str> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| owner["kind"] == Kind::AIStack.name())?["name"].as_str()
}

/// The command that edits a store's spec, where it is a stack's there.
fn edit_of(place: &Place, name: &str, object: &Value, spec: &Value) -> String {
    let (what, spec) = match stack_of(object) {
        Some(stack) => (format!("stack {stack}"), json!({"spec": {"tinykv": spec}})),
        None => (format!("kv {name}"), json!({"spec": spec})),
    };
    format!("kubectl patch {what} -n {} --type merge -p '{spec}'", place.namespace)
}

/// A backup now: one more Job of the schedule's.
pub(super) async fn backup(place: &Place, name: &str) -> Result<(), PluginError> {
    let (name, object) = kv(place, name).await?;
    if object.pointer("/spec/backup").is_none() {
        let backup = json!({"schedule": "0 3 * * *", "destination": "s3://BUCKET/PATH"});
        return Err(PluginError::refused(format!(
            "KVCluster {name} does not say where its backups go\n  tell it: {}",
            edit_of(place, name, &object, &json!({"backup": backup}))
        )));
    }
    now(place, name, &format!("{name}-backup"), "takes a backup").await
}

/// A restore drill now: one more Job of the schedule's.
pub(super) async fn drill(place: &Place, name: &str) -> Result<(), PluginError> {
    let (name, object) = kv(place, name).await?;
    if object.pointer("/spec/backup/drill").is_none() {
        let drill = json!({"backup": {"drill": {"schedule": "0 5 * * 0"}}});
        return Err(PluginError::refused(format!(
            "KVCluster {name} has no restore drill\n  give it one, beside its backup: {}",
            edit_of(place, name, &object, &drill)
        )));
    }
    now(place, name, &format!("{name}-drill"), "restores the newest backup and reads it").await
}

/// A KVCluster by its name, as it may be given.
pub(super) async fn kv<'a>(place: &Place, name: &'a str) -> Result<(&'a str, Value), PluginError> {
    let name = name.strip_prefix("kv/").unwrap_or(name);
    let (_, object) = place.find(&format!("kv/{name}")).await?;
    Ok((name, object))
}

/// One more Job of a schedule's.
async fn now(place: &Place, name: &str, schedule: &str, does: &str) -> Result<(), PluginError> {
    let scheduled = place.api::<CronJob>().get(schedule).await;
    let scheduled =
        scheduled.map_err(|error| PluginError::asked(&format!("read CronJob {schedule}"), &error))?;
    // The schedule's own: Kubernetes tells of its success there, keeps as many as it keeps of the others, and ends it with them.
    let owner = scheduled.owner_ref(&()).map(|owner| OwnerReference { controller: Some(true), ..owner });
    let template = scheduled.spec.job_template;
    let job = Job {
        metadata: ObjectMeta {
            generate_name: Some(format!("{schedule}-by-hand-")),
            annotations: Some([("cronjob.kubernetes.io/instantiate".to_owned(), "manual".to_owned())].into()),
            labels: template.metadata.and_then(|metadata| metadata.labels),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    let made = place.api::<Job>().create(&PostParams::default(), &job).await;
    let made = made.map_err(|error| PluginError::asked(&format!("begin a Job of {schedule}"), &error))?;
    let made = made.metadata.name.unwrap_or_default();
    say(format_args!(
        "kv/{name}: job {made} {does}\n  wait for it: kubectl wait -n {} --for=condition=Complete job/{made}",
        place.namespace
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_leaves_header_routes_and_shadows() {
        let target = |version: &str, percent: i32, headers: &[(&str, &str)], shadow: bool| TrafficTarget {
            version: version.to_owned(),
            percent,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            shadow,
        };
        let beta = [("x-beta", "yes")];
        let before = [target("1", 90, &[], false), target("3", 10, &beta, false), target("4", 50, &[], true)];
        let after = [target("2", 100, &[], false), target("3", 0, &beta, false), target("4", 50, &[], true)];
        assert_eq!(led_to("2", &before), after);
        // The promoted one's own headers stay, and a shadow that is promoted answers.
        assert_eq!(led_to("3", &before), [target("3", 100, &beta, false), target("4", 50, &[], true)]);
        assert_eq!(led_to("4", &before), [target("4", 100, &[], false), target("3", 0, &beta, false)]);
        assert_eq!(led_to("2", &[]), [target("2", 100, &[], false)]);
    }
}
