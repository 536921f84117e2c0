//! Volumes that change under their pods. What a StatefulSet makes claims from can never be changed; the claims can: they are asked to
//! grow, and to take other attributes, and no pod starts anew for it. Claims that the StatefulSet makes later are as small as its
//! template has them, and grow as soon as they have a volume.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Map, Value, json};

use super::apply::ApplyError;
use super::child::{ChildKey, ChildKind};
use super::cluster::Cluster;
use super::key::ObjectName;
use super::parent::Parent;
use crate::size::Size;

/// What is wanted of the claims that a StatefulSet makes from one of its templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    name: String,
    size: Option<Size>,
    /// VolumeAttributesClass.
    attributes: Option<String>,
}

/// Reads what an object wants of claims; nothing, of one that makes none.
pub(super) fn templates(object: &Value) -> Vec<Template> {
    let templates = object.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
    let text = |template: &Value, pointer: &str| {
        template.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
    };
    let template = |template: &Value| {
        Some(Template {
            name: text(template, "/metadata/name")?,
            size: text(template, "/spec/resources/requests/storage").and_then(|size| Size::parse(&size)),
            attributes: text(template, "/spec/volumeAttributesClassName"),
        })
    };
    templates.into_iter().flatten().filter_map(template).collect()
}

/// Has an object want the templates that are there, which cannot be others.
pub(super) fn keep_templates(wanted: &mut Value, live: &Value) {
    const TEMPLATES: &str = "/spec/volumeClaimTemplates";
    if let (Some(wanted), Some(live)) = (wanted.pointer_mut(TEMPLATES), live.pointer(TEMPLATES)) {
        wanted.clone_from(live);
    }
}

/// Has the claims of a StatefulSet be what is wanted of them. Whether all are; one without a volume is not yet. One that is refused
/// keeps none of the others from it.
pub(super) async fn grow(
    cluster: &Cluster,
    parent: &Parent,
    set: &ChildKey,
    live: &Value,
    wanted: &[Template],
) -> Result<bool, ApplyError> {
    let made = templates(live);
    // As they are made, they are as wanted.
    let changed: Vec<&Template> = wanted.iter().filter(|template| !made.contains(template)).collect();
    if changed.is_empty() {
        return Ok(true);
    }
    let labels = live.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &set.object.namespace);
    let list = api
        .list(&ListParams::default().labels(&labels.join(",")))
        .await
        .map_err(|source| ApplyError::Read { child: set.clone(), source: Box::new(source) })?;
    let (mut are_all, mut failure) = (true, None);
    let number = |pointer: &str| live.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let first = number("/spec/ordinals/start");
    let kept = first..first + number("/spec/replicas");
    for claim in &list.items {
        let name = claim.name_any();
        let is_its = |template: &&&Template| {
            // What a pod left that is no more is nobody's to grow.
            ordinal(&name, &template.name, &set.object.name)
                .is_some_and(|ordinal| kept.contains(&u64::from(ordinal)))
        };
        let Some(template) = changed.iter().find(is_its) else { continue };
        match lacks(claim, template) {
            Lack::Nothing => {}
            Lack::Volume => are_all = false,
            Lack::These(spec) => {
                let patch = json!({"metadata": {"uid": claim.uid()}, "spec": spec});
                let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
                if let Err(source) = patched {
                    let object = ObjectName::new(set.object.namespace.as_str(), name.as_str());
                    let child = ChildKey { kind: ChildKind::PersistentVolumeClaim, object };
                    failure.get_or_insert(ApplyError::Grow { child, source: Box::new(source) });
                    continue;
                }
                tracing::info!(claim = name, %spec, "changed");
                let size = template.size.as_ref().map_or("what the spec says", Size::as_str);
                let note = format!("claim {name} of {set} asks for {size}");
                cluster.tell(&parent.about(), false, "VolumesGrow", note).await;
            }
        }
    }
    failure.map_or(Ok(are_all), Err)
}

/// The pod of a claim that a StatefulSet made from a template: `TEMPLATE-SET-ORDINAL`.
pub(crate) fn ordinal(claim: &str, template: &str, set: &str) -> Option<u16> {
    let rest = claim.strip_prefix(template)?.strip_prefix('-')?;
    rest.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

/// What a claim lacks.
#[derive(Debug, PartialEq)]
enum Lack {
    Nothing,
    /// A volume: before, Kubernetes takes no change.
    Volume,
    /// These fields of its spec are to be others.
    These(Value),
}

fn lacks(claim: &PersistentVolumeClaim, wanted: &Template) -> Lack {
    if claim.metadata.deletion_timestamp.is_some() {
        return Lack::Nothing;
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests);
    let asked = requests.and_then(|requests| Size::parse(&requests.get("storage")?.0));
    let mut these = Map::new();
    if let (Some(asked), Some(size)) = (asked, &wanted.size)
        && asked.bytes() < size.bytes()
    {
        these.insert("resources".to_owned(), json!({"requests": {"storage": size.as_str()}}));
    }
    if wanted.attributes.is_some() && spec.volume_attributes_class_name != wanted.attributes {
        these.insert("volumeAttributesClassName".to_owned(), json!(wanted.attributes));
    }
    let is_bound = claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
    match (these.is_empty(), is_bound) {
        (true, _) => Lack::Nothing,
        (false, false) => Lack::Volume,
        (false, true) => Lack::These(Value::Object(these)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(size: &str, attributes: Option<&str>) -> Value {
        let mut spec = json!({"resources": {"requests": {"storage": size}}});
        if let Some(class) = attributes {
            spec["volumeAttributesClassName"] = json!(class);
        }
        json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": spec}]}})
    }

    #[test]
    fn a_claim_grows_once_it_has_a_volume_and_never_shrinks() {
        let claim = |size: &str, phase: &str, attributes: Option<&str>| -> PersistentVolumeClaim {
            let spec = json!({"resources": {"requests": {"storage": size}}, "volumeAttributesClassName": attributes});
            serde_json::from_value(json!({"spec": spec, "status": {"phase": phase}})).expect("a claim")
        };
        let larger = json!({"resources": {"requests": {"storage": "2Gi"}}});
        let table = [
            (claim("1Gi", "Bound", None), None, Lack::These(larger)),
            (claim("1Gi", "Pending", None), None, Lack::Volume),
            (claim("2048Mi", "Bound", None), None, Lack::Nothing),
            (claim("4Gi", "Bound", Some("gold")), None, Lack::Nothing),
            (
                claim("4Gi", "Bound", Some("silver")),
                Some("gold"),
                Lack::These(json!({"volumeAttributesClassName": "gold"})),
            ),
        ];
        for (claim, attributes, expected) in table {
            let template = &templates(&wanted("2Gi", attributes))[0];
            assert_eq!(lacks(&claim, template), expected, "{claim:?}");
        }
    }

    #[test]
    fn only_claims_of_the_set_are_its_own() {
        for (name, expected) in [
            ("data-kv-0", Some(0)),
            ("data-kv-12", Some(12)),
            ("data-kv-x", None),
            ("data-kv-2-0", None),
            ("data-kv", None),
        ] {
            assert_eq!(ordinal(name, "data", "kv"), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_changed_is_wanted_as_it_is() {
        let live = wanted("1Gi", None);
        let mut now = wanted("2Gi", Some("gold"));
        keep_templates(&mut now, &live);
        assert_eq!(now, live);
        let mut none = json!({"spec": {}});
        keep_templates(&mut none, &live);
        assert_eq!(none, json!({"spec": {}}));
    }
}
