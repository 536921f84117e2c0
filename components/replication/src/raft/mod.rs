//! The seam to openraft: its names stop here.

mod machine;
mod network;
mod snapshots;
mod storage;
mod types;

pub use machine::{Checkpoint, Machine, SnapshotRule, StateMachine};
pub use network::NoPeers;
pub use snapshots::Snapshots;
pub use storage::Storage;
pub use types::{NodeId, Payload, Position, Types};
