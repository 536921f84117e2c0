//! Waiting in line under a name: what locks and elections are made of. A key a lease, in the order of their creation;
//! nothing is kept but the keys.

use crate::mvcc::{
    Answer, Command, Compare, Delete, KeyValue, Op, Origin, Put, Query, QueryAnswer, Relation, SortBy, Span,
    Target, Txn,
};
use crate::node::{Node, NodeError};
use bytes::Bytes;
use std::sync::Arc;

/// Seconds of a lease that the client leaves to us.
const LEASE_SECONDS: i64 = 60;

/// A caller in the line of one name.
#[derive(Clone)]
pub struct Queue {
    node: Arc<Node>,
    by: Origin,
    prefix: Bytes,
    lease: i64,
}

/// A place in the line.
#[derive(Debug, Clone)]
pub struct Place {
    /// The key that stands for it.
    pub key: Bytes,
    /// When it was taken.
    pub created: i64,
    /// The revision of the answer that said so.
    pub revision: i64,
}

/// Leaves the line when the one who waits is gone.
struct Leaving(Option<(Queue, Place)>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some((queue, place)) = self.0.take() {
            tokio::spawn(async move {
                if let Err(error) = queue.leave(&place.key, place.created).await {
                    tracing::debug!(%error, "a place in a line is left to its lease");
                }
            });
        }
    }
}

impl Queue {
    /// The line of `name`; lease 0 is granted here.
    pub async fn new(node: Arc<Node>, by: Origin, name: &[u8], lease: i64) -> Result<Self, NodeError> {
        let lease = match lease {
            0 => node.grant(&by, 0, LEASE_SECONDS).await?.id,
            lease => lease,
        };
        Ok(Self { node, by, prefix: [name, b"/"].concat().into(), lease })
    }

    /// A line that is only looked at.
    pub fn seen(node: Arc<Node>, by: Origin, name: &[u8]) -> Self {
        Self { node, by, prefix: [name, b"/"].concat().into(), lease: 0 }
    }

    /// The lease that the caller's place lives by.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Every key of the line.
    pub fn span(&self) -> Span {
        // The prefix ends in a slash.
        let mut end = self.prefix.to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Span::Between(self.prefix.clone(), end.into())
    }

    /// Takes the place of the caller's lease, with a value; answers it, and the value that was there when the place had
    /// been taken before.
    pub async fn join(&self, value: Bytes) -> Result<(Place, Option<Bytes>), NodeError> {
        let key = Bytes::from([&self.prefix[..], format!("{:x}", self.lease).as_bytes()].concat());
        let put = Put { key: key.clone(), value, lease: self.lease, ..Put::default() };
        let txn = Txn {
            compares: vec![created(&key, 0)],
            success: vec![Op::Put(put)],
            failure: vec![Op::Query(Query::of(Span::Key(key.clone())))],
        };
        let Answer::Txn(answer) = self.node.propose_growth(&self.by, &Command::Txn(txn)).await? else {
            return Err(mismatch());
        };
        let revision = answer.revision;
        if answer.succeeded {
            return Ok((Place { key, created: revision, revision }, None));
        }
        match answer.answers.into_iter().next() {
            Some(Answer::Query(QueryAnswer { kvs, .. })) if kvs.len() == 1 => {
                let KeyValue { create_revision, value, .. } = kvs.into_iter().next().unwrap_or_default();
                Ok((Place { key, created: create_revision, revision }, Some(value)))
            }
            _ => Err(mismatch()),
        }
    }

    /// Waits until nobody stands before `place`. Whoever stops waiting leaves the line.
    pub async fn wait(&self, place: Place) -> Result<Place, NodeError> {
        let mut leaving = Leaving(Some((self.clone(), place)));
        let created = leaving.0.as_ref().map_or(0, |(_, place)| place.created);
        loop {
            let before = Query {
                limit: 1,
                sort: Some((SortBy::Create, true)),
                create_bounds: (0, created - 1),
                ..Query::of(self.span())
            };
            let Some(last) = self.node.query(&self.by, &before, false).await?.kvs.into_iter().next() else {
                break;
            };
            // Its end changes its key; whatever else changes wakes nobody who waits here.
            let key = self.node.shared.hub.listen(Span::Key(last.key.clone()));
            let stands = || {
                self.node.shared.with(|keyspace| {
                    keyspace
                        .version_at(&last.key, i64::MAX)
                        .is_some_and(|version| version.create_revision == last.create_revision)
                })
            };
            while stands() {
                key.heard().await;
            }
        }
        match leaving.0.take() {
            Some((_, place)) => Ok(place),
            None => Err(mismatch()),
        }
    }

    /// Gives a place up, if it is still the one that was taken then; answers the revision.
    pub async fn leave(&self, key: &Bytes, at: i64) -> Result<i64, NodeError> {
        let delete = Op::Delete(Delete { span: Span::Key(key.clone()), prev_kv: false });
        self.if_created(key, at, delete).await.map(|(_, revision)| revision)
    }

    /// Another value for a place, if it is still the one that was taken then; whether it is, and the revision.
    pub async fn announce(&self, key: &Bytes, at: i64, value: Bytes) -> Result<(bool, i64), NodeError> {
        let put = Put { key: key.clone(), value, lease: self.lease, ..Put::default() };
        self.if_created(key, at, Op::Put(put)).await
    }

    async fn if_created(&self, key: &Bytes, at: i64, op: Op) -> Result<(bool, i64), NodeError> {
        let txn = Txn { compares: vec![created(key, at)], success: vec![op], failure: Vec::new() };
        match self.node.propose_growth(&self.by, &Command::Txn(txn)).await? {
            Answer::Txn(answer) => Ok((answer.succeeded, answer.revision)),
            _ => Err(mismatch()),
        }
    }

    /// Who stands first.
    pub async fn first(&self) -> Result<QueryAnswer, NodeError> {
        let query = Query { limit: 1, sort: Some((SortBy::Create, false)), ..Query::of(self.span()) };
        self.node.query(&self.by, &query, false).await
    }

    /// Reads keys as the caller.
    pub async fn read(&self, span: Span) -> Result<QueryAnswer, NodeError> {
        self.node.query(&self.by, &Query::of(span), false).await
    }
}

fn created(key: &Bytes, at: i64) -> Compare {
    Compare { span: Span::Key(key.clone()), target: Target::Create(at), relation: Relation::Equal }
}

fn mismatch() -> NodeError {
    NodeError::Stopped("a transaction was answered by something else".to_owned())
}
