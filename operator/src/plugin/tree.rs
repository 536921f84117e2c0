//! `status`: stacks, their parts, and the pods of these.

use std::collections::BTreeMap;

use aistack_crds::Kind;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::Value;

use super::{Output, Place, PluginError, behind, condition, is_paused, leaving, pods_of, say};

/// One line of the tree and what hangs on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Node {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) ready: bool,
    /// Why it is not, or the object's own line.
    pub(super) says: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Node>,
}

pub(super) async fn run(place: &Place, name: Option<&str>, output: Output) -> Result<(), PluginError> {
    let roots = match name {
        None => forest(place, &place.all().await?).await?,
        // Whoever may see one kind alone sees what is of that.
        Some(name) => {
            let (kind, object) = place.find(name).await?;
            let wanted = object["metadata"]["name"].as_str().unwrap_or_default();
            let found = pick(&forest(place, &place.seen().await?).await?, kind.name(), wanted).cloned();
            found.into_iter().collect()
        }
    };
    if roots.is_empty() && place.is_missing().await {
        return Err(PluginError::failed(format!(
            "there is no namespace {}\n  those that are: kubectl get namespaces",
            place.namespace
        )));
    }
    let is_printed = output.prints(&roots)?;
    if roots.is_empty() && !is_printed {
        let none = format!(
            "namespace {} has no objects of ours; apply one: kubectl apply -f stack.yaml",
            place.namespace
        );
        say(none)?;
    } else if !is_printed {
        say(drawn(&roots).trim_end())?;
    }
    // Programs look at the exit code, whatever is printed.
    if roots.iter().all(|root| root.ready) {
        return Ok(());
    }
    Err(PluginError { code: 4, message: String::new() })
}

/// Every stack with its parts, then what stands alone.
async fn forest(place: &Place, all: &[(Kind, Value)]) -> Result<Vec<Node>, PluginError> {
    let listed = place
        .api::<Pod>()
        .list(&ListParams::default().labels("app.kubernetes.io/managed-by=aistack-operator"))
        .await;
    let pods = listed.map_err(|error| PluginError::asked("list pods", &error))?.items;
    Ok(grown(all, &pods))
}

fn grown(all: &[(Kind, Value)], pods: &[Pod]) -> Vec<Node> {
    let mut by_owner: BTreeMap<String, Vec<Node>> = BTreeMap::new();
    let mut roots = Vec::new();
    let mut claimed: Vec<String> = Vec::new();
    // Parts before stacks: a stack's node takes what is its own.
    for (kind, object) in all.iter().filter(|(kind, _)| *kind != Kind::AIStack) {
        let mine: Vec<&Pod> = pods.iter().filter(|pod| is_of(pod, *kind, object)).collect();
        claimed.extend(mine.iter().map(|pod| pod.name_any()));
        let node = node(*kind, object, mine.into_iter().map(of_pod).collect());
        match owner(object) {
            Some(uid) => by_owner.entry(uid).or_default().push(node),
            None => roots.push(node),
        }
    }
    let mut stacks = Vec::new();
    for (kind, object) in all.iter().filter(|(kind, _)| *kind == Kind::AIStack) {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let mut parts = by_owner.remove(uid).unwrap_or_default();
        let rest = pods.iter().filter(|pod| is_of(pod, *kind, object) && !claimed.contains(&pod.name_any()));
        parts.extend(rest.map(of_pod));
        stacks.push(node(*kind, object, parts));
    }
    // A part whose stack is going is still there to be seen.
    roots.extend(by_owner.into_values().flatten());
    stacks.extend(roots);
    stacks
}

fn node(kind: Kind, object: &Value, parts: Vec<Node>) -> Node {
    let summary = object.pointer("/status/summary").and_then(Value::as_str).unwrap_or_default();
    let (ready, says) = match condition(object, "Ready") {
        Some(("True", _, _)) => (true, summary.to_owned()),
        Some((_, reason, message)) => (false, format!("{reason}: {message}")),
        None => (false, "no operator has looked at it yet".to_owned()),
    };
    let is_behind = behind(object).is_some();
    let notes = [
        leaving(object).map(|since| format!("is being deleted since {since}")),
        is_paused(object).then(|| "paused".to_owned()),
        (is_behind && is_paused(object)).then(|| "a change waits".to_owned()),
        (is_behind && !is_paused(object) && leaving(object).is_none())
            .then(|| "no operator has looked at the newest change yet".to_owned()),
    ];
    let ready = ready && !is_behind && leaving(object).is_none();
    let says = notes.into_iter().flatten().chain(Some(says).filter(|says| !says.is_empty()));
    let says = says.collect::<Vec<_>>().join("; ");
    Node {
        kind: kind.name().to_owned(),
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ready,
        says,
        parts,
    }
}

pub(super) fn owner(object: &Value) -> Option<String> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    owner["uid"].as_str().map(str::to_owned)
}

/// Whether an object's selector, in text form, picks a pod.
fn is_of(pod: &Pod, kind: Kind, object: &Value) -> bool {
    selects(&pods_of(kind, object), pod.labels())
}

fn selects(selector: &str, labels: &BTreeMap<String, String>) -> bool {
    let mut terms = Vec::new();
    let mut rest = selector;
    // Commas stand between terms, and within the parentheses of one.
    while !rest.is_empty() {
        let end = match rest.find('(') {
            Some(open) if rest.find(',').is_none_or(|comma| open < comma) => {
                rest.find(')').map_or(rest.len(), |close| close + 1)
            }
            _ => rest.find(',').unwrap_or(rest.len()),
        };
        terms.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(',');
    }
    terms.into_iter().all(|term| match term.split_once(" in (") {
        Some((key, values)) => {
            let given = labels.get(key.trim());
            given.is_some_and(|given| {
                values.trim_end_matches(')').split(',').any(|value| value.trim() == given)
            })
        }
        None => term
            .split_once('=')
            .is_some_and(|(key, value)| labels.get(key).is_some_and(|given| given == value)),
    })
}

