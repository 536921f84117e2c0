//! Linear layers with 4-bit weights.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Buffer, Tensor, TensorMut};

/// Weights along K that share a scale and a zero point.
pub const GROUP: usize = 128;
/// Bytes of a packed tile of 16 features × 128 columns.
const TILE_BYTES: usize = 1088;
const WARPS: usize = 16;
/// Rows of activations one launch handles.
const MOST_ROWS: usize = 16;

/// 4-bit weights `[features, columns]` with a scale and zero point a group of 128 columns, in the kernel's own order.
#[derive(Debug)]
pub struct PackedW4 {
    tiles: Buffer<u8>,
    features: usize,
    columns: usize,
}

impl PackedW4 {
    /// Packs on the host. `nibbles` `[features, columns]` holds 0 … 15 a byte, `scales` and `zeros` `[features, columns / 128]`:
    /// weight = scale · (nibble − zero), the convention of GPTQ and AWQ; zero is 0 … 15 (8 for symmetric weights).
    ///
    /// # Errors
    /// [`CudaError::Shape`] unless features is a multiple of 16, columns of 128, and every nibble and zero is under 16.
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
    if nibbles.iter().chain(zeros).any(|&n| n > 15) {
        return refuse("nibbles and zeros must be under 16");
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

/// How a launch is cut: eight-row batches, and parts of K.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    batches: usize,
    splits: usize,
    shared: usize,
}

impl Plan {
    /// The fewest parts of K whose activations fit in shared memory beside the rings, were there 16 rows: the order of sums follows from the
    /// parts, so it must not follow from the rows.
    fn new(rows: usize, columns: usize, shared_limit: usize) -> Self {
        // (beside the activations, activations of a group)
        let bytes = |batches: usize| {
            let stages = if batches == 1 { 6 } else { 4 };
            let board = WARPS * 16 * (batches * 8 + 1) * 4;
            (WARPS * stages * TILE_BYTES + board + batches * 8 * 16 + 128, batches * 8 * (256 + 4))
        };
        let groups = columns / GROUP;
        let (fixed, each) = bytes(2);
        let splits = groups.div_ceil(((shared_limit - fixed) / each).max(1));
        let batches = rows.div_ceil(8);
        let (fixed, each) = bytes(batches);
        Self { batches, splits, shared: fixed + groups.div_ceil(splits) * each }
    }
}

/// Scratch of [`w4a16_linear`] for weights of up to this shape, reusable on one stream.
#[derive(Debug)]
pub struct W4Workspace {
    partial: Buffer<f32>,
    arrived: Buffer<u32>,
}

impl W4Workspace {
    /// Room for every number of rows a call may have.
    pub fn new(stream: &Stream, [features, columns]: [usize; 2]) -> Result<Self, CudaError> {
        let splits = Plan::new(MOST_ROWS, columns, stream.device.shared_memory).splits;
        let partial = if splits > 1 { splits * MOST_ROWS * features } else { 0 };
        Ok(Self {
            partial: Buffer::zeros(stream, partial)?,
            arrived: Buffer::zeros(stream, features.div_ceil(16))?,
        })
    }
}

#[repr(C)]
struct Problem {
    y: u64,
    x: u64,
    w: u64,
    partial: u64,
    arrived: u64,
    m: i32,
    n: i32,
    k: i32,
    splits: i32,
}

/// `y ← x · Wᵀ` with 4-bit weights: `x` `[rows, columns]`, `y` `[rows, features]`, bf16, up to 16 rows.
///
/// Products of bf16 activations with exactly represented nibbles, sums in f32, scale and zero point applied once a group.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn w4a16_linear(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weights: &PackedW4,
    workspace: &mut W4Workspace,
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
        return refuse("at most 16 rows a call");
    }
    let tiles = weights.tiles.view([weights.tiles.len()])?;
    check(CALL, stream, 16, &[("y", y.span())], &[("x", x.span()), ("weights", tiles.span())])?;
    if rows == 0 {
        return Ok(());
    }
    let plan = Plan::new(rows, columns, stream.device.shared_memory);
    if workspace.arrived.len() < features / 16
        || (plan.splits > 1 && workspace.partial.len() < plan.splits * rows * features)
    {
        return refuse("the workspace was made for smaller weights");
    }
    let m = &stream.device.modules;
    let kernel = match plan.batches {
        1 => m.w4a16_m8,
        _ => m.w4a16_m16,
    };
    let problem = Problem {
        y: y.view.pointer,
        x: x.pointer,
        w: tiles.pointer,
        partial: workspace.partial.view([workspace.partial.len()])?.pointer,
        arrived: workspace.arrived.view([workspace.arrived.len()])?.pointer,
        m: rows as i32,
        n: features as i32,
        k: columns as i32,
        splits: plan.splits as i32,
    };
    let blocks = (stream.device.multiprocessors as usize / plan.splits).clamp(1, features / 16);
    let grid = Grid {
        blocks: (blocks as u32, plan.splits as u32),
        threads: (WARPS * 32) as u32,
        shared: plan.shared as u32,
    };
    // SAFETY: the struct mirrors the kernel's; the checks above cover its reads and writes.
    unsafe {
        launch(CALL, stream, kernel, grid, &mut [argument(&problem)], || {
            format!("x {x:?}, weights [{features}, {columns}]")
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
        assert_eq!(limit([16, 128], 15), None);
    }

    #[test]
    fn a_plan_fits_shared_memory_and_splits_no_more_than_it_must() {
        const HOPPER: usize = 232_448;
        for (rows, columns, splits) in
            [(1, 4096, 1), (16, 4096, 1), (1, 128, 1), (8, 14336, 4), (16, 14336, 4)]
        {
            let plan = Plan::new(rows, columns, HOPPER);
            assert!(plan.shared <= HOPPER, "{plan:?}");
            assert_eq!(plan.splits, splits, "{rows} rows of {columns}: {plan:?}");
        }
    }
}
