//! Members that come and go.
//!
//! A change is decided on what was committed before it, and refused by Raft if another came
//! between. New members begin as learners; a change of voters goes through a joint membership,
//! which whoever leads then flattens if its first half outlived the leader that began it.

use crate::leadership::Leadership;
use crate::options::{Member, ProposeError};
use crate::raft::{Led, LogId, Networks, NodeId, RaftOf, StateMachine, StoredMembers, address_of};
use crate::replicated::Replicated;
use crate::transport::{Kind, Peer, Request};
use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{AsyncRuntime, BasicNode, ChangeMembers, Instant as _, Membership as OfNodes, Precondition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

type Membership = OfNodes<NodeId, BasicNode>;

/// The members of a group.
pub type Members = BTreeMap<NodeId, Member>;

/// A change of a group's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new member, a learner; its id was never another's.
    Add(NodeId, Member),
    /// A learner gets a vote.
    Promote(NodeId),
    /// A member goes for good.
    Remove(NodeId),
    /// What is said of a member changes, and where it listens.
    Describe(NodeId, Member),
}

/// How far a member is, as its leader knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that it is known to have.
    pub matched: u64,
    /// How long ago it last answered.
    pub heard: Option<Duration>,
}

/// What the members are at a point of the log.
pub fn members_of(members: &Membership) -> Members {
    let voters: BTreeSet<NodeId> = members.voter_ids().collect();
    let member = |id: &NodeId, node: &BasicNode| {
        let label = node.addr.split_once('\n').map_or("", |(_, label)| label);
        let address = address_of(node).to_owned();
        Member { address, label: label.to_owned(), voter: voters.contains(id) }
    };
    members.nodes().map(|(id, node)| (*id, member(id, node))).collect()
}

fn node_of(member: &Member) -> BasicNode {
    BasicNode { addr: format!("{}\n{}", member.address, member.label) }
}

/// The change as Raft knows it.
fn change_of(change: Change, stored: &StoredMembers) -> ChangeMembers<NodeId, BasicNode> {
    match change {
        Change::Add(id, member) => ChangeMembers::AddNodes(BTreeMap::from([(id, node_of(&member))])),
        Change::Describe(id, member) => ChangeMembers::SetNodes(BTreeMap::from([(id, node_of(&member))])),
        Change::Promote(id) => ChangeMembers::AddVoterIds(BTreeSet::from([id])),
        Change::Remove(id) if stored.voter_ids().any(|voter| voter == id) => {
            ChangeMembers::RemoveVoters(BTreeSet::from([id]))
        }
        Change::Remove(id) => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
    }
}

fn has_vote(members: &StoredMembers, node: NodeId) -> bool {
    members.membership().get_joint_config().iter().any(|voters| voters.contains(&node))
}

/// The member that goes by a change.
fn leaver(change: &Change, stored: &StoredMembers) -> Option<Peer> {
    let Change::Remove(id) = change else { return None };
    let node = stored.membership().get_node(id)?;
    Some(Peer { node: *id, address: address_of(node).to_owned() })
}

impl<S: StateMachine, A: AsyncRuntime> Replicated<S, A> {
    /// The members, as of the last change applied here.
    pub fn members(&self) -> Members {
        members_of(self.leadership.members.borrow().membership())
    }

    /// Whether this member's own vote counts, as of the last change applied here.
    pub fn votes(&self) -> bool {
        has_vote(&self.leadership.members.borrow(), self.node)
    }

