//! What is on disk, from the bottom up: bytes, checked files, the log, mapped files.

pub mod codec;
pub mod durable;
pub mod map;
pub mod wal;
