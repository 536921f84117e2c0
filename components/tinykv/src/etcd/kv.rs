//! The KV service.

use super::{Door, request, response};
use crate::mvcc::{Answer, Command, KeyValue, Pager, Refusal};
use crate::node::NodeError;
use crate::store::Db;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use std::collections::VecDeque;
use std::io;
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::kv_server::Kv;

/// Keys in the first piece of a streamed range; pieces double from there.
const FIRST_PIECE: usize = 10;

/// The engine answered a command with an answer to another kind of command.
pub fn mismatch() -> Status {
    Status::internal("etcdserver: the engine gave an answer of another kind")
}

#[async_trait]
impl Kv for Door {
    type RangeStreamStream = stream::BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let credentials = self.credentials(&request);
        let request = request.into_inner();
        let serializable = request.serializable;
        let query = request::query(request)?;
        let by = self.reader(&credentials, serializable).await?;
        let answer = self.node.query(&by, &query, serializable).await?;
        let header = self.header(answer.revision);
        Ok(Response::new(response::range(answer, Some(header))))
    }

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let credentials = self.credentials(&request);
        let request = request.into_inner();
        let serializable = request.serializable;
        // As in etcd: a target without an order passes.
        let has_order = request.sort_order != i32::from(pb::range_request::SortOrder::None);
        let query = request::query(request)?;
        if has_order && query.sort.is_some() {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
        if query.has_bounds() {
            return Err(Status::unimplemented("RangeStream does not support revision filters"));
        }
        let by = self.reader(&credentials, serializable).await?;
        let (pager, db) = self.node.page(&by, &query, serializable).await?;
        let header = self.header(pager.revision());
        let limit = self.node.config.request_limits.max_request_bytes;
        let pieces =
            Pieces { pager, db, header, limit, room: FIRST_PIECE, read: VecDeque::new(), ended: false };
        // A piece is read when the client has room for it.
        Ok(Response::new(stream::iter(pieces).boxed()))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let credentials = self.credentials(&request);
        let command = Command::Put(request::put(request.into_inner())?);
        let by = self.by(&credentials).await?;
        let Answer::Put { revision, prev } = self.node.propose_growth(&by, &command).await? else {
            return Err(mismatch());
        };
        let prev_kv = prev.map(response::key_value);
        Ok(Response::new(pb::PutResponse { header: Some(self.header(revision)), prev_kv }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let credentials = self.credentials(&request);
        let command = Command::Delete(request::delete(request.into_inner())?);
        let by = self.by(&credentials).await?;
        let Answer::Delete { revision, deleted, prev } = self.node.propose(&by, &command).await? else {
            return Err(mismatch());
        };
        let prev_kvs = prev.into_iter().map(response::key_value).collect();
        Ok(Response::new(pb::DeleteRangeResponse { header: Some(self.header(revision)), deleted, prev_kvs }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let credentials = self.credentials(&request);
        let request = request.into_inner();
        let serializable = reads_only_locally(&request);
        let txn = request::txn(request, self.node.config.request_limits.max_txn_ops)?;
        let answer = if txn.is_read_only() {
            let by = self.reader(&credentials, serializable).await?;
            self.node.read_txn(&by, &txn, serializable).await?
        } else {
            let by = self.by(&credentials).await?;
            match self.node.propose_growth(&by, &Command::Txn(txn)).await? {
                Answer::Txn(answer) => answer,
                _ => return Err(mismatch()),
            }
        };
        let header = self.header(answer.revision);
        Ok(Response::new(response::txn(answer, Some(header))))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.admin(&request).await?;
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        let revision = self.node.compact(&by, request.revision, request.physical).await?;
        Ok(Response::new(pb::CompactionResponse { header: Some(self.header(revision)) }))
    }
}

/// Whether every step is a read that asked for no more than the local state.
fn reads_only_locally(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(
        |op| matches!(&op.request, Some(pb::request_op::Request::RequestRange(range)) if range.serializable),
    )
}

/// A range in pieces. Header, count and more stand in the last one.
struct Pieces {
    pager: Pager,
    db: Db,
    header: pb::ResponseHeader,
    /// Bytes of a piece.
    limit: usize,
    /// Keys of the next piece, at most.
    room: usize,
    /// What was read and did not fit.
    read: VecDeque<KeyValue>,
    ended: bool,
}

impl Pieces {
    fn piece(&mut self) -> io::Result<pb::RangeResponse> {
        let (mut piece, mut bytes) = (pb::RangeResponse::default(), 0);
        loop {
            if self.read.is_empty() {
                let wanted = self.room.saturating_sub(piece.kvs.len()).max(1);
                self.read = self.pager.read(wanted, &self.db)?.into();
            }
            let Some(next) = self.read.front() else { break };
            let size = next.key.len() + next.value.len() + 32;
            if !piece.kvs.is_empty() && (piece.kvs.len() >= self.room || bytes + size > self.limit) {
                self.room = if bytes * 2 <= self.limit { self.room * 2 } else { (self.room / 2).max(1) };
                return Ok(piece);
            }
            bytes += size;
            piece.kvs.extend(self.read.pop_front().map(response::key_value));
        }
        self.ended = true;
        let (count, more) = (self.pager.count(), self.pager.more());
        Ok(pb::RangeResponse { header: Some(self.header), count, more, ..piece })
    }
}

impl Iterator for Pieces {
    type Item = Result<pb::RangeStreamResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        Some(match self.piece() {
            Ok(piece) => Ok(pb::RangeStreamResponse { range_response: Some(piece) }),
            Err(error) => {
                self.ended = true;
                // What is gone from disk under a reader was compacted.
                let gone = error.kind() == io::ErrorKind::NotFound;
                Err(if gone { NodeError::from(Refusal::Compacted) } else { error.into() }.into())
            }
        })
    }
}

/// The smallest key, which an empty one stands for where etcd allows it.
pub fn smallest_key() -> Bytes {
    Bytes::from_static(&[0])
}
