//! Linear layers with weights of 4 or 8 bits and activations of bf16.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::maps::Boxes;
use super::tensor::{Buffer, Tensor, TensorMut};

/// Weights along K that share a scale and a zero point.
pub const GROUP: usize = 128;
const WARPS: usize = 16;
/// Rows of activations of one call, and of a launch that is not of all of them.
const MOST_ROWS: usize = 64;
const HALF_ROWS: usize = 32;
/// The kernel counts bytes of weights in 32 bits.
const MOST_BYTES: usize = u32::MAX as usize;
/// Stages of activations: of a slice, beyond which more in flight only delays the first weights; and of all slices together.
const STAGES: usize = 6;
const ALL_STAGES: usize = 256;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bits {
    Four,
    Eight,
}

impl Bits {
    pub(super) const fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Bytes of the numbers of a packed tile of 16 features × 128 columns.
    const fn words(self) -> usize {
        256 * self.count()
    }

    /// Bytes of a packed tile: a scale and a zero a feature lie behind the numbers.
    const fn tile(self) -> usize {
        self.words() + 64
    }
}

/// Weights in the kernel's own order.
#[derive(Debug)]
struct Packed {
    tiles: Buffer<u8>,
    shape: [usize; 2],
    bits: Bits,
}

/// 4-bit weights `[features, columns]` with a scale and zero point a group of 128 columns, in the kernel's own order.
#[derive(Debug)]
pub struct PackedW4(Packed);

/// 8-bit weights `[features, columns]` with a scale and zero point a group of 128 columns, in the kernel's own order.
#[derive(Debug)]
pub struct PackedW8(Packed);

impl PackedW4 {
    /// Packs on the host. `nibbles` `[features, columns]` holds 0 … 15 a byte, `scales` and `zeros` `[features, columns / 128]`:
    /// weight = scale · (nibble − zero), the convention of GPTQ and AWQ; zero is 0 … 16 (8 for symmetric weights).
    ///
    /// # Errors
    /// [`CudaError::Shape`] unless features is a multiple of 16, columns of 128, every nibble under 16 and every zero at most 16.
    pub fn from_host(
        stream: &Stream,
        shape: [usize; 2],
        nibbles: &[u8],
        scales: &[bf16],
        zeros: &[u16],
    ) -> Result<Self, CudaError> {
        Packed::from_host(stream, Bits::Four, shape, nibbles, scales, zeros).map(Self)
    }

    /// `[features, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.0.shape
    }
}

impl PackedW8 {
    /// As [`PackedW4::from_host`] with a byte a weight: weight = scale · (byte − zero), zero 0 … 256 (128 for symmetric weights).
    ///
    /// # Errors
    /// As there, of zeros at most 256.
    pub fn from_host(
        stream: &Stream,
        shape: [usize; 2],
        bytes: &[u8],
        scales: &[bf16],
        zeros: &[u16],
    ) -> Result<Self, CudaError> {
        Packed::from_host(stream, Bits::Eight, shape, bytes, scales, zeros).map(Self)
    }

    /// `[features, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.0.shape
    }
}

impl Packed {
    fn from_host(
        stream: &Stream,
        bits: Bits,
        shape: [usize; 2],
        numbers: &[u8],
        scales: &[bf16],
        zeros: &[u16],
    ) -> Result<Self, CudaError> {
        let packed = pack(bits, shape, numbers, scales, zeros)?;
        Ok(Self { tiles: Buffer::from_host(stream, &packed)?, shape, bits })
    }
}

