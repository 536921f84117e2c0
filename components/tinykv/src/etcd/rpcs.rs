//! Calls as Go's gRPC library counts them, by the names that etcd's dashboards and alerts read, and a line in the log for
//! each that took long.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use futures::StreamExt as _;
use http_body_util::{BodyStream, StreamBody};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::Code;

/// gRPC's status codes from 0, as Go writes them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The calls of a process.
pub struct Rpcs {
    /// By path, such as `/etcdserverpb.KV/Range`.
    methods: BTreeMap<String, Arc<Method>>,
    /// A call that takes longer is told of; of those that stream nothing.
    slow: Duration,
}

struct Method {
    service: String,
    name: String,
    kind: &'static str,
    started: AtomicU64,
    /// By status code.
    handled: [AtomicU64; CODES.len()],
    /// How many took so long: up to each of the bounds, and longer.
    took: [AtomicU64; BOUNDS.len() + 1],
    /// All of them together, in microseconds.
    micros: AtomicU64,
}

/// The bounds of Prometheus' own histograms, in seconds, which Go's library has.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const UNARY: &str = "unary";

impl Method {
    fn of(method: &MethodDescriptor) -> Self {
        let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
            (false, false) => UNARY,
            (false, true) => "server_stream",
            (true, false) => "client_stream",
            (true, true) => "bidi_stream",
        };
        Self {
            service: method.parent_service().full_name().to_owned(),
            name: method.name().to_owned(),
            kind,
            started: AtomicU64::new(0),
            handled: Default::default(),
            took: Default::default(),
            micros: AtomicU64::new(0),
        }
    }

    fn ended(&self, code: Code, took: Duration) {
        self.handled[code as usize].fetch_add(1, Ordering::Relaxed);
        let class = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        self.took[class].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn labels(&self) -> String {
        let Self { service, name, kind, .. } = self;
        format!(r#"grpc_method="{name}",grpc_service="{service}",grpc_type="{kind}""#)
    }
}

impl Rpcs {
    /// All of etcd's calls, none of them made yet.
    pub fn new(slow: Duration) -> Self {
        let pool = DescriptorPool::decode(wire::etcd::FILE_DESCRIPTOR_SET)
            .expect("the build writes the descriptors itself");
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let by_path = |method: MethodDescriptor| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            (path, Arc::new(Method::of(&method)))
        };
        Self { methods: methods.map(by_path).collect(), slow }
    }

    /// A call that begins; nothing, when it is none of etcd's.
    pub fn begin(&self, path: &str) -> Option<Call> {
        let method = Arc::clone(self.methods.get(path)?);
        method.started.fetch_add(1, Ordering::Relaxed);
        Some(Call { method, code: Code::Cancelled, began: Instant::now(), slow: self.slow })
    }

    /// The counters, as `/metrics` shows them.
    pub fn text(&self) -> String {
        let mut text = "# TYPE grpc_server_started counter\n".to_owned();
        // Writing to a string cannot fail.
        for method in self.methods.values() {
            let started = method.started.load(Ordering::Relaxed);
            let _ = writeln!(text, "grpc_server_started_total{{{}}} {started}", method.labels());
        }
        text.push_str("# TYPE grpc_server_handled counter\n");
        for method in self.methods.values() {
            for (code, count) in CODES.iter().zip(&method.handled) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 || *code == "OK" {
                    let labels = method.labels();
                    let _ =
                        writeln!(text, r#"grpc_server_handled_total{{grpc_code="{code}",{labels}}} {count}"#);
                }
            }
        }
        text
    }

    /// How long calls took, of each method that was called.
    pub fn durations(&self) -> String {
        const NAME: &str = "grpc_server_handling_seconds";
        let mut text = format!("# TYPE {NAME} histogram\n");
        for method in self.methods.values() {
            let labels = method.labels();
            let mut count = 0;
            for (class, took) in method.took.iter().enumerate() {
                count += took.load(Ordering::Relaxed);
                let bound = BOUNDS.get(class).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                // Writing to a string cannot fail.
                let _ = writeln!(text, r#"{NAME}_bucket{{{labels},le="{bound}"}} {count}"#);
            }
            let seconds = method.micros.load(Ordering::Relaxed) as f64 / 1e6;
            let _ = writeln!(text, "{NAME}_sum{{{labels}}} {seconds}\n{NAME}_count{{{labels}}} {count}");
        }
        text
    }
}

/// A call in progress. It counts when it goes: as cancelled, unless it came to an end before.
pub struct Call {
    method: Arc<Method>,
    code: Code,
    began: Instant,
    slow: Duration,
}

impl Call {
    /// The answer has come, or what begins it.
    pub fn answered(self, response: Response) -> Response {
        if self.method.kind != UNARY && code_in(response.headers()).is_none() {
            return response.map(|body| self.until_its_end(body));
        }
        self.ended(response.headers());
        response
    }

    /// The answer is whole, and these are its headers: those of an error bear its code, since nothing comes after them.
    pub fn ended(mut self, headers: &HeaderMap) {
        self.code = code_in(headers).unwrap_or(Code::Ok);
    }

    fn until_its_end(self, body: Body) -> Body {
        let mut call = self;
        Body::new(StreamBody::new(BodyStream::new(body).map(move |frame| {
            // All of it: it counts when the body goes.
            let call: &mut Self = &mut call;
            if let Some(trailers) = frame.as_ref().ok().and_then(|frame| frame.trailers_ref()) {
                call.code = code_in(trailers).unwrap_or(Code::Unknown);
            }
            frame
        })))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.method.ended(self.code, took);
        if self.method.kind == UNARY && took > self.slow {
            // In etcd's words, which people look for in their logs.
            tracing::warn!(
                time_spent = ?took,
                threshold = ?self.slow,
                method = format_args!("/{}/{}", self.method.service, self.method.name),
                code = CODES[self.code as usize],
                "request stats"
            );
        }
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use tonic::Status;

    const PUT: &str = "/etcdserverpb.KV/Put";
    const WATCH: &str = "/etcdserverpb.Watch/Watch";

    fn handled(rpcs: &Rpcs, code: &str, method: &str) -> bool {
        let start = format!(r#"grpc_server_handled_total{{grpc_code="{code}",grpc_method="{method}","#);
        rpcs.text().lines().any(|line| line.starts_with(&start) && line.ends_with(" 1"))
    }

    #[tokio::test]
    async fn calls_are_counted_by_how_they_ended() {
        let rpcs = Rpcs::new(Duration::MAX);
        assert!(rpcs.begin("/metrics").is_none());
        let put = || rpcs.begin(PUT).expect("etcd's");
        put().answered(Response::new(Body::empty()));
        put().answered(Status::out_of_range("").into_http());
        drop(put());
        for code in ["OK", "OutOfRange", "Canceled"] {
            assert!(handled(&rpcs, code, "Put"), "{code}: {}", rpcs.text());
        }
        let started =
            r#"started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 3"#;
        assert!(rpcs.text().contains(started), "{}", rpcs.text());
        let labels = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
        for line in [format!(r#"_bucket{{{labels},le="+Inf"}} 3"#), format!("_count{{{labels}}} 3")] {
            let line = format!("grpc_server_handling_seconds{line}\n");
            assert!(rpcs.durations().contains(&line), "{line}: {}", rpcs.durations());
        }

        let watch = || rpcs.begin(WATCH).expect("etcd's");
        drop(watch().answered(Response::new(Body::from("an event"))));
        assert!(handled(&rpcs, "Canceled", "Watch"), "{}", rpcs.text());
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().expect("a name"), "14".parse().expect("14"))]);
        let body = Body::new(Body::from("an event").with_trailers(async { Some(Ok(trailers)) }));
        let response = watch().answered(Response::new(body));
        assert!(!handled(&rpcs, "Unavailable", "Watch"), "not yet");
        response.into_body().collect().await.expect("read");
        assert!(handled(&rpcs, "Unavailable", "Watch"), "{}", rpcs.text());
    }
}
