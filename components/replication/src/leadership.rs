//! Who leads, and whether that can be believed.

use crate::raft::{Heard, NodeId, StateMachine, StoredMembers, Types, address_of, has_one_voter};
use crate::transport::Peer;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{AsyncRuntime, Instant as _, RaftMetrics};
use std::time::Duration;
use tokio::sync::watch;

pub type TypesOf<S, A> = Types<Option<<S as StateMachine>::Response>, A>;
pub type MetricsOf<S, A> = WatchReceiverOf<TypesOf<S, A>, RaftMetrics<TypesOf<S, A>>>;
type ServerMetricsOf<S, A> = WatchReceiverOf<TypesOf<S, A>, RaftServerMetrics<TypesOf<S, A>>>;

/// Who leads, as far as this member knows.
pub struct Leadership<S: StateMachine, A: AsyncRuntime> {
    /// This member.
    pub node: NodeId,
    /// What Raft says of its leader.
    pub server: ServerMetricsOf<S, A>,
    /// What Raft says of everything.
    pub metrics: MetricsOf<S, A>,
    /// When this member last heard of a leader.
    pub heard: Heard<A>,
    /// The members, as of the last change applied.
    pub members: watch::Receiver<StoredMembers>,
    /// How long a leader may take to answer before it counts as gone.
    pub patience: Duration,
}

impl<S: StateMachine, A: AsyncRuntime> Clone for Leadership<S, A> {
    fn clone(&self) -> Self {
        Self {
            node: self.node,
            server: self.server.clone(),
            metrics: self.metrics.clone(),
            heard: self.heard.clone(),
            members: self.members.clone(),
            patience: self.patience,
        }
    }
}

impl<S: StateMachine, A: AsyncRuntime> Leadership<S, A> {
    /// The leader, and where it listens.
    pub fn leader(&self) -> Option<Peer> {
        let server = self.server.borrow_watched();
        let node = server.current_leader?;
        let address = server.membership_config.membership().get_node(&node).map(address_of)?.to_owned();
        Some(Peer { node, address })
    }

    /// Waits until somebody leads; false when the group has ended.
    pub async fn led(&mut self) -> bool {
        while self.leader().is_none() {
            if self.server.changed().await.is_err() {
                return false;
            }
        }
        true
    }

    /// Whether this member follows a leader that it has heard of lately, or leads a quorum that it
    /// has heard of lately. Raft itself forgets a leader only when another stands for election.
    pub fn in_touch(&self) -> bool {
        let limit = 2 * self.patience;
        match self.leader() {
            None => false,
            Some(leader) if leader.node != self.node => self.heard.within(limit),
            Some(_) => {
                let alone = has_one_voter(self.members.borrow().membership());
                let acked = self.metrics.borrow_watched().last_quorum_acked;
                alone || acked.is_none_or(|acked| acked.elapsed() < limit)
            }
        }
    }
}
