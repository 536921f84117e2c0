//! The Lease service.

use super::caller::Credentials;
use super::inbox::Inbox;
use super::{Door, oversize};
use crate::mvcc::{Answer, Command};
use crate::node::{Granted, LeaseLeft, NodeError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::lease_server::Lease;

/// Answers that wait for a slow client.
const QUEUE: usize = 16;

#[async_trait]
impl Lease for Door {
    type LeaseKeepAliveStream = ReceiverStream<Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_known(&by))?;
        let request = request.into_inner();
        let Granted { id, ttl, revision } = self.node.grant(&by, request.id, request.ttl).await?;
        let header = Some(self.header(revision));
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_known(&by))?;
        // The revision of the revocation itself, not of what came after it: it is that of the deletions.
        match self.node.propose(&by, &Command::LeaseRevoke(request.into_inner().id)).await? {
            Answer::Done { revision } => {
                Ok(Response::new(pb::LeaseRevokeResponse { header: Some(self.header(revision)) }))
            }
            _ => Err(super::kv::mismatch()),
        }
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (metadata, extensions, requests) = request.into_parts();
        let credentials = Credentials::of(&metadata, &extensions);
        tokio::spawn(keep_alive(self.clone(), credentials, Inbox::of(requests), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_known(&by))?;
        let request = request.into_inner();
        let left = self.node.lease_left(request.id).await?;
        if request.keys {
            self.node.permit_leased(&by, &[request.id], |auth, key| auth.check_read(&by, key))?;
        }
        let LeaseLeft { ttl, granted, keys } =
            left.unwrap_or(LeaseLeft { ttl: -1, granted: 0, keys: Vec::new() });
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: self.header_now(),
            id: request.id,
            ttl,
            granted_ttl: granted,
            keys: if request.keys { keys } else { Vec::new() },
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let by = self.caller(&request).await?;
        let leases = self.node.leases().await?;
        self.node.permit_leased(&by, &leases, |auth, key| auth.check_read(&by, key))?;
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.header_now(), leases }))
    }
}

async fn keep_alive(
    door: Door,
    credentials: Credentials,
    mut requests: Inbox<pb::LeaseKeepAliveRequest>,
    sender: mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
) {
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            () = sender.closed() => return,
            () = door.shutdown.cancelled() => {
                // A full queue means a client that does not listen anyway.
                let _ = sender.try_send(Err(Status::unavailable("etcdserver: server stopped")));
                return;
            }
        };
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(status) => {
                if let Some(status) = oversize::refusal(&status) {
                    let _ = sender.try_send(Err(status));
                }
                return;
            }
        };
        // The header comes first: its revision must not be later than the renewal.
        let header = door.header_now();
        let response = match renew(&door, &credentials, request.id).await {
            Ok(ttl) => Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl: ttl.unwrap_or(0) }),
            Err(error) => Err(Status::from(error)),
        };
        let failed = response.is_err();
        if sender.send(response).await.is_err() || failed {
            return;
        }
    }
}

async fn renew(door: &Door, credentials: &Credentials, id: i64) -> Result<Option<i64>, NodeError> {
    let by = credentials.caller(&door.node).await?;
    door.node.permit_leased(&by, &[id], |auth, key| auth.check_write(&by, key))?;
    door.node.renew(id).await
}
