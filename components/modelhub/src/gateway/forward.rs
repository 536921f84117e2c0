//! Forwarding: finds the engine, sends, retries before the first byte.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aistack_api::modelhub::{EngineTask, GatewayLimits};
use aistack_api::traffic::HoldPolicy;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::engine::{Engine, Running};
use super::engines::{Engines, ModelRoute};
use super::keys::Admission;
use super::metrics::GatewayMetrics;
use super::reply::{Held, MeteredBody};
use super::route::{Candidate, RetryBudget, closest, pick};
use super::traffic::{Ending, SESSION_HEADER, Split, TargetStats, TrafficMetrics, Waiting};
use crate::client_tls::explained;
use crate::error::ApiError;

/// A request for an engine.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// Path on the engine, such as `/v1/chat/completions`.
    pub path: &'a str,
    /// Name of the model.
    pub model: &'a str,
    /// Headers to pass on; hop-by-hop ones and the caller's key are left out.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Whether the reply is a stream of events.
    pub stream: bool,
    /// Whom or what conversation it is of, as its body says; a header goes before.
    pub session: Option<&'a str>,
}

impl Call<'_> {
    fn session(&self) -> Option<&str> {
        let header = self.headers.get(SESSION_HEADER).and_then(|value| value.to_str().ok());
        header.or(self.session).filter(|session| !session.is_empty())
    }
}

/// The gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The engines.
    pub engines: Arc<Engines>,
    limits: GatewayLimits,
    budget: Mutex<RetryBudget>,
    metrics: GatewayMetrics,
    traffic: TrafficMetrics,
    epoch: Instant,
    /// Copies of requests that are on their way to shadows.
    copies: Arc<Semaphore>,
}

/// Most copies of requests on their way at a time; further ones are not made.
const MAX_COPIES: usize = 64;

/// Headers that belong to one connection, or that the gateway sets itself.
const NOT_FORWARDED: &[HeaderName] = &[
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::EXPECT,
];

impl Gateway {
    /// A gateway in front of the engines.
    pub fn new(
        engines: Arc<Engines>,
        limits: GatewayLimits,
        metrics: GatewayMetrics,
        traffic: TrafficMetrics,
    ) -> Self {
        let budget = Mutex::new(RetryBudget::new(limits.retry_budget_percent));
        let copies = Arc::new(Semaphore::new(MAX_COPIES));
        Self { engines, limits, budget, metrics, traffic, epoch: Instant::now(), copies }
    }

    /// Its limits.
    pub fn limits(&self) -> &GatewayLimits {
        &self.limits
    }

    /// Counts a request that no engine saw.
    pub fn refuse(&self, model: &str, error: ApiError) -> ApiError {
        self.metrics.refuse(model, error.code);
        error
    }

    /// The route to a model, or the sentence that helps to find it.
    pub fn route(&self, model: &str) -> Result<Arc<ModelRoute>, ApiError> {
        self.engines.route(model).ok_or_else(|| self.refuse("", self.unknown_model(model)))
    }

    /// Refuses when no healthy engine serves a model.
    pub fn ready(&self, model: &str) -> Result<(), ApiError> {
        let route = self.route(model)?;
        let waits = route.split.as_ref().is_some_and(|split| split.hold.is_some());
        if waits || route.engines.iter().any(|e| e.healthy()) {
            return Ok(());
        }
        Err(self.not_healthy(&format!("model {model} has no healthy engine"), &route.engines))
    }

    /// The model for a task when the caller names none.
    pub fn default_model(&self, wanted: EngineTask) -> Result<String, ApiError> {
        self.engines.default_model(wanted).ok_or_else(|| {
            let (what, task) = match wanted {
                EngineTask::Chat => ("answers", "chat"),
                EngineTask::Embed => ("embeds", "embed"),
            };
            match self.engines.all().iter().find(|e| e.task == wanted) {
                Some(engine) => self
                    .not_healthy(&format!("no model that {what} is known yet"), std::slice::from_ref(engine)),
                None => ApiError::unavailable(
                    "no_engine",
                    format!("no engine that {what} is configured: add one with  task: {task}  under engines"),
                    60,
                ),
            }
        })
    }

