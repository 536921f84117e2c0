//! Raft groups on one shared log.
//!
//! [`Replicated`] runs a deterministic [`StateMachine`] as a Raft group (openraft underneath):
//! commands are opaque bytes, committed in one order, applied in batches, and acknowledged only
//! after the [`log`] has put them on disk. The log is append-only, segmented and checksummed;
//! one fdatasync covers every append that is waiting, of every group. It is purged only up to
//! what the state machine has made durable.
//!
//! A group has one voter or several. Members of several talk over one TCP connection a pair of
//! processes ([`Host`]), through a [`Channel`] that may encrypt it; appends are pipelined, snapshots go as files, elections begin with a
//! Pre-Vote. Any member takes commands and linearizable reads: a follower hands commands to its
//! leader and asks it up to where a read must see (ReadIndex; no clock is trusted).
//!
//! Members come and go: a new one is a learner until it is promoted, a change of voters goes
//! through a joint membership, a leader that is removed hands over first, and who was removed finds
//! out by asking, stops and says so. Ids are never given twice: that is up to who gives them.
//!
//! What it refuses to know: what a command means, which protocol brought it, what time it
//! is, and by which certificates peers know one another.
//!
//! ```
//! # use bytes::Bytes; use replication::{Checkpoint, GroupOptions, Replicated, Restorer, StateMachine, log::LogOptions}; use std::{io, path::Path};
//! struct Counter { total: u64, position: Option<Bytes> }
//! impl StateMachine for Counter {
//!     type Response = u64;
//!     fn position(&self) -> io::Result<Option<Bytes>> { Ok(self.position.clone()) }
//!     fn apply(&mut self, commands: Vec<Bytes>, position: Bytes) -> io::Result<Vec<u64>> {
//!         self.position = Some(position);
//!         Ok(commands.iter().map(|command| { self.total += command.len() as u64; self.total }).collect())
//!     }
//!     fn checkpointer(&self) -> Checkpoint {
//!         Box::new(|_| Err(io::ErrorKind::Unsupported.into()))
//!     }
//!     fn restorer(&self) -> Restorer {
//!         Box::new(|_| Err(io::ErrorKind::Unsupported.into()))
//!     }
//! }
//! # let dir = tempfile::tempdir()?; let dir = dir.path().to_owned();
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let group = Replicated::start(GroupOptions::new(1, dir), LogOptions::default(),
//!     Counter { total: 0, position: None }).await?;
//! assert_eq!(group.propose(Bytes::from_static(b"four")).await?, 4);
//! group.read_barrier().await?;
//! # group.shutdown().await; Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod channel;
mod host;
mod leadership;
pub mod log;
mod members;
mod options;
mod proposals;
mod raft;
mod reads;
mod replicated;
mod tcp;
mod thread;
mod traffic;
pub mod transport;

pub use channel::{Channel, Clear, Connection, Opening};
pub use host::{Host, Peers};
pub use members::{Change, Members, Progress};
pub use openraft::AsyncRuntime;
pub use options::{GroupOptions, GroupStatus, Member, ProposeError, StartError};
pub use raft::{
    Answerer, Checkpoint, NodeId, Restorer, StateMachine, applied_index, founding_position, snapshots,
};
pub use replicated::{Parts, Replicated};
pub use tcp::{Introduction, greet, introduce};
pub use traffic::{Link, ROUND_TRIP_BOUNDS, RoundTrips, Traffic};