/// The packed bytes: see `cuda/quant/weight_only.cu` for the order.
fn pack(
    bits: Bits,
    [features, columns]: [usize; 2],
    numbers: &[u8],
    scales: &[bf16],
    zeros: &[u16],
) -> Result<Vec<u8>, CudaError> {
    let groups = columns / GROUP;
    let refuse = |limit: &str| {
        Err(shape_error(
            if bits == Bits::Four { "PackedW4" } else { "PackedW8" },
            format!(
                "[{features}, {columns}] from {} numbers, {} scales, {} zeros",
                numbers.len(),
                scales.len(),
                zeros.len()
            ),
            limit,
        ))
    };
    if features % 16 != 0 || columns % GROUP != 0 || features == 0 || columns == 0 {
        return refuse("features must be a multiple of 16 and columns of 128");
    }
    if numbers.len() != features * columns || scales.len() != features * groups || zeros.len() != scales.len()
    {
        return refuse("one number a weight, one scale and one zero a group of 128");
    }
    let end = 1_u16 << bits.count();
    if numbers.iter().any(|&n| u16::from(n) >= end) || zeros.iter().any(|&z| z > end) {
        return refuse("numbers must be under 2^bits, zeros at most that");
    }
    if (features / 16 * groups).saturating_mul(bits.tile()) > MOST_BYTES {
        return refuse("at most 4 GiB packed");
    }
    let mut packed = vec![0_u8; features / 16 * groups * bits.tile()];
    for (index, tile) in packed.chunks_exact_mut(bits.tile()).enumerate() {
        let (block, group) = (index / groups, index % groups);
        let number = |feature: usize, column: usize| {
            numbers[(block * 16 + feature) * columns + group * GROUP + column]
        };
        for step in 0..8 {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                // Registers a0 … a3 of the A fragment: rows g and g + 8, columns 2t and 2t + 8, each with its neighbour.
                let registers = [(g, 2 * t), (g + 8, 2 * t), (g, 2 * t + 8), (g + 8, 2 * t + 8)]
                    .map(|(row, column)| [0, 1].map(|more| number(row, step * 16 + column + more)));
                let place = |word: usize| word / 4 * 512 + lane * 16 + word % 4 * 4;
                match bits {
                    Bits::Four => {
                        let word = registers.iter().enumerate().fold(0, |word, (i, &[low, high])| {
                            word | u32::from(low) << (4 * i) | u32::from(high) << (16 + 4 * i)
                        });
                        tile[place(step)..][..4].copy_from_slice(&word.to_le_bytes());
                    }
                    Bits::Eight => {
                        for half in 0..2 {
                            let word = registers[2 * half..][..2].as_flattened();
                            tile[place(2 * step + half)..][..4].copy_from_slice(word);
                        }
                    }
                }
            }
        }
        for feature in 0..16 {
            let from = (block * 16 + feature) * groups + group;
            let at = bits.words() + feature * 4;
            tile[at..at + 2].copy_from_slice(&scales[from].to_le_bytes());
            tile[at + 2..at + 4].copy_from_slice(&bf16::from_f32(-f32::from(zeros[from])).to_le_bytes());
        }
    }
    Ok(packed)
}

/// How a launch is cut.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Rows of a tile: 8, 16, 32 or 64.
    rows: usize,
    blocks: usize,
    /// Feature tiles that a block takes at a time, and slices of K that each is cut into: from the shape of the weights alone, as the order
    /// of sums follows from them. A pair of blocks takes twice the tiles, and a block half of their slices.
    tiles: usize,
    slices: usize,
    pair: bool,
    /// Of the activations, a slice.
    stages: usize,
    shared: usize,
}

impl Plan {
    fn new(
        bits: Bits,
        rows: usize,
        [features, columns]: [usize; 2],
        multiprocessors: usize,
        shared_limit: usize,
    ) -> Self {
        let (all_tiles, groups) = (features / 16, columns / GROUP);
        let blocks = multiprocessors.clamp(1, all_tiles);
        let tiles = all_tiles.div_ceil(blocks).min(WARPS);
        // A warpgroup has room for four tiles: three take its slices too.
        let slices = if tiles == 3 { WARPS / 4 } else { WARPS / tiles }.min(groups);
        let rows = rows.next_power_of_two().max(8);
        let pair = rows == MOST_ROWS && (tiles, slices) == (2, 8);
        let (blocks, tiles) = if pair { (2 * all_tiles.div_ceil(4), 4) } else { (blocks, tiles) };
        let own = if pair { slices / 2 } else { slices };
        let weight_stages = if bits == Bits::Four { 3 } else { 2 } + usize::from(rows == 8);
        let board_rows = if rows == 8 { 8 } else { 16 };
        let fixed = 1024 + WARPS * weight_stages * bits.tile() + WARPS * 16 * (board_rows + 1) * 4;
        let stage = rows * GROUP * 2;
        let room = shared_limit - fixed - 2 * 8 * ALL_STAGES;
        let stages = (room / (own * stage)).min(STAGES).min(ALL_STAGES / slices).min(groups.div_ceil(slices));
        Self { rows, blocks, tiles, slices, pair, stages, shared: fixed + own * stages * stage }
    }

    /// Whether warpgroups, four tiles of one slice each, cover the block's tiles; to 32 rows only where most of them are full.
    fn wide(&self) -> bool {
        let room = self.tiles.div_ceil(4) * 4;
        room * self.slices <= WARPS && (self.rows == MOST_ROWS || self.tiles >= 4)
    }

    /// Rows of activations that one launch takes: all of 64 where warpgroups of a block or a pair can and two stages of x fit in shared memory; else 32.
    fn most_rows(bits: Bits, shape: [usize; 2], multiprocessors: usize, shared_limit: usize) -> usize {
        let all = Self::new(bits, MOST_ROWS, shape, multiprocessors, shared_limit);
        if all.pair || all.wide() && all.stages >= 2 { MOST_ROWS } else { HALF_ROWS }
    }
}

