//! What a person asks of a group by annotations: acts that no spec can say, because they are done once.

use aistack_crds::KVCluster;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::ValidatedKvCluster;
use super::planner::Wish;
use crate::kernel::apply::said;
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra};
use crate::kernel::controller::StepError;

/// Name of the member that is to be replaced by a new one with an empty volume.
pub const REPLACE: &str = "platform.dev/replace-member";
/// Name of the member that goes on alone with what it has, although most are lost.
pub const RECOVER: &str = "platform.dev/recover-from";
/// Confirms that, by the group's own name.
pub const ACCEPT: &str = "platform.dev/accept-data-loss";

/// What the annotations ask for; the sentence says why they ask for nothing that can be done.
pub(super) fn of(object: &KVCluster, kv: &ValidatedKvCluster) -> Result<Option<Wish>, String> {
    let annotations = object.annotations();
    let member = |key: &str| {
        annotations.get(key).map(|name| {
            super::ordinal_of(&kv.name, name).ok_or_else(|| {
                format!("{key}: `{name}` is no member; write the name of its pod, such as {}", kv.member(0))
            })
        })
    };
    if let Some(survivor) = member(RECOVER).transpose()? {
        if annotations.get(ACCEPT).is_none_or(|accepted| *accepted != kv.name) {
            return Err(format!(
                "{} would go on alone, and what only the others have would be lost; if that is meant: kubectl annotate kv {} {ACCEPT}={}",
                kv.member(survivor),
                kv.name,
                kv.name
            ));
        }
        return Ok(Some(Wish::Recover(survivor)));
    }
    Ok(member(REPLACE).transpose()?.map(Wish::Replace))
}

/// What is said of annotations that ask for nothing that can be done.
pub(super) fn unheeded(said: String) -> Extra {
    Extra { kind: "WishHeeded", is_so: Some(false), because: Because::new("NotHeeded", said) }
}

/// Takes the annotations away: what they asked for is done, under way, or not to be.
pub(super) async fn let_go(cluster: &Cluster, object: &KVCluster) -> Result<(), StepError> {
    let api: Api<KVCluster> =
        Api::namespaced(cluster.client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": object.metadata.uid, "annotations": {REPLACE: null, RECOVER: null, ACCEPT: null}}});
    let patched = api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(drop).map_err(|error| StepError {
        reason: "AnnotateFailed",
        message: format!("its annotations could not be taken away: {}", said(&error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_that_lose_data_are_confirmed_by_name() {
        type Row = (&'static [(&'static str, &'static str)], Result<Option<Wish>, &'static str>);
        let table: [Row; 7] = [
            (&[], Ok(None)),
            (&[(REPLACE, "kv-2")], Ok(Some(Wish::Replace(2)))),
            (&[(REPLACE, "2")], Err("is no member")),
            (&[(REPLACE, "kv-65535")], Err("is no member")),
            (
                &[(RECOVER, "kv-1")],
                Err("if that is meant: kubectl annotate kv kv platform.dev/accept-data-loss=kv"),
            ),
            (&[(RECOVER, "kv-1"), (ACCEPT, "yes")], Err("if that is meant")),
            (&[(RECOVER, "kv-1"), (ACCEPT, "kv")], Ok(Some(Wish::Recover(1)))),
        ];
        for (annotations, expected) in table {
            let mut object = KVCluster::new("kv", aistack_crds::KVClusterSpec::default());
            let pairs = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            object.metadata.annotations = Some(pairs.collect());
            let kv = super::super::validate(&object, "").expect("valid");
            match (of(&object, &kv), expected) {
                (Ok(wish), Ok(expected)) => assert_eq!(wish, expected, "{annotations:?}"),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{said}"),
                (wish, expected) => panic!("{annotations:?}: {wish:?}, not {expected:?}"),
            }
        }
    }
}
