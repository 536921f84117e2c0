//! A reply's body on its way through: untouched, watched for silence, its tokens counted when it is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::engine::Running;
use super::engines::ModelRoute;
use super::forward::Call;
use super::keys::Admission;
use super::metrics::ModelMetrics;
use super::traffic::{Ending, InFlight, TargetStats};
use super::usage::Meter;

/// Why a reply broke off.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The engine's connection failed.
    #[error("the engine's reply broke off: {0}")]
    Engine(#[from] hyper::Error),
    /// Nothing came for too long.
    #[error("the engine was silent for {} s", .0.as_secs())]
    Silent(Duration),
}

/// The body. Dropping it before its end (the client went away) closes the engine's connection, which cancels the work there.
#[derive(Debug)]
pub struct MeteredBody {
    inner: Incoming,
    account: Account,
    idle: Duration,
    alarm: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// What is let go, and told, when a reply is over.
#[derive(Debug)]
pub struct Held {
    admission: Option<Admission>,
    stats: Option<Arc<TargetStats>>,
    running: Running,
    _in_flight: Option<InFlight>,
}

impl Held {
    /// The caller's place, the engine's, where the end is noted, of a model that is shared among versions, and its request.
    pub fn new(
        admission: Option<Admission>,
        running: Running,
        stats: Option<Arc<TargetStats>>,
        in_flight: Option<InFlight>,
    ) -> Self {
        Self { admission, stats, running, _in_flight: in_flight }
    }
}

#[derive(Debug)]
struct Account {
    meter: Meter,
    stream: bool,
    request_bytes: usize,
    status: StatusCode,
    started: Instant,
    first_byte: Option<Duration>,
    complete: bool,
    /// The engine broke off, or was silent for too long.
    broken: bool,
    metrics: Arc<ModelMetrics>,
    held: Held,
}

impl MeteredBody {
    /// Wraps an engine's reply; `held` is let go when it is over, `idle` is the longest silence.
    pub fn new(
        inner: Incoming,
        call: &Call<'_>,
        status: StatusCode,
        started: Instant,
        route: &ModelRoute,
        idle: Duration,
        held: Held,
    ) -> Self {
        let metrics = route.metrics.clone();
        metrics.running.inc();
        let complete = inner.is_end_stream();
        let account = Account {
            meter: Meter::default(),
            stream: call.stream,
            request_bytes: call.body.len(),
            status,
            started,
            first_byte: None,
            complete,
            broken: false,
            metrics,
            held,
        };
        Self { inner, account, idle, alarm: None }
    }
}

impl Body for MeteredBody {
    type Data = Bytes;
    type Error = ReplyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let idle = this.idle;
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
            ready!(alarm.as_mut().poll(cx));
            this.account.broken = true;
            this.account.held.running.silent(idle);
            return Poll::Ready(Some(Err(ReplyError::Silent(idle))));
        };
        this.alarm = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                this.account.held.running.heard();
                if let Some(data) = frame.data_ref() {
                    this.account.see(data);
                }
                this.account.complete = this.inner.is_end_stream();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.account.broken = true;
                Some(Err(error.into()))
            }
            None => {
                this.account.complete = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Account {
    fn see(&mut self, data: &[u8]) {
        if self.first_byte.is_none() {
            let took = self.started.elapsed();
            self.first_byte = Some(took);
            self.metrics.first_byte.observe(took.as_secs_f64());
        }
        self.meter.see(data, self.stream);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        metrics.running.dec();
        metrics.duration.observe(self.started.elapsed().as_secs_f64());
        let outcome = match self.status.as_u16() {
            500.. => &metrics.server_error,
            400.. => &metrics.client_error,
            _ if !self.complete => &metrics.aborted,
            _ => &metrics.succeeded,
        };
        outcome.inc();
        if self.status.is_success() {
            let usage = self.meter.usage(self.request_bytes);
            metrics.read.inc_by(usage.prompt);
            metrics.written.inc_by(usage.completion);
            if let Some(admission) = &mut self.held.admission {
                admission.settle(usage);
            }
        }
        self.judge();
    }
}

impl Account {
    /// Tells the target how it did. What clients break off says nothing of it.
    fn judge(&self) {
        let Some(stats) = &self.held.stats else { return };
        let ending = match self.status {
            status if status.is_server_error() || self.broken => Ending::Failed,
            status if status.is_client_error() => Ending::Refused,
            _ if self.complete => Ending::Answered,
            _ => return,
        };
        let took = self.first_byte.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        stats.judge(ending, took);
    }
}
