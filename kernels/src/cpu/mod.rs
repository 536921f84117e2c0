//! Kernels for x86-64 (and, slowly, any other) processors.
//!
//! A [`Cpu`] is an instruction set, chosen once, and a [`pool::Pool`] of threads. Its methods are the operations of a transformer on
//! rows of activations. **Every result is the same to the last bit** whatever the number of threads, the other rows computed beside
//! it and the instruction set.
#![allow(
    clippy::inline_always,
    reason = "a kernel must become part of the function that enables its instruction set"
)]
#![allow(clippy::wildcard_imports, reason = "intrinsics, by the hundred")]
#![allow(
    clippy::cast_ptr_alignment,
    reason = "panels are read with unaligned loads, or are aligned by their layout"
)]
#![allow(clippy::needless_range_loop, reason = "indices are rows and columns of register tiles")]
#![allow(
    clippy::redundant_locals,
    reason = "makes a closure capture the Sync wrapper, not the pointer in it"
)]
#![allow(clippy::needless_pass_by_value, reason = "a bundle of mutable borrows is handed on")]

pub mod activations;
pub mod arena;
pub mod attention;
pub mod format;
pub mod isa;
pub mod kv;
pub mod lanes;
mod math;
pub mod matmul;
pub mod packed;
pub mod pool;
pub mod rows;

use isa::Isa;
use pool::Pool;

/// An instruction set and threads.
pub struct Cpu {
    isa: Isa,
    pool: Pool,
}

impl Cpu {
    /// The best instruction set of this machine and `threads` threads; 0 means one for each core that this process may use.
    pub fn new(threads: usize) -> Self {
        Self { isa: Isa::detect(), pool: Pool::new(Self::resolve(threads)) }
    }

    /// A given instruction set; `None` when this machine lacks it.
    pub fn with_isa(threads: usize, isa: Isa) -> Option<Self> {
        isa.available().then(|| Self { isa, pool: Pool::new(Self::resolve(threads)) })
    }

    fn resolve(threads: usize) -> usize {
        if threads > 0 { threads } else { std::thread::available_parallelism().map_or(1, usize::from) }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The threads, for loops of one's own.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}