    /// Waits until this member's own vote counts; `false`: it is gone, and holds nothing up.
    pub fn until_voter(&self) -> impl Future<Output = bool> + Send + 'static + use<S, A> {
        let (mut members, node) = (self.leadership.members.clone(), self.node);
        async move { members.wait_for(|members| has_vote(members, node)).await.is_ok() }
    }

    /// Whether this member is in touch with a leader, or leads and is in touch with a quorum.
    pub fn has_leader(&self) -> bool {
        self.leadership.in_touch()
    }

    /// How far each member is; only the leader knows.
    pub fn progress(&self) -> BTreeMap<NodeId, Progress> {
        let metrics = self.leadership.metrics.borrow_watched().clone();
        let heard = metrics.heartbeat.unwrap_or_default();
        let progress = |(node, matched): (NodeId, Option<LogId>)| {
            let heard = heard.get(&node).copied().flatten().map(|instant| instant.elapsed());
            (node, Progress { matched: matched.map_or(0, |id| id.index()), heard })
        };
        metrics.replication.unwrap_or_default().into_iter().map(progress).collect()
    }

    /// Changes the members, which only the leader can: `decide` sees those that were committed
    /// last, and may refuse. A leader that is to go hands over first; then, as whenever another
    /// change came between, the answer is `NotLeader`, nothing was done, and whoever leads is to be
    /// asked. Goes on when the caller goes away.
    pub async fn change<E>(
        &self,
        decide: impl FnOnce(&Members) -> Result<Change, E>,
    ) -> Result<Result<(), E>, ProposeError> {
        let leader = self.leader();
        if leader != Some(self.node) {
            return Err(ProposeError::NotLeader { leader });
        }
        self.reads.pass().await?;
        let stored = self.leadership.members.borrow().clone();
        let change = match decide(&members_of(stored.membership())) {
            Ok(change) => change,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if change == Change::Remove(self.node) {
            self.hand_over().await?;
            return Err(ProposeError::NotLeader { leader: None });
        }
        if stored.membership().get_joint_config().len() > 1 {
            return Err(ProposeError::NotLeader { leader });
        }
        let goes = leaver(&change, &stored);
        let change = change_of(change, &stored);
        let last = Precondition::LastMembershipLogId { last_membership_log_id: *stored.log_id() };
        let raft = self.raft.clone();
        // A voter's change has two halves: the second must follow the first.
        let changed =
            A::spawn(async move { raft.change_membership_if(change, false, [last]).await.map(|_| ()) }).await;
        match changed {
            Ok(Ok(())) => {
                if let Some(peer) = goes {
                    self.bid_farewell(&peer).await;
                }
                Ok(Ok(()))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id })
            }
            Ok(Err(RaftError::APIError(
                ClientWriteError::PreconditionFailed(_) | ClientWriteError::ChangeMembershipError(_),
            ))) => Err(ProposeError::NotLeader { leader }),
            Ok(Err(RaftError::APIError(error))) => Err(ProposeError::Unknown(error.to_string())),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ProposeError::Stopped(self.reason(&fatal))),
            Err(error) => Err(ProposeError::Unknown(error.to_string())),
        }
    }

    /// Has a member that was removed hear of it, if it lives: it gets no more of the log.
    async fn bid_farewell(&self, peer: &Peer) {
        let request = Request { group: self.group, kind: Kind::Farewell, body: Bytes::new() };
        let told = A::timeout(self.leadership.patience, self.parts.transport.call(peer, request)).await;
        if !matches!(told, Ok(Ok(_))) {
            tracing::debug!(
                peer = format_args!("{:x}", peer.node),
                "a member that was removed does not answer"
            );
        }
    }

    /// Hands the leadership to the voter that is furthest.
    async fn hand_over(&self) -> Result<(), ProposeError> {
        let members = self.members();
        let others = self
            .progress()
            .into_iter()
            .filter(|(id, _)| *id != self.node && members.get(id).is_some_and(|member| member.voter));
        let Some((to, _)) = others.max_by_key(|(_, progress)| progress.matched) else { return Ok(()) };
        // It may be away, and somebody else be elected, or nobody.
        match A::timeout(3 * self.leadership.patience, self.transfer_leader(to)).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(()),
        }
    }

    /// Whether this member was removed from the group.
    pub fn removed(&self) -> bool {
        *self.removed.borrow()
    }
}

/// Looks after a member's standing: finishes a change that was left halfway if it leads, and asks
/// whether it still belongs to the group when it hears of no leader.
pub struct Caretaker<S: StateMachine, A: AsyncRuntime> {
    pub raft: RaftOf<S, A>,
    pub leadership: Leadership<S, A>,
    pub networks: Networks,
    /// Told when somebody says that this member is none any more.
    pub doubt: Arc<Notify>,
    pub removed: watch::Sender<bool>,
}

impl<S: StateMachine, A: AsyncRuntime> Caretaker<S, A> {
    /// Runs until `ended`, or until this member was removed.
    pub async fn run(self, mut ended: watch::Receiver<bool>) {
        while !*self.removed.borrow() {
            let doubted = tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return,
                () = self.doubt.notified() => true,
                () = A::sleep(self.leadership.patience) => false,
            };
            if !doubted && self.leadership.in_touch() {
                self.flatten().await;
            } else if self.is_removed().await {
                self.removed.send_replace(true);
            }
        }
    }

    async fn flatten(&self) {
        let stored = self.leadership.members.borrow().clone();
        if !self.raft.is_leader() || stored.membership().get_joint_config().len() < 2 {
            return;
        }
        let last = Precondition::LastMembershipLogId { last_membership_log_id: *stored.log_id() };
        let none = ChangeMembers::AddVoterIds(BTreeSet::new());
        // Whoever made the joint membership is at it, or somebody else leads: then it is theirs.
        let limit = 4 * self.leadership.patience;
        if let Ok(Err(error)) = A::timeout(limit, self.raft.change_membership_if(none, false, [last])).await {
            tracing::debug!(%error, "a joint membership stays for now");
        }
    }

    /// Whether a member that sees all that is committed says that this one is none.
    async fn is_removed(&self) -> bool {
        let stored = self.leadership.members.borrow().clone();
        let me = self.networks.node;
        // What is applied here may be older than this member.
        for (node, known) in stored.nodes().filter(|(node, _)| **node != me) {
            let peer = Peer { node: *node, address: address_of(known).to_owned() };
            let request = Request { group: self.networks.group, kind: Kind::Standing, body: Bytes::new() };
            let answer = A::timeout(self.leadership.patience, self.networks.transport.call(&peer, request));
            if let Ok(Ok(bytes)) = answer.await
                && let Ok(Led::Done(standing)) = Led::decode(bytes)
            {
                return standing.as_ref() == [0];
            }
        }
        false
    }
}
