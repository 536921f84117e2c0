//! `logs`: what all pods of an object print, each line with its pod's name.

use aistack_crds::Kind;
use futures::io::AsyncBufReadExt as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use kube::api::{ListParams, LogParams};

use super::{Place, PluginError, pods_of, say, tree};

pub(super) async fn run(place: &Place, name: &str, follow: bool, tail: i64) -> Result<(), PluginError> {
    let (kind, object) = place.find(name).await?;
    let pods = place.api::<Pod>();
    let mut selectors = vec![pods_of(kind, &object)];
    if kind == Kind::AIStack {
        let parts = place.all().await?;
        let parts = parts
            .iter()
            .filter(|(_, part)| tree::owner(part).as_deref() == object["metadata"]["uid"].as_str());
        selectors.extend(parts.map(|(kind, part)| pods_of(*kind, part)));
    }
    let mut listed = Vec::new();
    for selector in selectors {
        let some = pods.list(&ListParams::default().labels(&selector)).await;
        listed.extend(some.map_err(|error| PluginError::asked("list pods", &error))?.items);
    }
    if listed.is_empty() {
        return Err(PluginError::failed(format!(
            "{name} has no pods now; kubectl aistack status {name} -n {} says why",
            place.namespace
        )));
    }
    let mut streams = Vec::new();
    for (pod, container) in listed.iter().flat_map(|pod| said_something(pod).map(move |one| (pod, one))) {
        let (name, pods, container) = (pod.name_any(), pods.clone(), container.to_owned());
        let params =
            LogParams { follow, tail_lines: Some(tail), container: Some(container), ..LogParams::default() };
        streams.push(async move {
            let lines = match pods.log_stream(&name, &params).await {
                Ok(lines) => lines,
                Err(error) => {
                    eprintln!("{name}: {}", crate::kernel::apply::said(&error));
                    return Ok(false);
                }
            };
            let mut lines = lines.lines();
            loop {
                match lines.try_next().await {
                    Ok(Some(line)) => say(format_args!("{name}  {line}"))?,
                    Ok(None) => return Ok(true),
                    Err(error) => {
                        eprintln!("{name}: the log broke off: {error}");
                        return Ok(false);
                    }
                }
            }
        });
    }
    if streams.is_empty() {
        return Err(PluginError::failed(format!(
            "no container of {name} has begun; kubectl aistack status {name} -n {} says why",
            place.namespace
        )));
    }
    let count = streams.len();
    let streams = futures::stream::iter(streams).buffer_unordered(count);
    let was_read: Vec<bool> = streams.try_collect::<_>().await.map_err(|error: PluginError| error)?;
    if was_read.contains(&true) { Ok(()) } else { Err(PluginError::failed("no log could be read")) }
}

/// Containers of a pod that have begun: those that fetch weights first, then what serves.
fn said_something(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let first = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let then = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let has_begun = |container: &&ContainerStatus| {
        let state = container.state.as_ref();
        let waits = state.is_none_or(|state| state.running.is_none() && state.terminated.is_none());
        !waits || container.restart_count > 0
    };
    first.chain(then).filter(has_begun).map(|container| container.name.as_str())
}