fn of_pod(pod: &Pod) -> Node {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let is = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let ready = is("Ready").is_some_and(|condition| condition.status == "True");
    let statuses = status.init_container_statuses.into_iter().flatten();
    let mut statuses: Vec<_> = statuses.chain(status.container_statuses.into_iter().flatten()).collect();
    statuses.retain(|container| container.state.as_ref().is_some_and(|state| state.waiting.is_some()));
    let waiting = statuses.first().and_then(|container| container.state.clone()?.waiting);
    let unscheduled = is("PodScheduled").filter(|condition| condition.status == "False");
    let says = match (ready, unscheduled, waiting) {
        (true, ..) => String::new(),
        (_, Some(condition), _) => condition.message.clone().unwrap_or_default(),
        (_, None, Some(waiting)) => waiting.reason.unwrap_or_default(),
        _ => status.phase.unwrap_or_default(),
    };
    Node { kind: "Pod".to_owned(), name: pod.name_any(), ready, says, parts: Vec::new() }
}

fn pick<'a>(nodes: &'a [Node], kind: &str, name: &str) -> Option<&'a Node> {
    nodes.iter().find_map(|node| {
        if node.kind == kind && node.name == name { Some(node) } else { pick(&node.parts, kind, name) }
    })
}

/// The tree as text.
fn drawn(roots: &[Node]) -> String {
    let mut lines = Vec::new();
    for root in roots {
        draw(root, "", "", &mut lines);
    }
    let width = lines.iter().map(|(left, ..)| left.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (left, ready, says) in lines {
        let mark = if ready { "Ready  " } else { "not yet" };
        text += format!("{left:<width$}  {mark}  {says}").trim_end();
        text.push('\n');
    }
    text
}

fn draw(node: &Node, lead: &str, below: &str, lines: &mut Vec<(String, bool, String)>) {
    lines.push((format!("{lead}{} {}", node.kind, node.name), node.ready, node.says.clone()));
    for (i, part) in node.parts.iter().enumerate() {
        let is_last = i + 1 == node.parts.len();
        let (branch, next) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(part, &format!("{below}{branch}"), &format!("{below}{next}"), lines);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, component: &str, instance: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {
            "app.kubernetes.io/instance": instance, "app.kubernetes.io/name": component}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}))
        .expect("a pod")
    }

    #[test]
    fn a_stack_is_drawn_with_its_parts_and_their_pods() {
        let object = |name: &str, status: Value, owner: Option<&str>| {
            let owners: Vec<Value> =
                owner.iter().map(|uid| json!({"uid": uid, "controller": true})).collect();
            json!({"metadata": {"name": name, "uid": name, "ownerReferences": owners}, "status": status})
        };
        let ready = |summary: &str, selector: &str| json!({"summary": summary, "selector": selector, "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]});
        let not = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Unschedulable", "message": "no GPU"}]});
        let both = "app.kubernetes.io/name=tinyinfer,app.kubernetes.io/instance in (chat-v1,chat-v2)";
        let all = [
            (Kind::AIStack, object("s", not, None)),
            (Kind::InferenceService, object("chat", ready("2/2 m (1, 2)", both), Some("s"))),
            (Kind::VectorCollection, object("alone", json!({}), None)),
        ];
        let pods = [
            pod("a", "tinyinfer", "chat-v1", "True"),
            pod("b", "tinyinfer", "chat-v2", "False"),
            pod("hub-0", "modelhub", "modelhub", "True"),
            pod("other", "tinykv", "other", "True"),
        ];
        let expected = "\
AIStack s                 not yet  Unschedulable: no GPU
├─ InferenceService chat  Ready    2/2 m (1, 2)
│  ├─ Pod a               Ready
│  └─ Pod b               not yet  Running
└─ Pod hub-0              Ready
VectorCollection alone    not yet  no operator has looked at it yet
";
        assert_eq!(drawn(&grown(&all, &pods)), expected);
    }

    #[test]
    fn what_was_ready_before_an_edit_may_not_be_now() {
        let object = |change: &Value| {
            let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": ""});
            let mut object = json!({"metadata": {"name": "s", "generation": 2},
                "status": {"observedGeneration": 2, "summary": "1/1", "conditions": [ready]}});
            for (path, value) in change.as_object().expect("changes") {
                let (place, field) = path.rsplit_once('/').expect("a path");
                object.pointer_mut(place).expect("an object")[field] = value.clone();
            }
            object
        };
        let paused = json!({"platform.dev/paused": "true"});
        let table = [
            (json!({}), true, "1/1"),
            (
                json!({"/metadata/generation": 3}),
                false,
                "no operator has looked at the newest change yet; 1/1",
            ),
            (json!({"/metadata/annotations": paused}), true, "paused; 1/1"),
            (
                json!({"/metadata/annotations": paused, "/metadata/generation": 3}),
                false,
                "paused; a change waits; 1/1",
            ),
            (
                json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z", "/metadata/generation": 3}),
                false,
                "is being deleted since 2026-01-01T00:00:00Z; 1/1",
            ),
        ];
        for (change, ready, says) in table {
            let node = node(Kind::AIStack, &object(&change), Vec::new());
            assert_eq!((node.ready, node.says.as_str()), (ready, says), "{change}");
        }
    }
}
