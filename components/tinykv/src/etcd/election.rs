//! The Election service: a line whose first one leads, and says what it stands for.

use super::queue::Queue;
use super::{Door, response};
use crate::mvcc::{Change, KeyValue, Span};
use crate::node::NodeError;
use crate::watch::{Filter, Session, WatchSpec};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::v3electionpb as pb;
use wire::etcd::v3electionpb::election_server::Election;

/// Announcements that wait for a slow client.
const QUEUE: usize = 16;

fn leader_key(leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

#[async_trait]
impl Election for Door {
    type ObserveStream = ReceiverStream<Result<pb::LeaderResponse, Status>>;

    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        let queue = Queue::new(self.node.clone(), by, &request.name, request.lease).await?;
        let (place, there) = queue.join(request.value.clone()).await?;
        if there.is_some_and(|there| there != request.value) {
            let (stands, _) = queue.announce(&place.key, place.created, request.value).await?;
            if !stands {
                return Err(not_leader());
            }
        }
        let place = self.patiently(queue.wait(place)).await?;
        let leader =
            pb::LeaderKey { name: request.name, key: place.key, rev: place.created, lease: queue.lease() };
        let header = Some(self.header(place.revision));
        Ok(Response::new(pb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        let leader = leader_key(request.leader)?;
        let queue = Queue::new(self.node.clone(), by, &leader.name, leader.lease).await?;
        let (stands, revision) = queue.announce(&leader.key, leader.rev, request.value).await?;
        if !stands {
            return Err(not_leader());
        }
        Ok(Response::new(pb::ProclaimResponse { header: Some(self.header(revision)) }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let by = self.caller(&request).await?;
        let queue = Queue::seen(self.node.clone(), by, &request.into_inner().name);
        let answer = queue.first().await?;
        let header = Some(self.header(answer.revision));
        match answer.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(pb::LeaderResponse { header, kv: Some(response::key_value(kv)) })),
            None => Err(Status::unknown("election: no leader")),
        }
    }

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let by = self.caller(&request).await?;
        let queue = Queue::seen(self.node.clone(), by, &request.into_inner().name);
        // Whoever may not read is told at once.
        queue.first().await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let observer = Observer { door: self.clone(), queue, sender };
        tokio::spawn(async move {
            if let Err(Ended::Failed(error)) = observer.follow().await {
                // Whether or not the client still hears it, the stream ends.
                let _ = observer.sender.try_send(Err(error.into()));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let by = self.caller(&request).await?;
        let leader = leader_key(request.into_inner().leader)?;
        let queue = Queue::seen(self.node.clone(), by, &leader.name);
        let revision = queue.leave(&leader.key, leader.rev).await?;
        Ok(Response::new(pb::ResignResponse { header: Some(self.header(revision)) }))
    }
}

/// Tells one client who leads.
struct Observer {
    door: Door,
    queue: Queue,
    sender: mpsc::Sender<Result<pb::LeaderResponse, Status>>,
}

enum Ended {
    Gone,
    Failed(NodeError),
}

impl From<NodeError> for Ended {
    fn from(error: NodeError) -> Self {
        Self::Failed(error)
    }
}

impl Observer {
    async fn follow(&self) -> Result<(), Ended> {
        loop {
            let first = self.queue.first().await?;
            let (mut revision, kv) = if let Some(kv) = first.kvs.into_iter().next() {
                (first.revision, kv)
            } else {
                let put = |change: &Change| !change.is_deletion;
                let change = self.changes(self.queue.span(), first.revision + 1, put).await?;
                (change.kv.mod_revision, change.kv)
            };
            let key = kv.key.clone();
            self.tell(revision, kv).await?;
            loop {
                let change = self.changes(Span::Key(key.clone()), revision + 1, |_| true).await?;
                if change.is_deletion {
                    break;
                }
                revision = change.kv.mod_revision;
                self.tell(revision, change.kv).await?;
            }
        }
    }

    async fn tell(&self, revision: i64, kv: KeyValue) -> Result<(), Ended> {
        let header = Some(self.door.header(revision));
        let response = pb::LeaderResponse { header, kv: Some(response::key_value(kv)) };
        self.sender.send(Ok(response)).await.map_err(|_| Ended::Gone)
    }

    /// The first change from revision `start` on that is `wanted`.
    async fn changes(
        &self,
        span: Span,
        start: i64,
        wanted: impl Fn(&Change) -> bool,
    ) -> Result<Change, Ended> {
        let shared = &self.door.node.shared;
        let mut session = Session::new(Arc::clone(shared));
        let bell = session.bell();
        let spec = WatchSpec {
            id: 0,
            span,
            start,
            prev_kv: false,
            progress: false,
            fragment: false,
            filter: Filter::default(),
        };
        session.create(spec).map_err(|_| Ended::Gone)?;
        loop {
            let (deliveries, more) =
                session.advance().map_err(|error| Ended::Failed(NodeError::from(error)))?;
            for delivery in deliveries {
                if delivery.compacted.is_some() {
                    return Err(Ended::Failed(crate::mvcc::Refusal::Compacted.into()));
                }
                if let Some(change) = delivery.events.into_iter().find(&wanted) {
                    return Ok(change);
                }
            }
            if more {
                continue;
            }
            tokio::select! {
                () = bell.rung() => {}
                () = self.sender.closed() => return Err(Ended::Gone),
                () = self.door.shutdown.cancelled() => return Err(Ended::Gone),
            }
        }
    }
}
