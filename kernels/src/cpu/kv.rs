//! The paged cache of keys and values, in half floats.
//!
//! A physical block holds `block_size` tokens for all layers. For one layer and one key-value head it stores keys as groups of
//! sixteen tokens, each `[head_dim × 16]` (so that sixteen scores are one vector), and values as `[block_size × head_dim]`.
//! Memory is mapped zeroed and touched on first use only. Every stored number is finite: what is not, or does not fit, is clamped,
//! so that a stale block can never reach a result through `0 · ∞`.
#![allow(unsafe_code)]

use memmap2::MmapMut;

use super::Cpu;
use super::isa::instantiate;
use super::lanes::{LANES, Lanes};

/// The shape of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// Values of a head, a multiple of 32.
    pub head_dim: usize,
    /// Tokens of a block, a multiple of 16.
    pub block_size: usize,
}

impl KvShape {
    /// Numbers of the keys (or the values) of one layer in one block.
    const fn half_layer(&self) -> usize {
        self.kv_heads * self.head_dim * self.block_size
    }

    /// Bytes of one block over all layers.
    pub const fn block_bytes(&self) -> usize {
        2 * 2 * self.layers * self.half_layer()
    }
}

/// Why a cache could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The shape is not one that the kernels handle.
    #[error("a KV cache with {0}")]
    Shape(&'static str),
    /// There was no memory.
    #[error("no memory for {blocks} KV blocks of {bytes} bytes: {reason}")]
    Memory {
        /// Blocks wanted.
        blocks: usize,
        /// Bytes of a block.
        bytes: usize,
        /// What the system said.
        reason: String,
    },
}

/// The cache.
pub struct KvCache {
    shape: KvShape,
    blocks: usize,
    data: MmapMut,
}

impl KvCache {
    /// A cache of `blocks` zeroed blocks.
    pub fn new(shape: KvShape, blocks: usize) -> Result<Self, KvError> {
        if shape.head_dim == 0 || !shape.head_dim.is_multiple_of(32) {
            return Err(KvError::Shape("a head dimension that is no multiple of 32"));
        }
        if shape.block_size == 0 || !shape.block_size.is_multiple_of(LANES) {
            return Err(KvError::Shape("a block size that is no multiple of 16"));
        }
        let bytes = shape.block_bytes();
        let error = |reason: String| KvError::Memory { blocks, bytes, reason };
        let total = blocks.checked_mul(bytes).ok_or_else(|| error("size overflows".to_owned()))?;
        let data = MmapMut::map_anon(total.max(1)).map_err(|e| error(e.to_string()))?;
        // Advice only: without large pages everything works, slower.
        #[cfg(target_os = "linux")]
        let _ = data.advise(memmap2::Advice::HugePage);
        Ok(Self { shape, blocks, data })
    }

    /// Its shape.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies block `from` to block `to`.
    ///
    /// # Panics
    /// When one does not exist.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let bytes = self.shape.block_bytes();
        assert!((from.max(to) as usize) < self.blocks, "block ids");
        self.data.copy_within(from as usize * bytes..(from as usize + 1) * bytes, to as usize * bytes);
    }

    /// Keys of `layer` in `block`; values follow at `half_layer`.
    fn layer(&self, block: u32, layer: usize) -> *const u16 {
        assert!((block as usize) < self.blocks && layer < self.shape.layers, "block and layer ids");
        let at = (block as usize * self.shape.layers + layer) * 2 * self.shape.half_layer();
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.data.as_ptr().cast::<u16>().add(at) }
    }

    /// The sixteen-token key group `group` (of the block) of a head: `[head_dim × 16]`.
    pub(crate) fn keys(&self, block: u32, layer: usize, head: usize, group: usize) -> *const u16 {
        let s = &self.shape;
        // SAFETY: head and group are within the layer's keys.
        unsafe { self.layer(block, layer).add((head * s.block_size + group * LANES) * s.head_dim) }
    }

    /// The values of a head from the first token of group `group` on: `[tokens × head_dim]`.
    pub(crate) fn values(&self, block: u32, layer: usize, head: usize, group: usize) -> *const u16 {
        let s = &self.shape;
        // SAFETY: head and group are within the layer's values.
        unsafe {
            self.layer(block, layer).add(s.half_layer() + (head * s.block_size + group * LANES) * s.head_dim)
        }
    }
}

impl Cpu {
    /// Writes a token's keys and values (`[kv_heads × head_dim]` each) into slot `slot` of `block`.
    ///
    /// # Panics
    /// When lengths, block or slot do not fit the cache.
    pub fn kv_write(&self, kv: &mut KvCache, layer: usize, at: (u32, usize), keys: &[f32], values: &[f32]) {
        let s = kv.shape;
        let width = s.kv_heads * s.head_dim;
        assert!(keys.len() == width && values.len() == width && at.1 < s.block_size, "shapes");
        let base = kv.layer(at.0, layer).cast_mut();
        // SAFETY: `base` starts a layer of a block, exclusively borrowed; lengths were checked.
        unsafe { write(self.isa(), base, &s, at.1, keys, values) };
    }
}

#[inline(always)]
unsafe fn write_token<L: Lanes>(base: *mut u16, s: &KvShape, slot: usize, keys: &[f32], values: &[f32]) {
    // SAFETY: the caller's contract: `base` has keys then values of one layer.
    unsafe {
        let clamp = |v| L::max(L::min(v, L::splat(65504.0)), L::splat(-65504.0));
        let (group, lane) = (slot / LANES, slot % LANES);
        for head in 0..s.kv_heads {
            let k = base.add((head * s.block_size + group * LANES) * s.head_dim + lane);
            let v = base.add(s.half_layer() + (head * s.block_size + slot) * s.head_dim);
            for d in (0..s.head_dim).step_by(LANES) {
                let at = head * s.head_dim + d;
                L::store_f16(v.add(d), clamp(L::load(values.as_ptr().add(at))));
                let mut column = [0u16; LANES];
                L::store_f16(column.as_mut_ptr(), clamp(L::load(keys.as_ptr().add(at))));
                for (i, &bits) in column.iter().enumerate() {
                    *k.add((d + i) * LANES) = bits;
                }
            }
        }
    }
}
instantiate! {
    fn write(base: *mut u16, s: &KvShape, slot: usize, keys: &[f32], values: &[f32]) = write_token
}
