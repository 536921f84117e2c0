//! Leases of a running member: granted and ended through Raft, renewed and read by the clocks of the term's leader.

use super::{Node, NodeError};
use crate::identity;
use crate::lessor::Renewal;
use crate::members::{Question, Reply};
use crate::mvcc::{self, Answer, Command, Origin, Refusal};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often leases are looked through, at most, for those that have run out.
const LEASE_TICK: Duration = Duration::from_millis(200);
/// How often at least: shorter than the shortest lease, which may be granted at any time.
const LEASE_REST: Duration = Duration::from_secs(1);
/// Leases ended in one look.
const LEASE_ENDINGS: usize = 500;
/// The longest lease, in seconds.
const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Its id.
    pub id: i64,
    /// Seconds.
    pub ttl: i64,
    /// Revision of the store at the grant.
    pub revision: i64,
}

/// What is left of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseLeft {
    /// Seconds left.
    pub ttl: i64,
    /// Seconds granted.
    pub granted: i64,
    /// The keys that live by it.
    pub keys: Vec<bytes::Bytes>,
}

impl Node {
    /// Creates a lease; id 0 draws one.
    pub async fn grant(&self, by: &Origin, id: i64, ttl: i64) -> Result<Granted, NodeError> {
        if ttl > MAX_LEASE_TTL {
            return Err(NodeError::LeaseTtlTooLarge);
        }
        let id = if id == 0 { (identity::random_id() >> 1).max(1) as i64 } else { id };
        match self.propose_growth(by, &Command::LeaseGrant { id, ttl }).await? {
            Answer::Granted { id, ttl, revision } => Ok(Granted { id, ttl, revision }),
            _ => Err(NodeError::Stopped("a grant was answered by something else".to_owned())),
        }
    }

    /// Renews a lease; answers its seconds, or `None` when there is no such lease. The leader's
    /// clocks count.
    pub async fn renew(&self, id: i64) -> Result<Option<i64>, NodeError> {
        match self.ask(Question::Renew(id)).await? {
            Reply::Seconds(ttl) => Ok(Some(ttl)),
            Reply::Nothing => Ok(None),
            Reply::NotNow | Reply::Changed(_) => Err(NodeError::LeaderChanged),
        }
    }

    /// Starts the clocks of leases anew where this member has begun to lead since they last did: whoever led in between may
    /// have renewed what these have run out of. Whoever needs the clocks calls this first, since a client may be faster than
    /// [`begin_to_lead`]. Answers whether they count, that is, whether this member leads.
    fn keep_leases(&self) -> bool {
        let term = if self.leader() == Some(self.identity.member_id) { self.term() } else { 0 };
        if term != 0 && term != self.clocks_of.load(Ordering::Acquire) {
            self.shared.lessor.restart();
        }
        self.clocks_of.store(term, Ordering::Release);
        term != 0
    }

    /// Ends a lease that has run out by this member's clocks. Never through another leader, by whose clocks it may live.
    async fn end_lease(&self, id: i64) -> Result<(), NodeError> {
        let command = mvcc::encode(&Origin::Member, &Command::LeaseRevoke(id));
        match self.in_time(async { Ok(self.group.propose_as_leader(command).await?) }).await? {
            Ok(_) | Err(Refusal::LeaseNotFound) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Renews a lease here, on the leader.
    pub(crate) async fn renew_here(&self, id: i64) -> Reply {
        self.shared.figures.leases_renewed.inc();
        let mut endings = self.shared.lessor.endings();
        loop {
            if !self.keep_leases() {
                return Reply::NotNow;
            }
            match self.shared.lessor.renew(id) {
                Renewal::Renewed(ttl) => return Reply::Seconds(ttl),
                Renewal::Unknown => return Reply::Nothing,
                // Its end is on the way; saying "gone" before it is gone would be a lie.
                Renewal::Ending => {
                    if endings.changed().await.is_err() {
                        return Reply::Nothing;
                    }
                }
            }
        }
    }

    /// What is left of a lease by this member's clocks; it leads.
    pub(crate) fn left_here(&self, id: i64) -> Reply {
        if !self.keep_leases() {
            return Reply::NotNow;
        }
        self.shared.lessor.remaining(id).map_or(Reply::Nothing, |left| Reply::Seconds(left.as_secs() as i64))
    }

    /// What is left of a lease; `None` when there is no such lease.
    pub async fn lease_left(&self, id: i64) -> Result<Option<LeaseLeft>, NodeError> {
        self.barrier().await?;
        let left = match self.ask(Question::Left(id)).await? {
            Reply::Seconds(left) => left,
            Reply::Nothing => return Ok(None),
            Reply::NotNow | Reply::Changed(_) => return Err(NodeError::LeaderChanged),
        };
        Ok(self.shared.with(|keyspace| {
            let lease = keyspace.lease(id)?;
            let keys = lease.keys.iter().cloned().collect();
            Some(LeaseLeft { ttl: left, granted: lease.ttl, keys })
        }))
    }

    /// All leases, the next one to run out first.
    pub async fn leases(&self) -> Result<Vec<i64>, NodeError> {
        self.barrier().await?;
        Ok(self.shared.lessor.by_deadline())
    }
}

/// Starts the clocks of leases anew whenever this member begins to lead.
pub(super) async fn begin_to_lead(node: Weak<Node>) {
    let mut known = None;
    loop {
        let Some(node) = node.upgrade() else {
            // It is being made, or is gone; then this task is ended from outside.
            tokio::time::sleep(LEASE_TICK / 10).await;
            continue;
        };
        node.keep_leases();
        let leader = node.leader();
        if known != leader {
            known = leader;
            if known.is_some() {
                node.shared.figures.leader_changes.inc();
            }
            tracing::info!(leader = format_args!("{:x}", leader.unwrap_or(0)), "leader");
        }
        if node.group.leader_changed(known).await.is_err() {
            return;
        }
    }
}

/// Proposes the end of leases that have run out, for as long as the member lives.
pub(super) async fn end_leases(node: Weak<Node>) {
    let mut pause = LEASE_TICK;
    loop {
        tokio::time::sleep(pause).await;
        let Some(node) = node.upgrade() else {
            continue;
        };
        pause = node.shared.lessor.next_end().unwrap_or(LEASE_REST).clamp(LEASE_TICK, LEASE_REST);
        // Leading again in a later term is no change of leaders that would wake the other task.
        if !node.keep_leases() {
            continue;
        }
        let expired = node.shared.lessor.expired(LEASE_ENDINGS);
        let endings = expired.into_iter().map(async |id| match node.end_lease(id).await {
            Ok(()) => {
                node.shared.figures.leases_expired.inc();
            }
            Err(error) => {
                tracing::warn!(id, %error, "a lease that has run out could not be ended yet");
            }
        });
        futures::future::join_all(endings).await;
    }
}
