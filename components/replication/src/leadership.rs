//! Who leads.

use crate::raft::{StateMachine, Types, address_of};
use crate::transport::Peer;
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use std::time::Duration;

type TypesOf<S, A> = Types<Option<<S as StateMachine>::Response>, A>;
type ServerMetricsOf<S, A> = WatchReceiverOf<TypesOf<S, A>, RaftServerMetrics<TypesOf<S, A>>>;

/// Who leads, as far as this member knows.
pub struct Leadership<S: StateMachine, A: AsyncRuntime> {
    /// What Raft says of its leader.
    pub server: ServerMetricsOf<S, A>,
    /// How long a leader may take to answer before it counts as gone.
    pub patience: Duration,
}

impl<S: StateMachine, A: AsyncRuntime> Clone for Leadership<S, A> {
    fn clone(&self) -> Self {
        Self { server: self.server.clone(), patience: self.patience }
    }
}

impl<S: StateMachine, A: AsyncRuntime> Leadership<S, A> {
    /// The leader, and where it listens.
    pub fn leader(&self) -> Option<Peer> {
        let server = self.server.borrow_watched();
        let node = server.current_leader?;
        let address = server.membership_config.membership().get_node(&node).map(address_of)?;
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
}
