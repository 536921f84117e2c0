//! Watching: recent changes in memory, older ones from the store, one order of revisions.

mod hub;
mod interest;
mod session;

pub use hub::{Hub, Listener, Revisioned};
pub use interest::Bell;
pub use session::{Created, Delivery, Filter, Session, SessionError, WatchSpec};
