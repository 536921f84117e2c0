//! What the clients of each workload do.

use super::drive::Work;
use super::{BenchError, KeyArgs, LoadArgs};
use crate::client::{ClientError, Member, signed};
use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::kv_client::KvClient;
use wire::etcd::etcdserverpb::lease_client::LeaseClient;

/// Connections that clients share by default.
const CONNECTIONS: usize = 10;
/// Seconds of a lease that is kept alive.
const LEASE: i64 = 600;
/// Puts at a time while keys are written before.
const AT_A_TIME: usize = 64;

/// Connections to the members, and who asks.
#[derive(Clone)]
pub struct Crew {
    members: Arc<Vec<Member>>,
    token: Option<MetadataValue<Ascii>>,
}

impl Crew {
    /// Connects.
    pub async fn reach(load: &LoadArgs) -> Result<Self, ClientError> {
        let count = load.connections.map_or(load.clients.get().min(CONNECTIONS), NonZeroUsize::get);
        let members = load.cluster.reach_all(count.max(load.cluster.endpoints.len())).await?;
        let token = match members.first() {
            Some(member) => load.cluster.log_in(member).await?,
            None => None,
        };
        Ok(Self { members: Arc::new(members), token })
    }

    /// The connection of a client.
    pub fn channel(&self, client: usize) -> Channel {
        self.members[client % self.members.len()].channel.clone()
    }

    /// A request with the proof of who asks.
    pub fn signed<T>(&self, message: T) -> Request<T> {
        signed(message, self.token.as_ref())
    }

    fn refuses(&self, client: usize, what: &'static str) -> impl Fn(Status) -> ClientError + use<> {
        self.members[client % self.members.len()].refuses(what)
    }
}

/// Writes each of the keys once.
pub async fn fill(crew: &Crew, keys: &KeyArgs) -> Result<(), BenchError> {
    let value = keys.value();
    let mut puts = futures::stream::iter(0..keys.keys.get())
        .map(|number| {
            let put = pb::PutRequest { key: keys.key(number), value: value.clone(), ..Default::default() };
            let mut client = KvClient::new(crew.channel(number as usize));
            async move { client.put(crew.signed(put)).await }
        })
        .buffer_unordered(AT_A_TIME);
    while let Some(put) = puts.next().await {
        put.map_err(|status| BenchError::Keys { what: "writing the keys", status: Box::new(status) })?;
    }
    Ok(())
}

/// Puts of one key each.
pub struct Puts {
    crew: Crew,
    keys: KeyArgs,
    value: Bytes,
}

impl Puts {
    pub fn new(crew: Crew, keys: KeyArgs) -> Self {
        let value = keys.value();
        Self { crew, keys, value }
    }

    fn request(&self, number: u64) -> pb::PutRequest {
        pb::PutRequest { key: self.keys.drawn(number), value: self.value.clone(), ..Default::default() }
    }
}

impl Work for Puts {
    type Client = KvClient<Channel>;

    async fn client(&self, number: usize) -> Result<Self::Client, BenchError> {
        Ok(KvClient::new(self.crew.channel(number)))
    }

    async fn once(&self, client: &mut Self::Client, request: u64) -> Result<u64, Status> {
        client.put(self.crew.signed(self.request(request))).await?;
        Ok(1)
    }
}

/// Transactions of several puts.
pub struct Txns {
    pub puts: Puts,
    pub operations: u32,
}

impl Work for Txns {
    type Client = KvClient<Channel>;

    async fn client(&self, number: usize) -> Result<Self::Client, BenchError> {
        self.puts.client(number).await
    }

    async fn once(&self, client: &mut Self::Client, request: u64) -> Result<u64, Status> {
        let first = request.wrapping_mul(self.operations.into());
        let mut puts: Vec<_> =
            (0..u64::from(self.operations)).map(|nth| self.puts.request(first.wrapping_add(nth))).collect();
        // A transaction puts a key once.
        puts.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        puts.dedup_by(|a, b| a.key == b.key);
        let success = puts
            .into_iter()
            .map(|put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) })
            .collect();
        let txn = pb::TxnRequest { success, ..Default::default() };
        let answer = client.txn(self.puts.crew.signed(txn)).await?;
        Ok(answer.into_inner().responses.len() as u64)
    }
}

