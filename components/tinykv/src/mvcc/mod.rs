//! The engine: keys, their versions, leases and alarms under one order of revisions.
//!
//! It decides and never does: no disk, no clock, no network. [`Keyspace::apply`] maps the state
//! and a [`Command`] to an [`Outcome`] and a list of [`Change`]s; the store writes those. Values
//! that have left memory are asked for through [`Values`].

mod apply;
pub mod auth;
mod blob;
mod codec;
mod compact;
mod history;
mod index;
mod keyspace;
mod lease;
mod read;
mod release;
mod totals;
mod types;

pub use auth::{Auth, AuthCommand, AuthError, Caller, Origin};
pub use blob::Blob;
pub use codec::{CommandError, decode, encode};
pub use compact::Stale;
pub use history::Version;
pub use keyspace::{Change, Keyspace, Restored, Values};
pub use lease::Lease;
pub use read::{Pager, Selection, View};
pub use release::Release;
pub use types::{
    Alarm, Answer, Command, Compare, Delete, KeyValue, Op, Outcome, Put, Query, QueryAnswer, Refusal,
    Relation, SortBy, Span, Target, Txn, TxnAnswer,
};

#[cfg(test)]
mod tests;
