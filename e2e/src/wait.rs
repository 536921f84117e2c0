//! Waiting for something to become so, and saying what there was when it did not.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

/// How long anything may take. Machines stall.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Asks again and again until there is an answer.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) if began.elapsed() > PATIENCE => {
                bail!("after {} s it is still not so: {what}", PATIENCE.as_secs())
            }
            Err(error) if began.elapsed() > PATIENCE => return Err(error.context(what.to_owned())),
            Ok(None) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Objects that can be waited for, and told of.
pub trait Told:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + serde::Serialize
{
}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + serde::Serialize> Told
    for K
{
}

/// Waits until an object is as `holds` says; when it does not come to that, the object and its Events are told.
pub async fn object<K: Told>(
    api: &Api<K>,
    client: &Client,
    name: &str,
    what: &str,
    holds: impl Fn(&K) -> bool,
) -> Result<K> {
    let waited = until(what, || async { Ok(api.get_opt(name).await?.filter(|object| holds(object))) }).await;
    match waited {
        Ok(object) => Ok(object),
        Err(error) => Err(error.context(told(api, client, name).await)),
    }
}

/// Waits until an object is there no more; when it stays, it and its Events are told.
pub async fn gone<K: Told>(api: &Api<K>, client: &Client, name: &str) -> Result<()> {
    let is_gone = || async { Ok(api.get_opt(name).await?.is_none().then_some(())) };
    match until(&format!("{name} is gone"), is_gone).await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(told(api, client, name).await)),
    }
}

/// An object as it is, and its Events.
async fn told<K: Told>(api: &Api<K>, client: &Client, name: &str) -> String {
    match api.get_opt(name).await {
        Ok(Some(mut object)) => {
            object.meta_mut().managed_fields = None;
            let about = events(client, &object.namespace().unwrap_or_default(), name).await;
            format!("{}\n{about}", serde_yaml_ng::to_string(&object).unwrap_or_default())
        }
        Ok(None) => "it does not exist".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Events about an object, a line each.
pub async fn events(client: &Client, namespace: &str, name: &str) -> String {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let Ok(events) = api.list(&ListParams::default()).await else { return String::new() };
    let about =
        |event: &&Event| event.regarding.as_ref().is_some_and(|about| about.name.as_deref() == Some(name));
    let line = |event: &Event| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{} {}: {}\n", text(&event.type_), text(&event.reason), text(&event.note))
    };
    events.items.iter().filter(about).map(line).collect()
}