#[repr(C)]
struct Problem {
    y: u64,
    w: u64,
    m: i32,
    n: i32,
    k: i32,
    slices: i32,
    tiles: i32,
    stages: i32,
}

/// `y ← x · Wᵀ` with 4-bit weights: `x` `[rows, columns]`, `y` `[rows, features]`, bf16, up to 64 rows (from 33 on some
/// shapes take two launches, of which the second finds most of the weights in L2).
///
/// Products of bf16 activations with exactly represented differences of number and zero point, sums in f32, scales applied in f32.
/// A row's bits do not depend on how many rows there are.
/// Source: `cuda/quant/weight_only.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn w4a16_linear(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weights: &PackedW4,
) -> Result<(), CudaError> {
    linear("w4a16_linear", stream, y, x, &weights.0)
}

/// As [`w4a16_linear`] with 8-bit weights.
/// Source: `cuda/quant/weight_only.cu`.
///
/// # Errors
/// As there.
pub fn w8a16_linear(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weights: &PackedW8,
) -> Result<(), CudaError> {
    linear("w8a16_linear", stream, y, x, &weights.0)
}

fn linear(
    call: &'static str,
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weights: &Packed,
) -> Result<(), CudaError> {
    let [rows, columns] = x.shape;
    let [features, weight_columns] = weights.shape;
    let refuse = |limit: &str| {
        Err(shape_error(call, format!("y {y:?}, x {x:?}, weights [{features}, {weight_columns}]"), limit))
    };
    if y.shape() != [rows, features] || columns != weight_columns {
        return refuse("y must be [rows, features] for x [rows, columns] and weights [features, columns]");
    }
    if rows > MOST_ROWS {
        return refuse("at most 64 rows a call");
    }
    let tiles = weights.tiles.view([weights.tiles.len()])?;
    check(call, stream, 16, &[("y", y.span())], &[("x", x.span()), ("weights", tiles.span())])?;
    if rows == 0 {
        return Ok(());
    }
    let device = &stream.device;
    let (multiprocessors, shared) = (device.multiprocessors as usize, device.shared_memory);
    let most = Plan::most_rows(weights.bits, weights.shape, multiprocessors, shared);
    for first in (0..rows).step_by(most) {
        let count = most.min(rows - first);
        let plan = Plan::new(weights.bits, count, weights.shape, multiprocessors, shared);
        let (to, from) =
            (y.view.pointer + (2 * first * features) as u64, x.pointer + (2 * first * columns) as u64);
        queue(call, stream, [to, from, tiles.pointer], [count, features, columns], weights.bits, &plan)?;
    }
    Ok(())
}

