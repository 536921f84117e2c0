//! The project's own door: `platform.v1.KVService`.

use crate::etcd::{Credentials, absent_revision};
use crate::mvcc::{Answer, Command, Delete, KeyValue, Origin, Put, Query, Span};
use crate::node::Node;
use crate::watch::{Filter, Session, WatchSpec};
use aistack_chassis::Shutdown;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use wire::platform::v1 as pb;
use wire::platform::v1::kv_service_server::{KvService, KvServiceServer};
use wire::platform::v1::watch_event::Kind;

/// Events that wait for a slow client.
const QUEUE: usize = 256;

/// The service's implementation.
#[derive(Clone)]
pub struct PlatformDoor {
    node: Arc<Node>,
    shutdown: Shutdown,
}

impl PlatformDoor {
    /// A door to `node`; its streams end with `shutdown`.
    pub fn new(node: Arc<Node>, shutdown: Shutdown) -> Self {
        Self { node, shutdown }
    }

    /// On whose behalf a request is made; tokens are etcd's.
    async fn caller<T>(&self, request: &Request<T>) -> Result<Origin, Status> {
        Ok(Credentials::of(request.metadata(), request.extensions()).caller(&self.node).await?)
    }

    /// The gRPC service.
    pub fn service(&self) -> axum::Router {
        tonic::service::Routes::new(KvServiceServer::new(self.clone())).into_axum_router()
    }
}

fn named(key: Bytes) -> Result<Bytes, Status> {
    if key.is_empty() { Err(Status::invalid_argument("key is empty; name one")) } else { Ok(key) }
}

fn message(kv: KeyValue) -> pb::KeyValue {
    pb::KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}

fn mismatch() -> Status {
    Status::internal("the engine gave an answer of another kind")
}

#[async_trait]
impl KvService for PlatformDoor {
    type WatchStream = ReceiverStream<Result<pb::WatchEvent, Status>>;

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        let query = Query { revision: request.revision, ..Query::of(Span::Key(named(request.key)?)) };
        let answer = self.node.query(&by, &query, false).await?;
        let kv = answer.kvs.into_iter().next().map(message);
        Ok(Response::new(pb::GetResponse { kv, revision: answer.revision }))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_known(&by))?;
        let request = request.into_inner();
        let key = named(request.key)?;
        let lease = match request.ttl_seconds {
            0 => 0,
            ttl if ttl < 0 => {
                return Err(Status::invalid_argument("ttl_seconds is negative; 0 keeps the key"));
            }
            ttl => self.node.grant(&by, 0, ttl).await?.id,
        };
        let put = Put { key, value: request.value, lease, ..Put::default() };
        match self.node.propose_growth(&by, &Command::Put(put)).await? {
            Answer::Put { revision, .. } => Ok(Response::new(pb::PutResponse { revision })),
            _ => Err(mismatch()),
        }
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let by = self.caller(&request).await?;
        let delete = Delete { span: Span::Key(named(request.into_inner().key)?), prev_kv: false };
        match self.node.propose(&by, &Command::Delete(delete)).await? {
            Answer::Delete { revision, deleted, .. } => {
                Ok(Response::new(pb::DeleteResponse { deleted: deleted > 0, revision }))
            }
            _ => Err(mismatch()),
        }
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        if request.start_revision < 0 {
            return Err(Status::invalid_argument(
                "start_revision is negative; 0 starts after the present one",
            ));
        }
        let key = request.key;
        let span = match (request.prefix, key.is_empty()) {
            (false, true) => return Err(Status::invalid_argument("key is empty; name one, or set prefix")),
            (false, false) => Span::Key(key),
            (true, _) => prefix(key),
        };
        self.node.permit(|auth| auth.check_read(&by, &span))?;
        let mut session = Session::new(Arc::clone(&self.node.shared));
        let spec = WatchSpec {
            id: 0,
            span,
            start: request.start_revision,
            prev_kv: false,
            progress: false,
            fragment: false,
            filter: Filter::default(),
        };
        session.create(spec).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(follow(self.clone(), session, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Every key that starts with `prefix`.
fn prefix(prefix: Bytes) -> Span {
    let kept = prefix.iter().rposition(|byte| *byte != 0xFF).map_or(0, |at| at + 1);
    if kept == 0 {
        return Span::From(prefix);
    }
    let mut end = prefix[..kept].to_vec();
    end[kept - 1] += 1;
    Span::Between(prefix, end.into())
}

async fn follow(
    door: PlatformDoor,
    mut session: Session,
    sender: mpsc::Sender<Result<pb::WatchEvent, Status>>,
) {
    let bell = session.bell();
    loop {
        let (deliveries, more) = match session.advance() {
            Ok(advanced) => advanced,
            Err(error) => {
                // Whether or not the client still hears it, the stream ends.
                let _ = sender.send(Err(Status::data_loss(error.to_string()))).await;
                return;
            }
        };
        for delivery in deliveries {
            if let Some(compacted) = delivery.compacted {
                let _ = sender.send(Err(absent_revision(compacted))).await;
                return;
            }
            for change in delivery.events {
                let kind = if change.is_deletion { Kind::Delete } else { Kind::Put };
                let event = pb::WatchEvent { kind: kind.into(), kv: Some(message(change.kv)) };
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        }
        if more {
            continue;
        }
        tokio::select! {
            () = bell.rung() => {}
            () = sender.closed() => return,
            () = door.shutdown.cancelled() => {
                let _ = sender.try_send(Err(Status::unavailable("the server is stopping")));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_means_what_starts_with_it() {
        let table: [(&[u8], &[u8], bool); 6] = [
            (b"a", b"a", true),
            (b"a", b"ab", true),
            (b"a", b"b", false),
            (b"a\xFF", b"a\xFFz", true),
            (b"a\xFF", b"b", false),
            (b"\xFF", b"\xFF\xFF", true),
        ];
        for (start, key, meant) in table {
            assert_eq!(prefix(Bytes::from_static(start)).contains(key), meant, "{start:?} {key:?}");
        }
        assert!(prefix(Bytes::new()).contains(b"anything"));
    }
}
