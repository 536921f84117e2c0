//! TinyKV: a key-value store with one order of revisions that speaks etcd's v3 API.
//!
//! The [`mvcc`] engine decides, [`store`] keeps its state in RocksDB, `replication` puts every
//! command through Raft and on disk first, [`watch`] tells what changed, and the doors ([`etcd`],
//! [`platform`]) turn wire types into the engine's own and back.
//!
//! What it refuses to know: what keys mean. What this version does not do, and refuses with a
//! sentence: revocation lists of certificates.
//!
//! ```
//! use tinykv::mvcc::{Command, Keyspace, Origin, Put, Query, Span, Values};
//! # struct NoDisk; impl Values for NoDisk {
//! #   fn value(&self, _: &[u8], _: i64) -> std::io::Result<bytes::Bytes> { Err(std::io::ErrorKind::NotFound.into()) } }
//! let mut keyspace = Keyspace::new(1 << 20, 2);
//! let put = Put { key: "k".into(), value: "v".into(), ..Put::default() };
//! keyspace.apply(&Origin::Anyone, &Command::Put(put), &NoDisk, &mut Vec::new())?.expect("nothing refuses it");
//! assert_eq!(keyspace.revision(), 2);
//! let answer = keyspace.query(&Query::of(Span::Key("k".into())), &NoDisk)?.expect("not compacted");
//! assert_eq!(&answer.kvs[0].value[..], b"v");
//! # Ok::<(), std::io::Error>(())
//! ```

mod access;
pub mod backup;
mod bbolt;
pub mod bench;
pub mod check;
pub mod client;
pub mod compactor;
pub mod discovery;
pub mod drill;
pub mod etcd;
pub mod flags;
pub mod gateway;
pub mod history;
pub mod identity;
pub mod lessor;
pub mod members;
pub mod membership;
pub mod metrics;
pub mod mvcc;
pub mod node;
pub mod platform;
pub mod restore;
pub mod serve;
pub mod shelf;
mod storage;
pub mod store;
pub mod tls;
pub mod tokens;
pub mod watch;
