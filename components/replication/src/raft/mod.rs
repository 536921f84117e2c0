//! The seam to openraft: its names stop here.

mod alone;
mod codec;
mod machine;
mod network;
mod read_index;
mod service;
mod snapshots;
mod storage;
mod types;

pub use alone::forget_others;
pub use codec::number;
pub use machine::{Checkpoint, Forwarded, Machine, Restorer, SnapshotRule, StateMachine};
pub use network::{Networks, address_of};
pub use read_index::{ReadIndex, ReadRounds};
pub use service::{Answerer, GroupService, Heard, Led, RaftOf, ServiceParts};
pub use snapshots::{Snapshots, snapshots};
pub use storage::Storage;
pub use types::{
    LogId, NodeId, Payload, Position, StoredMembers, Types, applied_index, decode_members, founding_position,
    has_one_voter,
};