    fn unknown_model(&self, model: &str) -> ApiError {
        if !self.engines.knows_all() {
            let message = format!(
                "model {model} is not known (yet): the routes in the key-value store could not be read"
            );
            return ApiError::unavailable("kv_store_unavailable", message, 2);
        }
        let mut silent = self.engines.all();
        silent.retain(|e| !e.healthy() && e.models().is_empty());
        if !silent.is_empty() {
            return self.not_healthy(&format!("model {model} is not known (yet)"), &silent);
        }
        let routes = self.engines.routes();
        let mut names: Vec<&str> = routes.keys().map(String::as_str).collect();
        names.sort_unstable();
        let near = closest(model, names.iter().copied());
        let hint = match (near.is_empty(), names.is_empty()) {
            (false, _) => format!("did you mean {}?", near.join(" or ")),
            (true, false) => format!("served here: {}", names.join(", ")),
            (true, true) => "no engine is configured: add one under engines in the configuration".to_owned(),
        };
        ApiError::not_found("model_not_found", format!("model {model} is not served here; {hint}"))
    }

    fn not_healthy(&self, what: &str, engines: &[Arc<Engine>]) -> ApiError {
        let states: Vec<String> =
            engines.iter().map(|e| format!("engine {} at {}: {}", e.name, e.endpoint, e.trouble())).collect();
        let message = format!("{what}: {}", states.join("; "));
        ApiError::unavailable("engine_unavailable", message, self.engines.check_seconds())
    }

