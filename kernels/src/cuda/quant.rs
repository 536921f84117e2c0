//! Linear layers with 4-bit weights.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::maps::bf16_boxes;
use super::tensor::{Buffer, Tensor, TensorMut};

/// Weights along K that share a scale and a zero point.
pub const GROUP: usize = 128;
/// Bytes of a packed tile of 16 features × 128 columns.
const TILE_BYTES: usize = 1088;
const WARPS: usize = 16;
/// Rows of activations one launch handles, and one call.
const LAUNCH_ROWS: usize = 32;
const MOST_ROWS: usize = 64;
/// The kernel counts bytes of weights in 32 bits.
const MOST_BYTES: usize = u32::MAX as usize;
/// Stages of activations: of a slice, beyond which more in flight only delays the first weights; and of all slices together.
const STAGES: usize = 6;
const ALL_STAGES: usize = 256;

/// 4-bit weights `[features, columns]` with a scale and zero point a group of 128 columns, in the kernel's own order.
#[derive(Debug)]
pub struct PackedW4 {
    tiles: Buffer<u8>,
    features: usize,
    columns: usize,
}

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
        zeros: &[u8],
    ) -> Result<Self, CudaError> {
        let [features, columns] = shape;
        let packed = pack(shape, nibbles, scales, zeros)?;
        Ok(Self { tiles: Buffer::from_host(stream, &packed)?, features, columns })
    }

    /// `[features, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.features, self.columns]
    }
}

