//! A stack's ModelHub, as the operator speaks to it: its traffic endpoints.

use std::sync::OnceLock;
use std::time::Duration;

use aistack_api::traffic::{TrafficList, TrafficRoute, TrafficState};
use aistack_crds::AIStack;
use aistack_crds::parts::SecretKeyRef;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::aistack::{HUB, HUB_ADMIN_KEY, HUB_ADMIN_SECRET, HUB_PORT};
use crate::kernel::ObjectName;
use crate::kernel::cluster::Cluster;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a stack's ModelHub is, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hub {
    namespace: String,
    /// The administrator's key, where it asks for one.
    pub(crate) key: Option<SecretKeyRef>,
}

/// What a change must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Any,
    Absent,
    At(i64),
}

/// Why it did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HubError {
    /// It does not answer.
    #[error("ModelHub does not answer: {0}")]
    Away(String),
    /// It said no.
    #[error("ModelHub refused: {0}")]
    Refused(String),
    /// The route is another one than it was.
    #[error("ModelHub's route was changed by somebody else meanwhile")]
    Changed,
}

impl Hub {
    /// The ModelHub of a stack that has one.
    pub(crate) fn of(stack: &AIStack) -> Option<Self> {
        let hub = stack.spec.modelhub.as_ref().or(stack.spec.model_hub.as_ref())?;
        let generated = || SecretKeyRef { name: HUB_ADMIN_SECRET.to_owned(), key: HUB_ADMIN_KEY.to_owned() };
        let key = hub.secret_ref.clone().or_else(|| hub.require_keys.then(generated));
        Some(Self { namespace: stack.metadata.namespace.clone().unwrap_or_default(), key })
    }

    /// Its URL as pods of its namespace see it.
    pub(crate) fn url_for_pods() -> String {
        format!("http://{HUB}:{HUB_PORT}")
    }

    /// A model's route and how it fares.
    pub(crate) async fn route(
        &self,
        cluster: &Cluster,
        model: &str,
    ) -> Result<Option<TrafficState>, HubError> {
        match self.ask(cluster, Method::GET, model, None, Expected::Any).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => Ok(Some(read(body)?)),
        }
    }

    /// Models whose routes were set by `owner`.
    pub(crate) async fn models_of(&self, cluster: &Cluster, owner: &str) -> Result<Vec<String>, HubError> {
        let (_, body) = self.ask(cluster, Method::GET, "", None, Expected::Any).await?;
        let all: TrafficList = read(body)?;
        Ok(all
            .routes
            .into_iter()
            .filter(|state| state.route.owner == owner)
            .map(|state| state.model)
            .collect())
    }

    /// Sets a route, if it is still the one that was read.
    pub(crate) async fn set(
        &self,
        cluster: &Cluster,
        model: &str,
        route: &TrafficRoute,
        before: Option<&TrafficState>,
    ) -> Result<(), HubError> {
        let body = serde_json::to_value(route).expect("a route is plain data");
        let expected = before.map_or(Expected::Absent, |before| Expected::At(before.revision));
        self.ask(cluster, Method::PUT, model, Some(&body), expected).await.map(drop)
    }

    /// Takes a route away; that it is gone is as good.
    pub(crate) async fn remove(&self, cluster: &Cluster, model: &str) -> Result<(), HubError> {
        self.ask(cluster, Method::DELETE, model, None, Expected::Any).await.map(drop)
    }

    async fn ask(
        &self,
        cluster: &Cluster,
        method: Method,
        model: &str,
        body: Option<&Value>,
        expected: Expected,
    ) -> Result<(StatusCode, Value), HubError> {
        let away = |error: &reqwest::Error| HubError::Away(aistack_api::cause::innermost(error));
        let client = client().map_err(|error| away(&error))?;
        let base = cluster.service_url(&ObjectName::new(self.namespace.as_str(), HUB), HUB_PORT);
        let path = if model.is_empty() { String::new() } else { format!("/{model}") };
        let mut request = client.request(method, format!("{base}/api/v1/traffic{path}"));
        if let Some(key) = &self.key {
            request = request.bearer_auth(self.secret(cluster, key).await?);
        }
        request = match expected {
            Expected::Any => request,
            Expected::Absent => request.header("if-none-match", "*"),
            Expected::At(revision) => request.header("if-match", format!("\"{revision}\"")),
        };
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| away(&error))?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        match status {
            StatusCode::PRECONDITION_FAILED => Err(HubError::Changed),
            StatusCode::NOT_FOUND if body.pointer("/error/code").is_some_and(|code| code == "no_route") => {
                Ok((status, body))
            }
            status if status.is_success() => Ok((status, body)),
            status => {
                let said = body.pointer("/error/message").and_then(Value::as_str);
                let said = said.map_or_else(|| status.to_string(), str::to_owned);
                Err(if status.is_server_error() { HubError::Away(said) } else { HubError::Refused(said) })
            }
        }
    }

    async fn secret(&self, cluster: &Cluster, key: &SecretKeyRef) -> Result<String, HubError> {
        let secret = ObjectName::new(self.namespace.as_str(), key.name.as_str());
        let found = cluster.secret_text(&secret, &key.key).await;
        found
            .map_err(|error| HubError::Away(crate::kernel::apply::said(&error)))?
            .ok_or_else(|| HubError::Away(format!("Secret {} has no {}", key.name, key.key)))
    }
}

/// One for all: services that sleep are asked for every second.
fn client() -> Result<Client, reqwest::Error> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let client = Client::builder().timeout(PATIENCE).build()?;
    Ok(CLIENT.get_or_init(|| client).clone())
}

fn read<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, HubError> {
    serde_json::from_value(body)
        .map_err(|error| HubError::Refused(format!("its answer is no route: {error}")))
}