    /// Sends a call to an engine and gives its reply, body untouched. `admission` is settled when the reply is over.
    pub async fn forward(
        &self,
        call: Call<'_>,
        admission: Option<Admission>,
    ) -> Result<Response<Body>, ApiError> {
        let route = self.route(call.model)?;
        let started = Instant::now();
        // Whoever puts models to sleep must know of it until its reply is over.
        let in_flight = route.split.as_ref().map(|split| split.room.begin());
        let number = in_flight.as_ref().map_or(0, |request| request.number);
        let sent = self.send_with_retries(&call, &route, number).await;
        let (response, running, stats) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                route.metrics.server_error.inc();
                return Err(error);
            }
        };
        let (mut parts, body) = response.into_parts();
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            parts.headers.remove(name);
        }
        parts.headers.remove("keep-alive");
        parts.version = http::Version::HTTP_11;
        let idle = Duration::from_millis(self.limits.idle_timeout_ms);
        let held = Held::new(admission, running, stats, in_flight);
        let body = MeteredBody::new(body, &call, parts.status, started, &route, idle, held);
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// Sends a JSON call and reads the whole reply; an engine's error becomes ours, sentence kept.
    pub async fn call_json(
        &self,
        path: &str,
        model: &str,
        body: &serde_json::Value,
    ) -> Result<Bytes, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        let call = Call {
            path,
            model,
            headers: &headers,
            body: Bytes::from(body.to_string()),
            stream: false,
            session: None,
        };
        let response = self.forward(call, None).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body
            .map_err(|e| {
                ApiError::unavailable(
                    "engine_broke_off",
                    format!("{model} broke off: {}", crate::innermost(&e)),
                    1,
                )
            })?
            .to_bytes();
        if status.is_success() { Ok(body) } else { Err(engine_error(model, status, &body)) }
    }

    async fn send_with_retries(
        &self,
        call: &Call<'_>,
        route: &Arc<ModelRoute>,
        number: u64,
    ) -> Result<Sent, ApiError> {
        self.budget.lock().request();
        let mut route = route.clone();
        let turn = route.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(split) = &route.split {
            self.copy_to_shadows(call, split, number);
        }
        let mut order = Self::order(call, &route, number);
        let mut tried: Vec<usize> = Vec::new();
        // An engine may have seen so many, and may have ended of them.
        let mut tries = 0;
        let mut waiting: Option<Waiting> = None;
        // A request waits once, however often a target comes and goes meanwhile.
        let mut arrived = None;
        loop {
            let Some(index) = choose(&route, order.as_deref(), &tried, turn) else {
                let held = route.split.as_ref().and_then(|split| Some((split, split.hold?)));
                let Some((split, policy)) = held else {
                    if self.engines.look_again(&candidates(&route, order.as_deref())).await {
                        route = self.route(call.model)?;
                        order = Self::order(call, &route, number);
                        tried.clear();
                        continue;
                    }
                    return Err(self.nobody_answers(call, &route, order.as_deref()));
                };
                let arrived = *arrived.get_or_insert_with(Instant::now);
                waiting = Some(self.wait(call, split, policy, order.as_deref(), (waiting, arrived)).await?);
                route = self.route(call.model)?;
                order = Self::order(call, &route, number);
                tried.clear();
                continue;
            };
            if let Some(waiting) = waiting.take() {
                waiting.served();
            }
            let engine = &route.engines[index];
            let stats = route.split.as_ref().map(|split| split.targets[index].stats.clone());
            let running = engine.begin();
            let outcome = self.send_once(call, engine).await;
            tried.push(index);
            // Nobody saw a request that found no connection: when requests may wait, this one may too.
            let may_wait =
                outcome.is_unseen && route.split.as_ref().is_some_and(|split| split.hold.is_some());
            tries += u32::from(!may_wait);
            let last = tries >= self.limits.max_tries;
            let again =
                may_wait || !last && outcome.retryable() && self.budget.lock().retry(self.epoch.elapsed());
            // An engine that answers “not now” is asked again only if there is no other.
            let alone = outcome.result.is_ok() && (0..route.engines.len()).all(|i| tried.contains(&i));
            if !again || alone {
                if let (Err(_), Some(stats)) = (&outcome.result, &stats) {
                    stats.judge(Ending::Failed, None);
                }
                return outcome.result.map(|response| (response, running, stats));
            }
            if let Some(stats) = &stats {
                stats.judge(Ending::Failed, None);
            }
            self.metrics.retried();
            tracing::info!(engine = engine.name, model = call.model, "retrying");
        }
    }

    /// The targets that may have a request, the first choice first. `None` when its model has no route of its own: engines
    /// take turns.
    fn order(call: &Call<'_>, route: &ModelRoute, number: u64) -> Option<Vec<usize>> {
        let split = route.split.as_ref()?;
        Some(split.order(call.session(), number, call.headers))
    }

    fn nobody_answers(&self, call: &Call<'_>, route: &ModelRoute, order: Option<&[usize]>) -> ApiError {
        let none = if route.split.is_some() { "target that answers" } else { "healthy engine" };
        let what = format!("model {} has no {none}", call.model);
        self.refuse(call.model, self.not_healthy(&what, &candidates(route, order)))
    }

    /// Waits until routes or engines change, within the room and the time that the route gives.
    async fn wait(
        &self,
        call: &Call<'_>,
        split: &Arc<Split>,
        policy: HoldPolicy,
        order: Option<&[usize]>,
        (waiting, arrived): (Option<Waiting>, Instant),
    ) -> Result<Waiting, ApiError> {
        let changed = self.engines.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let waiting = match waiting {
            Some(waiting) => waiting,
            None => split
                .room
                .enter(call.model, policy, arrived)
                .map_err(|error| self.refuse(call.model, error))?,
        };
        // What changed before this began to listen is looked at again.
        let is_there = |&i: &usize| split.targets[i].engine.healthy();
        let now = self.engines.route(call.model).and_then(|route| route.split.clone());
        let is_other = now.is_none_or(|now| !Arc::ptr_eq(&now, split));
        if (is_other || order.unwrap_or_default().iter().any(is_there)) && !waiting.is_over() {
            return Ok(waiting);
        }
        match tokio::time::timeout_at(waiting.deadline(), changed).await {
            Ok(()) => Ok(waiting),
            Err(_) => Err(self.refuse(call.model, waiting.gave_up())),
        }
    }

    /// Copies a request to the shadows that want it; nobody waits for them.
    fn copy_to_shadows(&self, call: &Call<'_>, split: &Split, number: u64) {
        for shadow in split.shadows(number) {
            let name = shadow.name.clone();
            let note = |outcome| self.traffic.shadow(call.model, &name, outcome);
            let permit = self.copies.clone().try_acquire_owned();
            let (Ok(permit), true) = (permit, shadow.engine.healthy()) else {
                note("dropped");
                continue;
            };
            let Ok(request) = outgoing(call, &shadow.engine) else { continue };
            let (engine, metrics) = (shadow.engine.clone(), self.traffic.clone());
            let (model, limit) =
                (call.model.to_owned(), Duration::from_millis(self.limits.first_byte_timeout_ms));
            tokio::spawn(async move {
                let running = engine.begin();
                let answered = async {
                    let response = engine.send(request).await.ok()?;
                    let is_well = response.status().is_success();
                    let mut body = response.into_body();
                    while let Some(frame) = body.frame().await {
                        frame.ok()?;
                        running.heard();
                    }
                    is_well.then_some(())
                };
                let answered = tokio::time::timeout(limit, answered).await;
                if answered.is_err() {
                    engine.fail_if_silent(limit, no_reply(&engine, limit));
                }
                let is_well = answered.ok().flatten().is_some();
                metrics.shadow(&model, &name, if is_well { "ok" } else { "failed" });
                drop((running, permit));
            });
        }
    }

    async fn send_once(&self, call: &Call<'_>, engine: &Arc<Engine>) -> Outcome {
        let request = match outgoing(call, engine) {
            Ok(request) => request,
            Err(e) => {
                let error = ApiError::invalid("bad_request", format!("the request cannot be forwarded: {e}"));
                return Outcome { result: Err(error), connection: false, is_unseen: false };
            }
        };
        let limit = Duration::from_millis(self.limits.first_byte_timeout_ms);
        match tokio::time::timeout(limit, engine.send(request)).await {
            Ok(Ok(response)) => Outcome { result: Ok(response), connection: false, is_unseen: false },
            Ok(Err(error)) => {
                let why = explained(&engine.endpoint, crate::innermost(&error));
                if engine.fail(why.clone()) {
                    self.engines.check_soon(engine);
                }
                let is_unseen = error.is_connect();
                let message = format!("engine {} at {} does not answer: {why}", engine.name, engine.endpoint);
                let error =
                    ApiError::unavailable("engine_unavailable", message, self.engines.check_seconds());
                Outcome { result: Err(error), connection: true, is_unseen }
            }
            Err(_) => {
                let message = no_reply(engine, limit);
                engine.fail_if_silent(limit, message.clone());
                let error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "engine_timeout", message);
                Outcome { result: Err(error), connection: false, is_unseen: false }
            }
        }
    }
}

