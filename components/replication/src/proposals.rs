//! Commands and questions, from any member to whoever leads.

use crate::leadership::Leadership;
use crate::options::ProposeError;
use crate::raft::{Forwarded, Led, Payload, StateMachine};
use crate::replicated::Replicated;
use crate::transport::{Kind, Peer, Request};
use bytes::{BufMut as _, Bytes, BytesMut};
use openraft::AsyncRuntime;
use openraft::errors::{ClientWriteError, RaftError};
use std::io;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

impl<S: StateMachine, A: AsyncRuntime> Replicated<S, A> {
    /// Replicates a command; answers what it answered when it was applied here. A follower hands
    /// the command to its leader. Waits while nobody leads: the caller sets a limit.
    pub async fn propose(&self, command: Bytes) -> Result<S::Response, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let outcome = match leadership.leader() {
                Some(leader) if leader.node == self.node => self.write(command.clone()).await,
                Some(leader) => self.forward(&leader, command.clone()).await,
                None => Err(ProposeError::NotLeader { leader: None }),
            };
            match outcome {
                Err(ProposeError::NotLeader { .. }) => self.pause(&mut leadership).await?,
                other => return other,
            }
        }
    }

    /// Replicates a command that only this member's own time as the leader justifies: where it does not lead (any more), the
    /// command is refused and nobody else gets it.
    pub async fn propose_as_leader(&self, command: Bytes) -> Result<S::Response, ProposeError> {
        self.write(command).await
    }

    /// Waits until there may be a leader to ask.
    pub(crate) async fn pause(&self, leadership: &mut Leadership<S, A>) -> Result<(), ProposeError> {
        if leadership.leader().is_some() {
            // Whom this member takes for the leader says that it is not.
            A::sleep(self.heartbeat / 4).await;
        }
        if leadership.led().await { Ok(()) } else { Err(ProposeError::Stopped(self.stop_reason())) }
    }

    async fn write(&self, command: Bytes) -> Result<S::Response, ProposeError> {
        match self.raft.client_write(Payload { command, origin: None }).await {
            Ok(written) => written
                .data
                .ok_or_else(|| ProposeError::Stopped("the command was applied without an answer".to_owned())),
            // Refused before it was appended: no leader, or one that a quorum does not follow (yet).
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id })
            }
            // It is in somebody's log; whether it stays is another leader's to say.
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(ProposeError::Unknown("the leader changed".to_owned()))
            }
            Err(RaftError::APIError(error)) => Err(ProposeError::Stopped(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(self.reason(&fatal))),
        }
    }

    async fn forward(&self, leader: &Peer, command: Bytes) -> Result<S::Response, ProposeError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting::new(&self.forwarded, request);
        let mut body = BytesMut::with_capacity(16 + command.len());
        body.put_u64_le(self.node);
        body.put_u64_le(request);
        body.put_slice(&command);
        match self.ask_peer(leader, Kind::Propose, body.freeze()).await? {
            Led::Done(_) => waiting.answer().await,
            Led::NotLeader(leader) => Err(ProposeError::NotLeader { leader }),
            Led::Unknown(reason) => Err(ProposeError::Unknown(reason)),
        }
    }

    async fn ask_peer(&self, peer: &Peer, kind: Kind, body: Bytes) -> Result<Led, ProposeError> {
        let answer = self.parts.transport.call(peer, Request { group: self.group, kind, body }).await;
        match answer.and_then(Led::decode) {
            // It is gone, and this member has yet to find out.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(Led::NotLeader(None)),
            other => {
                other.map_err(|error| ProposeError::Unknown(format!("the leader did not answer: {error}")))
            }
        }
    }

    /// Has the leader's application answer a question; this member's, if it leads. Waits while
    /// nobody leads: the caller sets a limit.
    pub async fn ask_leader(&self, question: Bytes) -> Result<Bytes, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let answer = match leadership.leader() {
                Some(leader) if leader.node == self.node => {
                    let answerer = self.answerer.read().clone();
                    match answerer {
                        Some(answerer) => return Ok(answerer(question).await),
                        None => Led::NotLeader(None),
                    }
                }
                Some(leader) => self.ask_peer(&leader, Kind::Ask, question.clone()).await?,
                None => Led::NotLeader(None),
            };
            match answer {
                Led::Done(bytes) => return Ok(bytes),
                Led::NotLeader(_) => self.pause(&mut leadership).await?,
                Led::Unknown(reason) => return Err(ProposeError::Unknown(reason)),
            }
        }
    }
}

/// A place among those who wait for a forwarded command; given up when it is dropped.
struct Waiting<'a, R> {
    all: &'a Forwarded<R>,
    request: u64,
    receiver: oneshot::Receiver<R>,
}

impl<'a, R> Waiting<'a, R> {
    fn new(all: &'a Forwarded<R>, request: u64) -> Self {
        let (sender, receiver) = oneshot::channel();
        all.lock().insert(request, sender);
        Self { all, request, receiver }
    }

    async fn answer(mut self) -> Result<R, ProposeError> {
        (&mut self.receiver)
            .await
            .map_err(|_| ProposeError::Unknown("it was applied with a snapshot".to_owned()))
    }
}

impl<R> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.request);
    }
}