/// One launch, after the checks: `y` and `x` of `rows` rows.
fn queue(
    call: &'static str,
    stream: &Stream,
    [y, x, w]: [u64; 3],
    [rows, features, columns]: [usize; 3],
    bits: Bits,
    plan: &Plan,
) -> Result<(), CudaError> {
    let m = &stream.device.modules;
    let kernel = match (bits, plan.rows, plan.wide()) {
        (Bits::Four, _, _) if plan.pair => m.w4a16_pair_m64,
        (Bits::Eight, _, _) if plan.pair => m.w8a16_pair_m64,
        (Bits::Four, 8, _) => m.w4a16_m8,
        (Bits::Four, 16, _) => m.w4a16_m16,
        (Bits::Four, 32, false) => m.w4a16_m32,
        (Bits::Four, 32, true) => m.w4a16_wide_m32,
        (Bits::Four, _, _) => m.w4a16_wide_m64,
        (Bits::Eight, 8, _) => m.w8a16_m8,
        (Bits::Eight, 16, _) => m.w8a16_m16,
        (Bits::Eight, 32, false) => m.w8a16_m32,
        (Bits::Eight, 32, true) => m.w8a16_wide_m32,
        (Bits::Eight, _, _) => m.w8a16_wide_m64,
    };
    let problem = Problem {
        y,
        w,
        m: rows as i32,
        n: features as i32,
        k: columns as i32,
        slices: plan.slices as i32,
        tiles: plan.tiles as i32,
        stages: plan.stages as i32,
    };
    stream.device.bind(call)?;
    // 64 columns, rows, halves of groups: one copy brings a group of every row.
    let halves = columns as u64 / 64;
    let strides = [columns as u64 * 2, 128];
    let map = Boxes::of_bf16(x, [64, rows as u64, halves], &strides, [64, plan.rows as u32, 2]).map(call)?;
    let grid = Grid {
        blocks: (plan.blocks as u32, 1),
        threads: (WARPS * 32 + 128) as u32,
        shared: plan.shared as u32,
    };
    // SAFETY: the values mirror the kernel's parameters; the caller's checks cover its reads and writes.
    unsafe {
        launch(call, stream, kernel, grid, &mut [argument(&map), argument(&problem)], || {
            format!("{rows} rows, weights [{features}, {columns}]")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_every_number_where_the_fragment_reads_it() {
        let (features, columns) = (32, 256);
        let scales: Vec<bf16> = (0..features * 2).map(|i| bf16::from_f32(i as f32)).collect();
        let zeros: Vec<u16> = (0..features * 2).map(|i| (i % 16) as u16).collect();
        for bits in [Bits::Four, Bits::Eight] {
            let end = 1 << bits.count();
            let numbers: Vec<u8> = (0..features * columns).map(|i| ((i * 7 + i / 13) % end) as u8).collect();
            let packed = pack(bits, [features, columns], &numbers, &scales, &zeros).expect("a legal shape");
            for (feature, column) in [(0, 0), (1, 3), (9, 17), (17, 130), (31, 255)] {
                let tile = &packed[(feature / 16 * 2 + column / 128) * bits.tile()..];
                let (row, c) = (feature % 16, column % 128);
                let (step, within) = (c / 16, c % 16);
                let (lane, register) = (row % 8 * 4 + within % 8 / 2, row / 8 + within / 8 * 2);
                let word = |at: usize| {
                    let bytes = &tile[at / 4 * 512 + lane * 16 + at % 4 * 4..][..4];
                    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
                };
                let found = if bits == Bits::Four {
                    word(step) >> (4 * register + 16 * (within % 2)) & 15
                } else {
                    word(2 * step + register / 2) >> (16 * (register % 2) + 8 * (within % 2)) & 255
                };
                let what = format!("{bits:?}, feature {feature} column {column}");
                assert_eq!(found as u8, numbers[feature * columns + column], "{what}");
            }
            assert_eq!(&packed[bits.words() + 4 * 5 + 2..][..2], bf16::from_f32(-10.0).to_le_bytes());
        }
    }

    #[test]
    fn packing_refuses_what_it_cannot_hold() {
        let limit = |shape: [usize; 2], nibble: u8| {
            let (n, g) = (shape[0] * shape[1], shape[0] * shape[1] / GROUP);
            let packed = pack(Bits::Four, shape, &vec![nibble; n], &vec![bf16::ONE; g], &vec![8; g]);
            packed.err().map(|e| e.to_string())
        };
        assert!(limit([24, 128], 0).is_some_and(|e| e.contains("multiple of 16")));
        assert!(limit([16, 100], 0).is_some_and(|e| e.contains("of 128")));
        assert!(limit([16, 128], 16).is_some_and(|e| e.contains("under 2^bits")));
        let zero = |bits, z| pack(bits, [16, 128], &[0; 2048], &[bf16::ONE; 16], &[z; 16]).is_ok();
        assert!(zero(Bits::Four, 16) && !zero(Bits::Four, 17));
        assert!(zero(Bits::Eight, 256) && !zero(Bits::Eight, 257));
        assert_eq!(limit([16, 128], 15), None);
    }

    #[test]
    fn a_plan_fits_shared_memory_and_cuts_weights_alike_for_every_number_of_rows() {
        const HOPPER: usize = 232_448;
        for (shape, tiles, slices) in [
            ([14336, 4096], 7, 2),
            ([4096, 14336], 2, 8),
            ([6144, 4096], 3, 4),
            ([16, 128], 1, 1),
            ([16, 8192], 1, 16),
            ([128_256, 4096], 16, 1),
        ] {
            for bits in [Bits::Four, Bits::Eight] {
                let most = Plan::most_rows(bits, shape, 132, HOPPER);
                assert_eq!(most == 64, shape[0] != 16, "{shape:?}");
                for rows in 1..=Plan::most_rows(bits, shape, 132, HOPPER) {
                    let plan = Plan::new(bits, rows, shape, 132, HOPPER);
                    assert!(plan.shared + 2 * 8 * ALL_STAGES <= HOPPER && plan.stages > 0, "{plan:?}");
                    assert!(plan.rows >= rows && plan.slices * plan.stages <= ALL_STAGES, "{plan:?}");
                    let together = if plan.pair { 2 } else { 1 };
                    assert_eq!(
                        (plan.tiles, plan.slices),
                        (together * tiles, slices),
                        "{rows} rows of {shape:?}: {plan:?}"
                    );
                }
            }
        }
    }
}
