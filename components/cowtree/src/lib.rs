#![doc = include_str!("../README.md")]

mod bulk;
mod codec;
mod diff;
mod edit;
mod hash;
mod memory;
mod node;
mod order;
mod range;
pub mod store;
mod tree;

pub use bulk::{Unsorted, from_sorted};
pub use codec::Codec;
pub use diff::{Change, Diff};
pub use hash::ContentHash;
pub use memory::{Memory, memory};
pub use range::Range;
pub use tree::Tree;
