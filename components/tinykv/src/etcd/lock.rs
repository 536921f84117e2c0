//! The Lock service: whoever wrote first under a name holds it, the others wait in the order of their keys' creation.

use super::Door;
use super::queue::{Place, Queue};
use crate::mvcc::{Answer, Command, Delete, Span};
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::v3lockpb as pb;
use wire::etcd::v3lockpb::lock_server::Lock;

#[async_trait]
impl Lock for Door {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        let queue = Queue::new(self.node.clone(), by, &request.name, request.lease).await?;
        let (place, _) = queue.join("".into()).await?;
        let Place { key, .. } = self.patiently(queue.wait(place)).await?;
        // The lease may have ended while others held the lock, and the key with it.
        let answer = queue.read(Span::Key(key.clone())).await?;
        if answer.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        Ok(Response::new(pb::LockResponse { header: Some(self.header(answer.revision)), key }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let by = self.caller(&request).await?;
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(Status::invalid_argument("etcdserver: key is not provided"));
        }
        let delete = Command::Delete(Delete { span: Span::Key(key), prev_kv: false });
        match self.node.propose(&by, &delete).await? {
            Answer::Delete { revision, .. } => {
                Ok(Response::new(pb::UnlockResponse { header: Some(self.header(revision)) }))
            }
            _ => Err(super::kv::mismatch()),
        }
    }
}
