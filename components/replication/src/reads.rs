//! Linearizable reads, batched: the reads that wait share one ReadIndex round.

use crate::raft::{Machine, StateMachine, Types};
use crate::replicated::ProposeError;
use openraft::Raft;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

type Waiter = oneshot::Sender<Result<(), ProposeError>>;

/// Lets reads pass once they are safe.
pub struct ReadGate {
    queue: mpsc::UnboundedSender<Waiter>,
    task: JoinHandle<()>,
}

impl ReadGate {
    pub fn start<S: StateMachine>(
        raft: Raft<Types<Option<S::Response>>, Machine<S>>,
        runtime: &Handle,
    ) -> Self {
        let (queue, waiters) = mpsc::unbounded_channel();
        Self { queue, task: runtime.spawn(rounds(raft, waiters)) }
    }

    pub async fn pass(&self) -> Result<(), ProposeError> {
        let stopped = || ProposeError::Stopped("it is shutting down".to_owned());
        let (sender, receiver) = oneshot::channel();
        self.queue.send(sender).map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }

    pub fn stop(&self) {
        self.task.abort();
    }
}

async fn rounds<S: StateMachine>(
    raft: Raft<Types<Option<S::Response>>, Machine<S>>,
    mut waiters: mpsc::UnboundedReceiver<Waiter>,
) {
    let mut round = Vec::new();
    // A round confirms only what was asked before it began: those who come meanwhile wait for
    // the next one.
    while waiters.recv_many(&mut round, usize::MAX).await > 0 {
        let outcome = match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id })
            }
            Err(error) => Err(ProposeError::Stopped(error.to_string())),
        };
        for waiter in round.drain(..) {
            // A reader that went away needs no answer.
            let _ = waiter.send(outcome.clone());
        }
    }
}
