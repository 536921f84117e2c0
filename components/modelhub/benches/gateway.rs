//! The two ends of a gateway measurement: an upstream that answers at once, and a client that keeps it busy.
//!
//! `gateway mock --listen ADDRESS` answers every POST with a fixed chat completion (1 KB), or with 66 events 20 ms apart when
//! the request asks for a stream. `gateway load --url URL --requests N --concurrency C [--body BYTES] [--stream]` prints a JSON
//! line. `e2e/peers/nginx/bench.py` puts nginx and modelhub between the two.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Reply = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

/// Events of a stream, and the time between them.
const EVENTS: u32 = 66;
const EVENT_INTERVAL: Duration = Duration::from_millis(20);

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.first().map(String::as_str) {
        Some("mock") => runtime.block_on(mock(&value("--listen").ok_or("--listen ADDRESS")?)),
        Some("load") => {
            let load = Load {
                url: value("--url").ok_or("--url URL")?,
                requests: value("--requests").ok_or("--requests N")?.parse()?,
                concurrency: value("--concurrency").ok_or("--concurrency C")?.parse()?,
                body: value("--body").map_or(Ok(1_024), |b| b.parse())?,
                stream: args.iter().any(|a| a == "--stream"),
            };
            runtime.block_on(load.run())
        }
        _ => {
            println!("gateway mock|load, driven by e2e/peers/nginx/bench.py");
            Ok(())
        }
    }
}

async fn mock(address: &str) -> Result<(), Failure> {
    let text = "x".repeat(700);
    let reply = Bytes::from(format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"mock","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":256,"completion_tokens":175,"total_tokens":431}}}}"#
    ));
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let reply = reply.clone();
        let service = service_fn(move |request| respond(request, reply.clone()));
        tokio::spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            // A client that leaves is the normal end.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(request: Request<Incoming>, reply: Bytes) -> Result<Response<Reply>, Failure> {
    if request.method() == hyper::Method::GET {
        let list = Bytes::from_static(br#"{"object":"list","data":[{"id":"mock","object":"model"}]}"#);
        return Ok(Response::builder()
            .header("content-type", "application/json")
            .body(Full::new(list).boxed())?);
    }
    let body = request.into_body().collect().await?.to_bytes();
    if !body.ends_with(b"\"stream\":true}") {
        return Ok(Response::builder()
            .header("content-type", "application/json")
            .body(Full::new(reply).boxed())?);
    }
    let events = futures::stream::unfold(0, |i| async move {
        if i == EVENTS {
            return None;
        }
        tokio::time::sleep(EVENT_INTERVAL).await;
        let event =
            format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"word {i} \"}}}}]}}\n\n");
        Some((Ok(Frame::data(Bytes::from(event))), i + 1))
    });
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .body(BodyExt::boxed(StreamBody::new(events)))?)
}

struct Load {
    url: String,
    requests: usize,
    concurrency: usize,
    body: usize,
    stream: bool,
}

/// What one connection measured.
#[derive(Default)]
struct Measured {
    seconds: Vec<f64>,
    first: Vec<f64>,
    events: usize,
    failed: usize,
}

impl Load {
    async fn run(&self) -> Result<(), Failure> {
        let uri: hyper::Uri = self.url.parse()?;
        let prompt = "y".repeat(self.body.saturating_sub(110));
        let stream = if self.stream { ",\"stream\":true" } else { "" };
        let body = Bytes::from(format!(
            r#"{{"model":"mock","messages":[{{"role":"user","content":"{prompt}"}}],"max_tokens":64,"temperature":0.0{stream}}}"#
        ));
        let each = self.requests.div_ceil(self.concurrency);
        let started = Instant::now();
        let connections = (0..self.concurrency).map(|_| connection(&uri, &body, each));
        let all = futures::future::try_join_all(connections).await?;
        let elapsed = started.elapsed().as_secs_f64();
        let merge = |part: fn(&Measured) -> &Vec<f64>| {
            let mut sorted: Vec<f64> = all.iter().flat_map(|m| part(m).iter().copied()).collect();
            sorted.sort_by(f64::total_cmp);
            sorted
        };
        let (seconds, first) = (merge(|m| &m.seconds), merge(|m| &m.first));
        let at = |sorted: &[f64], share: f64| {
            sorted.get((share * sorted.len() as f64).ceil() as usize - 1).copied().unwrap_or(0.0) * 1e6
        };
        println!(
            "{}",
            serde_json::json!({
                "requests": seconds.len(),
                "failed": all.iter().map(|m| m.failed).sum::<usize>(),
                "events": all.iter().map(|m| m.events).sum::<usize>(),
                "per_second": seconds.len() as f64 / elapsed,
                "p50_us": at(&seconds, 0.5),
                "p99_us": at(&seconds, 0.99),
                "first_p50_us": at(&first, 0.5),
                "first_p99_us": at(&first, 0.99),
            })
        );
        Ok(())
    }
}

async fn connection(uri: &hyper::Uri, body: &Bytes, requests: usize) -> Result<Measured, Failure> {
    let authority = uri.authority().ok_or("a host")?.clone();
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut measured = Measured::default();
    for _ in 0..requests {
        let request = Request::post(uri.path())
            .header("host", authority.as_str())
            .header("content-type", "application/json")
            .header("authorization", "Bearer sk-none")
            .body(Full::new(body.clone()))?;
        let started = Instant::now();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        measured.failed += usize::from(!response.status().is_success());
        let mut pieces = response.into_body().into_data_stream();
        let mut first = None;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            first.get_or_insert_with(|| started.elapsed());
            measured.events += memchr::memmem::find_iter(&piece, b"data:").count();
        }
        measured.first.push(first.unwrap_or_default().as_secs_f64());
        measured.seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(measured)
}
