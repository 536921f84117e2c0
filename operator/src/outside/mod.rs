//! Calls to servers that are not the API server: those that tenants run, and those that manifests name. Whoever answers may be
//! hostile, so a call goes where it was sent and nowhere else (there are no redirects and no proxies here), an answer has a most
//! size, all calls of a step have one patience, a turn that waits holds no worker, and nobody has the operator call its own surroundings.

mod absence;
mod certificates;
mod guard;
mod patience;

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use http::{Request, StatusCode, Uri, request};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;

pub(crate) use self::absence::turn;
pub(crate) use self::certificates::{Certificates, may_know};
use self::guard::{Guard, NotAdmitted};
pub(crate) use self::patience::{Late, call, step};

/// Most bytes of an answer that are read.
const MOST: usize = 1 << 20;
/// How long a connection that nobody uses is kept: services that sleep are asked for every second.
const IDLE: Duration = Duration::from_secs(20);

type Http = Client<HttpsConnector<HttpConnector<Guard>>, Full<hyper::body::Bytes>>;

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    body: hyper::body::Bytes,
}

impl Answer {
    /// The body; `null` where it is no JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body, for people.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Silence {
    /// It took too long, by itself or after others of the same step.
    #[error("no answer in {} s", patience::STEP.as_secs())]
    Late,
    /// It is not called at all.
    #[error("{NotAdmitted}")]
    NotAdmitted,
    /// Nobody reads so much.
    #[error("it answers with more than {MOST} bytes")]
    TooLong,
    /// One side does not take the other's certificate.
    #[error("{0}")]
    Certificate(String),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
}

/// The one client of all that is outside.
pub(crate) struct Outside {
    guard: Guard,
    plain: OnceLock<Http>,
}

impl Outside {
    /// `local`: whether it may call its own machine.
    pub(crate) fn new(local: bool) -> Self {
        Self { guard: Guard { local }, plain: OnceLock::new() }
    }

    /// Asks a server of ours, at the address of its Service or the one that the operator's settings have for it.
    pub(crate) async fn ask(
        &self,
        request: request::Builder,
        body: Option<&Value>,
    ) -> Result<Answer, Silence> {
        ask(self.plain(), request, body).await
    }

    /// Asks a server that a manifest names for a page.
    pub(crate) async fn visit(&self, url: &str, tls: Option<&Certificates>) -> Result<Answer, Silence> {
        let uri: Uri = url.parse().map_err(|_| Silence::Failed("the address is none".to_owned()))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        // A name is judged when it is resolved.
        if host.parse::<IpAddr>().is_ok_and(|address| !self.guard.admits(address)) {
            return Err(Silence::NotAdmitted);
        }
        let own = tls.map(|tls| Ok(http(self.guard, tls.config()?, tls.name()?)));
        let own = own.transpose().map_err(Silence::Certificate)?;
        ask(own.as_ref().unwrap_or_else(|| self.plain()), Request::get(uri), None).await
    }

    /// Whether anybody takes a connection.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<(), Silence> {
        let connected = async {
            let addresses = self.guard.resolve(host, port).await?;
            tokio::net::TcpStream::connect(addresses.as_slice()).await
        };
        let connected = call(connected).await.map_err(|Late| Silence::Late)?;
        connected.map(drop).map_err(|error| silence(&error))
    }

    fn plain(&self) -> &Http {
        self.plain.get_or_init(|| http(self.guard, certificates::of_this_machine(), None))
    }
}

fn http(guard: Guard, tls: ClientConfig, name: Option<ServerName<'static>>) -> Http {
    let mut tcp = HttpConnector::new_with_resolver(guard);
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let mut connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = name {
        connector = connector.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(2)
        .build(connector.enable_http1().wrap_connector(tcp))
}

async fn ask(http: &Http, request: request::Builder, body: Option<&Value>) -> Result<Answer, Silence> {
    let (request, body) = match body {
        Some(body) => (request.header(http::header::CONTENT_TYPE, "application/json"), body.to_string()),
        None => (request, String::new()),
    };
    let request = request.body(Full::new(body.into())).map_err(|error| Silence::Failed(error.to_string()))?;
    let answered = call(async {
        let answer = http.request(request).await.map_err(|error| silence(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Silence::TooLong,
            None => silence(error.as_ref()),
        })?;
        Ok(Answer { status, body: body.to_bytes() })
    });
    answered.await.map_err(|Late| Silence::Late)?
}

/// What lies at the bottom of an error.
fn silence(error: &(dyn Error + 'static)) -> Silence {
    let mut cause = Some(error);
    while let Some(at) = cause {
        if at.is::<NotAdmitted>() {
            return Silence::NotAdmitted;
        }
        if let Some(error) = at.downcast_ref::<rustls::Error>()
            && matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
        {
            return Silence::Certificate(error.to_string());
        }
        // What an io::Error was made from is not its source.
        let made_from = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = made_from.map(|inner| inner as &(dyn Error + 'static)).or_else(|| at.source());
    }
    Silence::Failed(aistack_api::cause::innermost(error))
}

#[cfg(test)]
mod tests;