/// Reads of a key, or of some from a key on.
pub struct Ranges {
    crew: Crew,
    keys: KeyArgs,
    limit: i64,
    serializable: bool,
}

impl Ranges {
    pub fn new(crew: Crew, keys: KeyArgs, limit: i64, serializable: bool) -> Self {
        Self { crew, keys, limit, serializable }
    }
}

impl Work for Ranges {
    type Client = KvClient<Channel>;

    async fn client(&self, number: usize) -> Result<Self::Client, BenchError> {
        // A page may hold more than a client takes by default.
        Ok(KvClient::new(self.crew.channel(number)).max_decoding_message_size(usize::MAX))
    }

    async fn once(&self, client: &mut Self::Client, request: u64) -> Result<u64, Status> {
        let range_end = if self.limit > 1 { self.keys.end() } else { Bytes::new() };
        let range = pb::RangeRequest {
            key: self.keys.drawn(request),
            range_end,
            limit: self.limit,
            serializable: self.serializable,
            ..Default::default()
        };
        Ok(client.range(self.crew.signed(range)).await?.into_inner().kvs.len() as u64)
    }
}

/// Leases that are kept alive.
pub struct KeepAlives {
    crew: Crew,
    granted: Arc<Mutex<Vec<i64>>>,
}

/// The leases that were granted for a run.
#[derive(Clone)]
pub struct Granted(Arc<Mutex<Vec<i64>>>);

impl KeepAlives {
    /// Those of a run, and what it grants.
    pub fn new(crew: Crew) -> (Self, Granted) {
        let granted = Arc::<Mutex<Vec<i64>>>::default();
        (Self { crew, granted: Arc::clone(&granted) }, Granted(granted))
    }
}

impl Granted {
    /// Ends them all, whatever came of the run.
    pub async fn revoke(self, crew: &Crew) -> Result<(), BenchError> {
        let all = std::mem::take(&mut *self.0.lock());
        let mut ends = futures::stream::iter(all.into_iter().enumerate())
            .map(|(number, id)| {
                let mut client = LeaseClient::new(crew.channel(number));
                async move { client.lease_revoke(crew.signed(pb::LeaseRevokeRequest { id })).await }
            })
            .buffer_unordered(AT_A_TIME);
        while let Some(end) = ends.next().await {
            match end {
                Ok(_) => {}
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => {
                    let what = "revoking the leases";
                    return Err(BenchError::Keys { what, status: Box::new(status) });
                }
            }
        }
        Ok(())
    }
}

/// A lease, and the stream on which it is kept alive.
pub struct Lease {
    id: i64,
    asks: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    /// Answers that are due: more than one after a request that was given up.
    due: usize,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

impl Work for KeepAlives {
    type Client = Lease;

    async fn client(&self, number: usize) -> Result<Lease, BenchError> {
        let crew = &self.crew;
        let mut client = LeaseClient::new(crew.channel(number));
        let grant = pb::LeaseGrantRequest { ttl: LEASE, id: 0 };
        let granted = client.lease_grant(crew.signed(grant)).await;
        let id = granted.map_err(crew.refuses(number, "granting a lease"))?.into_inner().id;
        self.granted.lock().push(id);
        let (asks, asked) = mpsc::channel(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(asked);
        let answers = client.lease_keep_alive(crew.signed(stream)).await;
        let answers = answers.map_err(crew.refuses(number, "keeping a lease alive"))?.into_inner();
        Ok(Lease { id, asks, due: 0, answers })
    }

    async fn once(&self, client: &mut Lease, _request: u64) -> Result<u64, Status> {
        let ended = || Status::unavailable("the stream has ended");
        client.asks.send(pb::LeaseKeepAliveRequest { id: client.id }).await.map_err(|_| ended())?;
        client.due += 1;
        loop {
            let answer = client.answers.message().await?.ok_or_else(ended)?;
            client.due -= 1;
            if answer.ttl <= 0 {
                return Err(Status::not_found("the lease is gone"));
            }
            if client.due == 0 {
                return Ok(1);
            }
        }
    }
}
