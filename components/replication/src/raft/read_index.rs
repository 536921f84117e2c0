//! Up to where a linearizable read must see: ReadIndex, as in §6.4 of Ongaro's dissertation on Raft.
//!
//! openraft's own rounds are not used. They take the time at which an append was *sent* from a queue in which an append
//! without entries, sent later, counts as acknowledged by the answer to an earlier one that ends at the same entry (alpha
//! 37, `InflightAppendQueue::drain_acked`). A leader that was cut off, and hears on its return what its followers said
//! before they followed another, takes that for a quorum of now and lets reads of the past through. Here a round asks the
//! members itself, and only answers to what it asked count.

use super::codec;
use super::network::Networks;
use super::service::{Led, RaftOf};
use super::types::{Members, NodeId, Vote};
use super::{StateMachine, address_of};
use crate::transport::{Kind, Peer, Request};
use bytes::{BufMut as _, Bytes};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::AsyncRuntime;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Asks the members of a group whether they still follow this one.
#[derive(Clone)]
pub struct ReadIndex {
    queue: mpsc::UnboundedSender<oneshot::Sender<Led>>,
}

/// What the rounds need.
pub struct ReadRounds<S: StateMachine, A: AsyncRuntime> {
    pub raft: RaftOf<S, A>,
    pub networks: Networks,
    /// How long a round may wait for members.
    pub patience: Duration,
}

impl ReadIndex {
    /// Starts the rounds, in the context of the runtime `A`; they end with the last handle.
    pub fn start<S: StateMachine, A: AsyncRuntime>(rounds: ReadRounds<S, A>) -> Self {
        let (queue, waiters) = mpsc::unbounded_channel();
        drop(A::spawn(rounds.run(waiters)));
        Self { queue }
    }

    /// The index of the last entry that a read which begins now must see. Only a leader that a quorum still follows knows it.
    pub async fn ask(&self) -> Led {
        let stopped = || Led::Unknown("it is shutting down".to_owned());
        let (sender, receiver) = oneshot::channel();
        if self.queue.send(sender).is_err() {
            return stopped();
        }
        receiver.await.unwrap_or_else(|_| stopped())
    }
}

/// A leader as it saw itself at one moment.
struct Moment {
    vote: Vote,
    committed: u64,
    members: Members,
}

impl<S: StateMachine, A: AsyncRuntime> ReadRounds<S, A> {
    async fn run(self, mut waiters: mpsc::UnboundedReceiver<oneshot::Sender<Led>>) {
        let mut round = Vec::new();
        // Those who come during a round wait for the next: it has to begin after they asked.
        while waiters.recv_many(&mut round, usize::MAX).await > 0 {
            let late = |_| Led::NotLeader(None);
            let led = A::timeout(self.patience, self.confirm()).await.unwrap_or_else(late);
            if !matches!(led, Led::Done(_)) {
                // Who is not there refuses at once, and would be asked as often as there are readers.
                A::sleep(self.patience / 20).await;
            }
            for waiter in round.drain(..) {
                // Whoever asked may have gone.
                let _ = waiter.send(led.clone());
            }
        }
    }

    async fn confirm(&self) -> Led {
        let moment = match self.moment().await {
            Ok(Some(moment)) => moment,
            Ok(None) => return Led::NotLeader(None),
            Err(stopped) => return Led::Unknown(stopped),
        };
        // Nobody can have been elected before that moment by a quorum, if a quorum follows this member after it.
        if !self.is_followed(&moment).await {
            return Led::NotLeader(None);
        }
        let mut out = Vec::with_capacity(8);
        out.put_u64_le(moment.committed);
        Led::Done(out.into())
    }

    /// None unless this member leads, and has committed an entry of its own term: before that it does not know what is.
    async fn moment(&self) -> Result<Option<Moment>, String> {
        let node = self.networks.node;
        let look = self.raft.with_raft_state(move |state| {
            let vote = *state.vote_ref();
            let committed = *state.cluster_committed()?;
            let leads = state.server_state.is_leader()
                && vote.is_committed()
                && vote.leader_id().node_id == node
                && committed.committed_leader_id() == vote.leader_id();
            let members = state.membership_state.effective().membership().clone();
            leads.then(|| Moment { vote, committed: committed.index(), members })
        });
        look.await.map_err(|fatal| fatal.to_string())
    }

    async fn is_followed(&self, moment: &Moment) -> bool {
        let mut followers = BTreeSet::from([self.networks.node]);
        if is_quorum(&followers, &moment.members) {
            return true;
        }
        let voters: BTreeSet<NodeId> = moment.members.voter_ids().collect();
        let body: Bytes = codec::append::<Option<S::Response>, A>(AppendEntriesRequest {
            vote: moment.vote,
            // Before the first entry nothing conflicts: what is asked for is the vote.
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        })
        .into();
        let mut asked: FuturesUnordered<_> = voters
            .into_iter()
            .filter(|voter| *voter != self.networks.node)
            .filter_map(|voter| {
                let address = address_of(moment.members.get_node(&voter)?).to_owned();
                let request = Request { group: self.networks.group, kind: Kind::Append, body: body.clone() };
                let answer = self.networks.transport.call(&Peer { node: voter, address }, request);
                Some(async move { (voter, answer.await) })
            })
            .collect();
        while let Some((voter, answer)) = asked.next().await {
            let answer = answer.and_then(codec::read_appended::<Option<S::Response>, A>);
            match answer {
                Ok(AppendEntriesResponse::HigherVote(_)) => return false,
                Ok(_) => {
                    followers.insert(voter);
                }
                // It counts for nobody.
                Err(_) => {}
            }
            if is_quorum(&followers, &moment.members) {
                return true;
            }
        }
        false
    }
}

/// Whether these are most of the voters, of each of the two sets while members change.
fn is_quorum(nodes: &BTreeSet<NodeId>, members: &Members) -> bool {
    members
        .get_joint_config()
        .iter()
        .all(|voters| voters.iter().filter(|voter| nodes.contains(voter)).count() * 2 > voters.len())
}
