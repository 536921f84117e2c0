//! Linearizable reads, batched: the reads that wait share one ReadIndex round.

use crate::leadership::Leadership;
use crate::options::ProposeError;
use crate::raft::{Led, Networks, ReadIndex, StateMachine, number};
use crate::transport::{Kind, Request};
use openraft::AsyncRuntime;
use tokio::sync::{mpsc, oneshot, watch};

type Waiter = oneshot::Sender<Result<(), ProposeError>>;

/// Lets reads pass once they are safe.
#[derive(Clone)]
pub struct ReadGate {
    queue: mpsc::UnboundedSender<Waiter>,
}

/// What the rounds need.
pub struct Rounds<S: StateMachine, A: AsyncRuntime> {
    pub read_index: ReadIndex,
    pub leadership: Leadership<S, A>,
    pub networks: Networks,
    /// One past the last index applied here.
    pub applied: watch::Receiver<u64>,
}

impl ReadGate {
    /// Starts the rounds, in the context of the runtime `A`; they end with the gate.
    pub fn start<S: StateMachine, A: AsyncRuntime>(rounds: Rounds<S, A>) -> Self {
        let (queue, waiters) = mpsc::unbounded_channel();
        drop(A::spawn(rounds.run(waiters)));
        Self { queue }
    }

    pub async fn pass(&self) -> Result<(), ProposeError> {
        let stopped = || ProposeError::Stopped("it is shutting down".to_owned());
        let (sender, receiver) = oneshot::channel();
        self.queue.send(sender).map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }
}

impl<S: StateMachine, A: AsyncRuntime> Rounds<S, A> {
    async fn run(mut self, mut waiters: mpsc::UnboundedReceiver<Waiter>) {
        let mut round = Vec::new();
        // A round confirms only what was asked before it began: those who come meanwhile wait
        // for the next one.
        while waiters.recv_many(&mut round, usize::MAX).await > 0 {
            let outcome = self.confirm().await;
            for waiter in round.drain(..) {
                // A reader that went away needs no answer.
                let _ = waiter.send(outcome.clone());
            }
        }
    }

    /// Waits until this member has applied what the leader had committed when it was asked.
    async fn confirm(&mut self) -> Result<(), ProposeError> {
        let led = match self.leadership.leader() {
            Some(leader) if leader.node == self.networks.node => self.read_index.ask().await,
            Some(leader) => {
                let request =
                    Request { group: self.networks.group, kind: Kind::ReadIndex, body: Vec::new().into() };
                let limit = self.leadership.patience;
                match A::timeout(limit, self.networks.transport.call(&leader, request)).await {
                    Ok(Ok(answer)) => {
                        Led::decode(answer).unwrap_or_else(|error| Led::Unknown(error.to_string()))
                    }
                    Ok(Err(_)) | Err(_) => Led::NotLeader(None),
                }
            }
            None => Led::NotLeader(None),
        };
        match led {
            Led::Done(mut index) => {
                let index = number(&mut index).map_err(|error| ProposeError::Unknown(error.to_string()))?;
                let limit = self.leadership.patience;
                match A::timeout(limit, self.applied.wait_for(|applied| *applied > index)).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(_)) => Err(ProposeError::Stopped("it is shutting down".to_owned())),
                    Err(_) => Err(ProposeError::NotLeader { leader: None }),
                }
            }
            Led::NotLeader(leader) => Err(ProposeError::NotLeader { leader }),
            Led::Unknown(reason) => Err(ProposeError::Unknown(reason)),
        }
    }
}
