//! A stack's ModelHub, as the operator speaks to it: its traffic endpoints.

use aistack_api::traffic::{TrafficList, TrafficRoute, TrafficState};
use aistack_crds::AIStack;
use aistack_crds::parts::SecretKeyRef;
use http::{Method, Request, StatusCode};
use serde_json::Value;

use crate::aistack::{HUB, HUB_ADMIN_KEY, HUB_ADMIN_SECRET, HUB_PORT};
use crate::kernel::ObjectName;
use crate::kernel::cluster::Cluster;
use crate::meta::Image;

/// Where a stack's ModelHub is, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hub {
    namespace: String,
    /// The administrator's key, where it asks for one.
    pub(crate) key: Option<SecretKeyRef>,
    /// Its image, whose program fetches from its registry: whoever hands the key to a pod chooses what runs there.
    pub(crate) image: Image,
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
        let namespace = stack.metadata.namespace.clone().unwrap_or_default();
        Some(Self { namespace, key, image: Image::of(HUB, &stack.spec.image) })
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
        let base = cluster.service_url(&ObjectName::new(self.namespace.as_str(), HUB), HUB_PORT);
        let path = if model.is_empty() { String::new() } else { format!("/{model}") };
        let mut request = Request::builder().method(method).uri(format!("{base}/api/v1/traffic{path}"));
        if let Some(key) = &self.key {
            let key = self.secret(cluster, key).await?;
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {key}"));
        }
        request = match expected {
            Expected::Any => request,
            Expected::Absent => request.header(http::header::IF_NONE_MATCH, "*"),
            Expected::At(revision) => request.header(http::header::IF_MATCH, format!("\"{revision}\"")),
        };
        let answer = cluster.outside.ask(request, body).await;
        let answer = answer.map_err(|silence| HubError::Away(silence.to_string()))?;
        let (status, body) = (answer.status, answer.json());
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

fn read<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, HubError> {
    serde_json::from_value(body)
        .map_err(|error| HubError::Refused(format!("its answer is no route: {error}")))
}