fn no_reply(engine: &Engine, limit: Duration) -> String {
    format!("engine {} gave no reply within {} s", engine.name, limit.as_secs())
}

/// A reply that has begun, the engine that gives it, and where its end is noted.
type Sent = (Response<Incoming>, Running, Option<Arc<TargetStats>>);

/// The engine for the next try: the first healthy one of an order, or whoever's turn it is; those not tried yet first.
fn choose(route: &ModelRoute, order: Option<&[usize]>, tried: &[usize], turn: usize) -> Option<usize> {
    let candidate = |i: usize| Candidate { healthy: route.engines[i].healthy(), tried: tried.contains(&i) };
    match order {
        Some(order) => pick(order.iter().map(|&i| candidate(i)), 0).map(|i| order[i]),
        None => pick((0..route.engines.len()).map(candidate), turn),
    }
}

/// The engines that may have a request.
fn candidates(route: &ModelRoute, order: Option<&[usize]>) -> Vec<Arc<Engine>> {
    match order {
        Some(order) => order.iter().map(|&i| route.engines[i].clone()).collect(),
        None => route.engines.clone(),
    }
}

/// What one try came to.
struct Outcome {
    result: Result<Response<Incoming>, ApiError>,
    /// Whether the connection failed, so that another engine may do better.
    connection: bool,
    /// Whether there was none, so that no engine saw the request.
    is_unseen: bool,
}

impl Outcome {
    fn retryable(&self) -> bool {
        match &self.result {
            Ok(response) => matches!(response.status().as_u16(), 502..=504),
            Err(_) => self.connection,
        }
    }
}

fn outgoing(call: &Call<'_>, engine: &Engine) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(engine.uri(call.path)?)
        .body(Full::new(call.body.clone()))?;
    let headers = request.headers_mut();
    headers.reserve(call.headers.len() + 4);
    for (name, value) in call.headers {
        if !NOT_FORWARDED.contains(name) && name.as_str() != "x-api-key" && name.as_str() != "keep-alive" {
            headers.append(name.clone(), value.clone());
        }
    }
    engine.sign(headers);
    aistack_chassis::trace::inject(headers);
    Ok(request)
}

/// An engine's error in our form: its own sentence when it has one.
pub fn engine_error(model: &str, status: StatusCode, body: &[u8]) -> ApiError {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let sentence = parsed.as_ref().and_then(|v| {
        let error = v.get("error").unwrap_or(v);
        error.get("message").or_else(|| v.get("detail")).or(Some(error)).and_then(serde_json::Value::as_str)
    });
    let text = sentence
        .map_or_else(|| String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(), str::to_owned);
    let status =
        if status.is_client_error() || status.is_server_error() { status } else { StatusCode::BAD_GATEWAY };
    ApiError::new(status, "engine_error", format!("{model} answered {}: {text}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_own_sentence_is_kept() {
        let cases: &[(&str, &str)] = &[
            (r#"{"error":{"message":"too long","type":"x"}}"#, "m answered 400: too long"),
            (r#"{"error":"no"}"#, "m answered 400: no"),
            (r#"{"detail":"not found"}"#, "m answered 400: not found"),
            ("plain words", "m answered 400: plain words"),
        ];
        for (body, want) in cases {
            assert_eq!(engine_error("m", StatusCode::BAD_REQUEST, body.as_bytes()).message, *want);
        }
    }
}
