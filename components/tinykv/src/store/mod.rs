//! Where the engine's state is kept: RocksDB, without its WAL.
//!
//! Durability is the Raft log's. Every batch carries the position that it brings the state to,
//! and all column families flush atomically, so after a crash the database holds some earlier
//! state whole, and the log replays the rest.
//!
//! | family | key | value |
//! |---|---|---|
//! | `kv` | escaped key ‖ ¬revision | the version |
//! | `ev` | revision ‖ number within it | the key that changed |
//! | `lease` | lease id | seconds |
//! | `meta` | a name | revision, last compaction, Raft position, alarms, users and roles, the release to go back to |

mod db;
mod layout;
mod machine;
mod manifest;
mod new;
mod place;
mod still;
mod values;

pub use db::{Db, Loaded, StoreError};
pub use machine::{Applied, KvMachine, Shared, SharedParts, by_revision};
pub use new::NewState;
pub use place::{log_elsewhere, state_dir};
pub use still::Still;