/// The packed bytes: see `cuda/quant/w4a16.cu` for the order.
fn pack(
    [features, columns]: [usize; 2],
    nibbles: &[u8],
    scales: &[bf16],
    zeros: &[u8],
) -> Result<Vec<u8>, CudaError> {
    let groups = columns / GROUP;
    let refuse = |limit: &str| {
        Err(shape_error(
            "PackedW4",
            format!(
                "[{features}, {columns}] from {} nibbles, {} scales, {} zeros",
                nibbles.len(),
                scales.len(),
                zeros.len()
            ),
            limit,
        ))
    };
    if features % 16 != 0 || columns % GROUP != 0 || features == 0 || columns == 0 {
        return refuse("features must be a multiple of 16 and columns of 128");
    }
    if nibbles.len() != features * columns || scales.len() != features * groups || zeros.len() != scales.len()
    {
        return refuse("one nibble a weight, one scale and one zero a group of 128");
    }
    if nibbles.iter().any(|&n| n > 15) || zeros.iter().any(|&z| z > 16) {
        return refuse("nibbles must be under 16, zeros at most 16");
    }
    if (features / 16 * groups).saturating_mul(TILE_BYTES) > MOST_BYTES {
        return refuse("at most 4 GiB packed");
    }
    let mut packed = vec![0_u8; features / 16 * groups * TILE_BYTES];
    for (index, tile) in packed.chunks_exact_mut(TILE_BYTES).enumerate() {
        let (block, group) = (index / groups, index % groups);
        let nibble = |feature: usize, column: usize| {
            u32::from(nibbles[(block * 16 + feature) * columns + group * GROUP + column])
        };
        for step in 0..8 {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                let mut word = 0;
                // Registers a0 … a3 of the A fragment: rows g and g + 8, columns 2t and 2t + 8.
                for (i, (row, column)) in
                    [(g, 2 * t), (g + 8, 2 * t), (g, 2 * t + 8), (g + 8, 2 * t + 8)].into_iter().enumerate()
                {
                    word |= nibble(row, step * 16 + column) << (4 * i)
                        | nibble(row, step * 16 + column + 1) << (16 + 4 * i);
                }
                let at = step / 4 * 512 + lane * 16 + step % 4 * 4;
                tile[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        for feature in 0..16 {
            let from = (block * 16 + feature) * groups + group;
            let at = 1024 + feature * 4;
            tile[at..at + 2].copy_from_slice(&scales[from].to_le_bytes());
            tile[at + 2..at + 4].copy_from_slice(&bf16::from_f32(-f32::from(zeros[from])).to_le_bytes());
        }
    }
    Ok(packed)
}

/// How a launch is cut.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Rows of a tile: 8, 16 or 32.
    rows: usize,
    blocks: usize,
    /// Feature tiles that a block takes at a time, and slices of K that each is cut into: from the shape of the weights alone, as the order
    /// of sums follows from them.
    tiles: usize,
    slices: usize,
    /// Of the activations, a slice.
    stages: usize,
    shared: usize,
}

impl Plan {
    fn new(
        rows: usize,
        [features, columns]: [usize; 2],
        multiprocessors: usize,
        shared_limit: usize,
    ) -> Self {
        let (all_tiles, groups) = (features / 16, columns / GROUP);
        let blocks = multiprocessors.clamp(1, all_tiles);
        let tiles = all_tiles.div_ceil(blocks).min(WARPS);
        let slices = (WARPS / tiles).min(groups);
        let rows = rows.next_power_of_two().max(8);
        let (weight_stages, board_rows) = if rows == 8 { (4, 8) } else { (3, 16) };
        let fixed = 1024 + WARPS * weight_stages * TILE_BYTES + WARPS * 16 * (board_rows + 1) * 4;
        let stage = rows * GROUP * 2;
        let room = shared_limit - fixed - 2 * 8 * ALL_STAGES;
        let stages =
            (room / (slices * stage)).min(STAGES).min(ALL_STAGES / slices).min(groups.div_ceil(slices));
        Self { rows, blocks, tiles, slices, stages, shared: fixed + slices * stages * stage }
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

/// `y ← x · Wᵀ` with 4-bit weights: `x` `[rows, columns]`, `y` `[rows, features]`, bf16, up to 64 rows (from 33 on in two launches: the
/// second finds most of the weights in L2).
///
/// Products of bf16 activations with exactly represented differences of nibble and zero point, sums in f32, scales applied in f32.
/// A row's bits do not depend on how many rows there are.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn w4a16_linear(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weights: &PackedW4,
) -> Result<(), CudaError> {
    const CALL: &str = "w4a16_linear";
    let [rows, columns] = x.shape;
    let [features, weight_columns] = weights.shape();
    let refuse = |limit: &str| {
        Err(shape_error(CALL, format!("y {y:?}, x {x:?}, weights [{features}, {weight_columns}]"), limit))
    };
    if y.shape() != [rows, features] || columns != weight_columns {
        return refuse("y must be [rows, features] for x [rows, columns] and weights [features, columns]");
    }
    if rows > MOST_ROWS {
        return refuse("at most 64 rows a call");
    }
    let tiles = weights.tiles.view([weights.tiles.len()])?;
    check(CALL, stream, 16, &[("y", y.span())], &[("x", x.span()), ("weights", tiles.span())])?;
    if rows == 0 {
        return Ok(());
    }
    for first in (0..rows).step_by(LAUNCH_ROWS) {
        let count = LAUNCH_ROWS.min(rows - first);
        let (to, from) =
            (y.view.pointer + (2 * first * features) as u64, x.pointer + (2 * first * columns) as u64);
        queue(stream, to, from, tiles.pointer, [count, features, columns])?;
    }
    Ok(())
}

/// One launch, after the checks: `y` and `x` of `rows` rows.
fn queue(
    stream: &Stream,
    y: u64,
    x: u64,
    w: u64,
    [rows, features, columns]: [usize; 3],
) -> Result<(), CudaError> {
    const CALL: &str = "w4a16_linear";
    let device = &stream.device;
    let plan = Plan::new(rows, [features, columns], device.multiprocessors as usize, device.shared_memory);
    let kernel = match plan.rows {
        8 => device.modules.w4a16_m8,
        16 => device.modules.w4a16_m16,
        _ => device.modules.w4a16_m32,
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
    device.bind(CALL)?;
    // 64 columns, rows, halves of groups: one copy brings a group of every row.
    let halves = columns as u64 / 64;
    let map = bf16_boxes(
        CALL,
        x,
        [64, rows as u64, halves],
        &[columns as u64 * 2, 128],
        [64, plan.rows as u32, 2],
    )?;
    let grid = Grid {
        blocks: (plan.blocks as u32, 1),
        threads: (WARPS * 32 + 128) as u32,
        shared: plan.shared as u32,
    };
    // SAFETY: the values mirror the kernel's parameters; the caller's checks cover its reads and writes.
    unsafe {
        launch(CALL, stream, kernel, grid, &mut [argument(&map), argument(&problem)], || {
            format!("{rows} rows, weights [{features}, {columns}]")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_every_nibble_where_the_fragment_reads_it() {
        let (features, columns) = (32, 256);
        let nibbles: Vec<u8> = (0..features * columns).map(|i| ((i * 7 + i / 13) % 16) as u8).collect();
        let scales: Vec<bf16> = (0..features * 2).map(|i| bf16::from_f32(i as f32)).collect();
        let zeros: Vec<u8> = (0..features * 2).map(|i| (i % 16) as u8).collect();
        let packed = pack([features, columns], &nibbles, &scales, &zeros).expect("the shape is legal");
        for (feature, column) in [(0, 0), (1, 3), (9, 17), (17, 130), (31, 255)] {
            let tile = &packed[(feature / 16 * 2 + column / 128) * TILE_BYTES..];
            let (row, c) = (feature % 16, column % 128);
            let (step, within) = (c / 16, c % 16);
            let (lane, register) = (row % 8 * 4 + within % 8 / 2, row / 8 + within / 8 * 2);
            let word = u32::from_le_bytes(
                tile[step / 4 * 512 + lane * 16 + step % 4 * 4..][..4].try_into().expect("four bytes"),
            );
            assert_eq!(
                (word >> (4 * register + 16 * (within % 2))) as u8 & 15,
                nibbles[feature * columns + column],
                "feature {feature} column {column}"
            );
        }
        assert_eq!(&packed[1024 + 4 * 5 + 2..][..2], bf16::from_f32(-10.0).to_le_bytes());
    }

    #[test]
    fn packing_refuses_what_it_cannot_hold() {
        let limit = |shape: [usize; 2], nibble: u8| {
            let (n, g) = (shape[0] * shape[1], shape[0] * shape[1] / GROUP);
            pack(shape, &vec![nibble; n], &vec![bf16::ONE; g], &vec![8; g]).err().map(|e| e.to_string())
        };
        assert!(limit([24, 128], 0).is_some_and(|e| e.contains("multiple of 16")));
        assert!(limit([16, 100], 0).is_some_and(|e| e.contains("of 128")));
        assert!(limit([16, 128], 16).is_some_and(|e| e.contains("under 16")));
        let zero = |z| pack([16, 128], &[0; 2048], &[bf16::ONE; 16], &[z; 16]).is_ok();
        assert!(zero(16) && !zero(17));
        assert_eq!(limit([16, 128], 15), None);
    }

    #[test]
    fn a_plan_fits_shared_memory_and_cuts_weights_alike_for_every_number_of_rows() {
        const HOPPER: usize = 232_448;
        for (shape, tiles, slices) in [
            ([14336, 4096], 7, 2),
            ([4096, 14336], 2, 8),
            ([6144, 4096], 3, 5),
            ([16, 128], 1, 1),
            ([16, 8192], 1, 16),
            ([128_256, 4096], 16, 1),
        ] {
            for rows in 1..=LAUNCH_ROWS {
                let plan = Plan::new(rows, shape, 132, HOPPER);
                assert!(plan.shared + 2 * 8 * ALL_STAGES <= HOPPER && plan.stages > 0, "{plan:?}");
                assert!(plan.rows >= rows && plan.slices * plan.stages <= ALL_STAGES, "{plan:?}");
                assert_eq!((plan.tiles, plan.slices), (tiles, slices), "{rows} rows of {shape:?}: {plan:?}");
            }
        }
    }
}
