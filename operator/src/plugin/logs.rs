//! `logs`: what all pods of an object print, each line with its pod's name.

use futures::io::AsyncBufReadExt as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{ListParams, LogParams};

use super::{Place, PluginError, pods_of};

pub(super) async fn run(place: &Place, name: &str, follow: bool, tail: i64) -> Result<(), PluginError> {
    let (kind, object) = place.find(name).await?;
    let pods = place.api::<Pod>();
    let listed = pods.list(&ListParams::default().labels(&pods_of(kind, &object))).await;
    let listed = listed.map_err(|error| PluginError::asked("list pods", &error))?.items;
    if listed.is_empty() {
        return Err(PluginError::failed(format!(
            "{name} has no pods now; kubectl aistack status {name} says why"
        )));
    }
    let mut streams = Vec::new();
    for pod in &listed {
        let (name, pods) = (pod.name_any(), pods.clone());
        let params = LogParams { follow, tail_lines: Some(tail), ..LogParams::default() };
        streams.push(async move {
            let lines = match pods.log_stream(&name, &params).await {
                Ok(lines) => lines,
                Err(error) => {
                    eprintln!("{name}: {}", crate::kernel::apply::said(&error));
                    return;
                }
            };
            let mut lines = lines.lines();
            while let Ok(Some(line)) = lines.try_next().await {
                println!("{name}  {line}");
            }
        });
    }
    futures::stream::iter(streams).buffer_unordered(listed.len()).collect::<Vec<()>>().await;
    Ok(())
}
