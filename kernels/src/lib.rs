//! TinyKernels: the numeric kernels under TinyInfer.
//!
//! [`cpu`] holds the operations of a transformer for processors: products with 4-bit, 8-bit and float weights, attention over a paged
//! cache, norms, rotary positions. Each is written once over sixteen lanes and instantiated for AVX-512 with VNNI, AVX-512, AVX2 and
//! plain Rust; the best one is chosen when a [`cpu::Cpu`] is made.
//!
//! What it refuses to know: models, files, tokens, requests. It multiplies what it is given.
//!
//! ```
//! use tinykernels::cpu::{Cpu, activations::Activations, format::BlockType, matmul::{Product, Then}, packed::PackedMatrix};
//!
//! let cpu = Cpu::new(1);
//! let weights: Vec<f32> = (0..2 * 32).map(|i| i as f32).collect();
//! let rows: Vec<&[u8]> = weights.chunks(32).map(bytemuck::cast_slice).collect();
//! let matrix = PackedMatrix::pack(BlockType::F32, 32, &rows).unwrap();
//! let mut x = Activations::new(32);
//! x.resize(1);
//! x.float_mut().fill(1.0);
//! let mut y = [0.0; 2];
//! cpu.matmul(&x, &[Product { weights: &matrix, column: 0, then: Then::Store }], &mut y, 2);
//! assert_eq!(y, [496.0, 1520.0]);
//! ```

pub mod cpu;

#[cfg(feature = "cuda")]
pub mod cuda;
