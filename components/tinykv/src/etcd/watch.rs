//! The Watch service: one task a stream turns requests and the store's progress into responses.

use super::caller::Credentials;
use super::inbox::Inbox;
use super::{Door, kv::smallest_key, oversize, request, response};
use crate::node::{Node, NodeError};
use crate::watch::{Delivery, Filter, Session, WatchSpec};
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::watch_create_request::FilterType;
use wire::etcd::etcdserverpb::watch_request::RequestUnion;
use wire::etcd::etcdserverpb::watch_server::Watch;

/// Responses that wait for a slow client before its stream waits, too.
const QUEUE: usize = 16;
/// The id of no watcher, and of all of them.
const NO_WATCHER: i64 = -1;

/// The client has gone.
struct Gone;

#[async_trait]
impl Watch for Door {
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (metadata, extensions, requests) = request.into_parts();
        let stream = Stream::new(self.clone(), Credentials::of(&metadata, &extensions), sender);
        tokio::spawn(stream.run(Inbox::of(requests)));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Stream {
    door: Door,
    credentials: Credentials,
    session: Session,
    sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    _counted: Counted,
}

/// Keeps the number of streams right however a stream ends.
struct Counted(Arc<Node>);

impl Counted {
    fn new(node: Arc<Node>) -> Self {
        node.shared.figures.watch_streams.fetch_add(1, Ordering::Relaxed);
        Self(node)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shared.figures.watch_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream {
    fn new(
        door: Door,
        credentials: Credentials,
        sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    ) -> Self {
        let session = Session::new(Arc::clone(&door.node.shared));
        let counted = Counted::new(Arc::clone(&door.node));
        Self { door, credentials, session, sender, _counted: counted }
    }

    async fn run(mut self, mut requests: Inbox<pb::WatchRequest>) {
        let node = Arc::clone(&self.door.node);
        let bell = self.session.bell();
        let interval = Duration::from_millis(node.config.watch_progress_interval_ms);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        let shutdown = self.door.shutdown.clone();
        // A client may say that it asks for nothing more, and go on listening.
        let mut asks = true;
        loop {
            let before = self.session.len();
            let outcome = tokio::select! {
                request = requests.next(), if asks => match request {
                    Ok(Some(request)) => self.request(request).await,
                    Ok(None) => {
                        asks = false;
                        Ok(())
                    }
                    // Its connection broke, unless it sent too much at once.
                    Err(status) => {
                        if let Some(status) = oversize::refusal(&status) {
                            let _ = self.sender.try_send(Err(status));
                        }
                        Err(Gone)
                    }
                },
                () = bell.rung() => self.advance().await,
                _ = ticks.tick() => self.idle_progress().await,
                () = self.sender.closed() => Err(Gone),
                () = shutdown.cancelled() => {
                    // A full queue means a client that does not listen anyway.
                    let _ = self.sender.try_send(Err(Status::unavailable("etcdserver: server stopped")));
                    Err(Gone)
                }
            };
            let now = if outcome.is_ok() { self.session.len() } else { 0 };
            let watchers = &node.shared.figures.watchers;
            watchers.fetch_add(now as u64, Ordering::Relaxed);
            watchers.fetch_sub(before as u64, Ordering::Relaxed);
            if outcome.is_err() {
                return;
            }
        }
    }

    async fn request(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => {
                if self.session.cancel(request.watch_id) {
                    let revision = self.door.node.shared.hub.revision();
                    let response =
                        pb::WatchResponse { canceled: true, ..self.response(request.watch_id, revision) };
                    self.send(response).await?;
                }
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.advance().await?;
                match self.session.progress() {
                    Some(delivery) => self.deliver(delivery).await,
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), Gone> {
        let revision = self.door.node.shared.hub.revision();
        let refused = |stream: &Self, reason: &str| pb::WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..stream.response(NO_WATCHER, revision)
        };
        let spec = spec_of(request);
        if let Err(error) = self.permit(&spec).await {
            let status = Status::from(error);
            // As etcd's servers write it: their clients match the end of it.
            let reason = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
            let response = refused(self, &reason);
            return self.send(response).await;
        }
        if spec.start < 0 {
            let response = refused(self, "etcdserver: mvcc: required revision has been compacted");
            return self.send(response).await;
        }
        // Events up to here go out first: a response never tells of an earlier revision than
        // one before it.
        self.advance().await?;
        let response = match self.session.create(spec) {
            Ok(created) => pb::WatchResponse { created: true, ..self.response(created.id, created.revision) },
            Err(error) => refused(self, &error.to_string()),
        };
        self.send(response).await?;
        self.advance().await
    }

    async fn permit(&self, spec: &WatchSpec) -> Result<(), NodeError> {
        let by = self.credentials.caller(&self.door.node).await?;
        self.door.node.permit(|auth| auth.check_read(&by, &spec.span))
    }

    async fn advance(&mut self) -> Result<(), Gone> {
        loop {
            let (deliveries, more) = match self.session.advance() {
                Ok(advanced) => advanced,
                Err(error) => {
                    tracing::error!(%error, "events cannot be read");
                    // Whether or not the client still hears it, the stream ends.
                    let _ = self.sender.send(Err(Status::data_loss("etcdserver: corrupt cluster"))).await;
                    return Err(Gone);
                }
            };
            for delivery in deliveries {
                self.deliver(delivery).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn idle_progress(&mut self) -> Result<(), Gone> {
        self.advance().await?;
        for delivery in self.session.idle_progress() {
            self.deliver(delivery).await?;
        }
        Ok(())
    }

    fn response(&self, watch_id: i64, revision: i64) -> pb::WatchResponse {
        pb::WatchResponse {
            header: Some(self.door.header(revision)),
            watch_id,
            ..pb::WatchResponse::default()
        }
    }

    async fn deliver(&mut self, delivery: Delivery) -> Result<(), Gone> {
        let response = pb::WatchResponse {
            canceled: delivery.compacted.is_some(),
            compact_revision: delivery.compacted.unwrap_or(0),
            events: delivery.events.into_iter().map(response::event).collect(),
            ..self.response(delivery.id, delivery.revision)
        };
        let limit = self.door.node.config.request_limits.max_request_bytes;
        if !delivery.fragment || response.events.len() < 2 || response.encoded_len() < limit {
            return self.send(response).await;
        }
        let mut fragments = fragments(response, limit).into_iter().peekable();
        while let Some(mut fragment) = fragments.next() {
            fragment.fragment = fragments.peek().is_some();
            self.send(fragment).await?;
        }
        Ok(())
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.sender.send(Ok(response)).await.map_err(|_| Gone)
    }
}

fn spec_of(request: pb::WatchCreateRequest) -> WatchSpec {
    let key = if request.key.is_empty() { smallest_key() } else { request.key };
    let mut filter = Filter::default();
    for kind in request.filters {
        match FilterType::try_from(kind) {
            Ok(FilterType::Noput) => filter.no_put = true,
            Ok(FilterType::Nodelete) => filter.no_delete = true,
            // etcd ignores filters that it does not know.
            Err(_) => {}
        }
    }
    WatchSpec {
        id: request.watch_id,
        span: request::span(key, request.range_end),
        start: request.start_revision,
        prev_kv: request.prev_kv,
        progress: request.progress_notify,
        fragment: request.fragment,
        filter,
    }
}

/// Splits a response so that each part stays below `limit` bytes, one event at least.
fn fragments(mut response: pb::WatchResponse, limit: usize) -> Vec<pb::WatchResponse> {
    let events = std::mem::take(&mut response.events);
    let empty = response.encoded_len();
    let mut fragments: Vec<pb::WatchResponse> = Vec::new();
    let mut size = usize::MAX;
    for event in events {
        let bytes = event.encoded_len() + 8;
        if size.saturating_add(bytes) >= limit {
            fragments.push(response.clone());
            size = empty;
        }
        size += bytes;
        if let Some(last) = fragments.last_mut() {
            last.events.push(event);
        }
    }
    fragments
}
