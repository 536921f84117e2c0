//! Watching: recent changes in memory, older ones from the store, one order of revisions.

mod hub;
mod session;

pub use hub::{Hub, Revisioned};
pub use session::{Created, Delivery, Filter, Session, SessionError, WatchSpec};
