//! Linear layers in bf16, on the tensor cores' warpgroup instructions.

use cudarc::driver::sys;
use half::bf16;

use super::device::{Device, Stream};
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::linear::OperandKind;
use super::maps::{Boxes, Fetch};
use super::module::{Kernel, Modules};
use super::tensor::{Tensor, TensorMut};

/// Depth of a tensor copy in columns: 128 bytes, the width of the swizzle.
const DEPTH: usize = 64;
/// Rows of a tile of the kernel for many rows.
pub(super) const TILE_ROWS: usize = 128;
/// What a block may use besides its ring: alignment of the ring, barriers.
pub(super) const MANY_SPARE: usize = 1024 + 256;
/// Most rows that the kernel for few takes.
pub(super) const MOST_FEW: usize = 64;
pub(super) const FEW_STAGES: usize = 24;
/// Bytes a product of a narrow tile reads past the tile.
pub(super) const FEW_OVERHANG: usize = 8192;

/// How the output is cut for the multiprocessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// For at most 64 rows: tiles of this many features (a multiple of 8, at most 64) and all rows.
    Few {
        /// Features of a tile.
        features: usize,
    },
    /// Tiles of 128 rows and this many features (a multiple of 32 up to 256).
    Many {
        /// Features of a tile.
        features: usize,
    },
}

#[repr(C)]
struct ManyProblem {
    y: u64,
    m: i32,
    n: i32,
    k: i32,
}

#[repr(C)]
struct FewProblem {
    y: u64,
    m: i32,
    n: i32,
    k: i32,
    features: i32,
    stages: i32,
}

/// `y ← x · Wᵀ`: `x` `[rows, columns]`, `weight` `[features, columns]`, `y` `[rows, features]`, bf16 with f32 sums; features and columns
/// multiples of 8, 16-byte aligned.
///
/// The tile is that of [`linear_tile`]. A row's bits do not depend on how many rows there are, nor on the tile.
/// Source: `cuda/gemm/linear_bf16.cu`, `linear_few.cu` (`wgmma` and tensor copies as in PTX ISA 9.0).
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn linear_bf16(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 2>,
) -> Result<(), CudaError> {
    let tile = linear_tile(&stream.device, [x.shape[0], weight.shape[0], x.shape[1]]);
    linear_bf16_tiled(stream, y, x, weight, tile)
}

/// The tile that [`linear_bf16`] takes for `[rows, features, columns]`: that of the GPU's tuning table where it has the shape, else [`tile_by_waves`].
#[must_use]
pub fn linear_tile(device: &Device, shape: [usize; 3]) -> Tile {
    let tuned = device.tuning.tile(OperandKind::Bf16, shape);
    tuned.unwrap_or_else(|| tile_by_waves(shape, device.multiprocessors as usize))
}

/// The tile whose waves over the multiprocessors cost least, by a rule.
#[must_use]
pub fn tile_by_waves([rows, features, _]: [usize; 3], multiprocessors: usize) -> Tile {
    let extents = [rows, features];
    if rows <= MOST_FEW {
        Tile::Few { features: cheapest(&[64, 56, 48, 40, 32], [MOST_FEW, 8], extents, multiprocessors) }
    } else {
        // A tile costs its width and what 64 columns cost besides: loading 128 rows of x.
        let widths = [256, 224, 192, 160, 128, 96, 64];
        Tile::Many { features: cheapest(&widths, [TILE_ROWS, 64], extents, multiprocessors) }
    }
}

/// The width whose waves of tiles cost least; a tile of `tile_rows` rows costs its width and `besides`.
pub(super) fn cheapest(
    widths: &[usize],
    [tile_rows, besides]: [usize; 2],
    [rows, features]: [usize; 2],
    multiprocessors: usize,
) -> usize {
    let cost = |&width: &usize| {
        let tiles = rows.div_ceil(tile_rows).saturating_mul(features.div_ceil(width));
        tiles.div_ceil(multiprocessors.max(1)).saturating_mul(width + besides)
    };
    // Wider first: it wins a tie, as it reuses more.
    *widths.iter().min_by_key(|width| cost(width)).expect("widths are given")
}

/// [`linear_bf16`] with a tile of the caller's choice, for tuning.
/// Source: as there.
///
/// # Errors
/// As [`linear_bf16`]; [`CudaError::Shape`] also for a tile that no kernel has, or that the rows do not fit.
pub fn linear_bf16_tiled(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 2>,
    tile: Tile,
) -> Result<(), CudaError> {
    const CALL: &str = "linear_bf16";
    let Some(shape) = checked(CALL, stream, y, x, weight)? else { return Ok(()) };
    stream.device.bind(CALL)?;
    match tile {
        Tile::Few { features } => few(CALL, stream, y, x, weight, shape, features),
        Tile::Many { features } => many(CALL, stream, y, x, weight, shape, features),
    }
}

/// `[rows, features, columns]`, or none where there is nothing to do.
pub(super) fn checked(
    call: &'static str,
    stream: &Stream,
    y: &TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 2>,
) -> Result<Option<[usize; 3]>, CudaError> {
    let [rows, columns] = x.shape;
    let [features, weight_columns] = weight.shape;
    let refuse = |limit: &str| Err(shape_error(call, format!("y {y:?}, x {x:?}, weight {weight:?}"), limit));
    if y.shape() != [rows, features] || columns != weight_columns {
        return refuse("y must be [rows, features] for x [rows, columns] and weight [features, columns]");
    }
    if features % 8 != 0 || columns % 8 != 0 || columns == 0 || rows.max(features).max(columns) > 1 << 30 {
        return refuse(
            "features and columns must be multiples of 8, columns not zero, and no extent above 2^30",
        );
    }
    check(call, stream, 16, &[("y", y.span())], &[("x", x.span()), ("weight", weight.span())])?;
    Ok((rows > 0 && features > 0).then_some([rows, features, columns]))
}

fn few(
    call: &'static str,
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 2>,
    [rows, features, columns]: [usize; 3],
    tile: usize,
) -> Result<(), CudaError> {
    let m = &stream.device.modules;
    let (box_rows, kernel) = match rows {
        0..=8 => (8, m.linear_few_8),
        9..=16 => (16, m.linear_few_16),
        17..=32 => (32, m.linear_few_32),
        33..=MOST_FEW => (64, m.linear_few_64),
        _ => return Err(no_tile(call, x, weight, Tile::Few { features: tile })),
    };
    if tile == 0 || !tile.is_multiple_of(8) || tile > 64 {
        return Err(no_tile(call, x, weight, Tile::Few { features: tile }));
    }
    // Two copies of 64 columns a stage; the board and the barriers are static.
    let stage = 2 * (tile + box_rows) * DEPTH * 2;
    let fixed = 1024 + FEW_OVERHANG;
    let own = box_rows * 144 + FEW_STAGES * 16 + 64;
    let stages = ((stream.device.shared_memory - fixed - own) / stage).min(FEW_STAGES);
    let problem = FewProblem {
        y: y.view.pointer,
        m: rows as i32,
        n: features as i32,
        k: columns as i32,
        features: tile as i32,
        stages: stages as i32,
    };
    let grid = Grid {
        blocks: (features.div_ceil(tile).min(stream.device.multiprocessors as usize) as u32, 1),
        threads: 160,
        shared: (stages * stage + fixed) as u32,
    };
    let (map_x, map_w) =
        (tensor_map(call, x, rows, Fetch::Bytes128)?, tensor_map(call, weight, tile, Fetch::Bytes128)?);
    let mut arguments = [argument(&map_x), argument(&map_w), argument(&problem)];
    // SAFETY: the values mirror the kernel's parameters; copies and stores are bounded by the maps and the extents checked above.
    unsafe { launch(call, stream, kernel, grid, &mut arguments, || format!("x {x:?}, weight {weight:?}")) }
}

fn many(
    call: &'static str,
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 2>,
    [rows, features, columns]: [usize; 3],
    tile: usize,
) -> Result<(), CudaError> {
    let multiprocessors = stream.device.multiprocessors as usize;
    let tiles = rows.div_ceil(TILE_ROWS).saturating_mul(features.div_ceil(tile.max(1)));
    let kernel = many_kernel(&stream.device.modules, tile)
        .filter(|_| i32::try_from(tiles).is_ok())
        .ok_or_else(|| no_tile(call, x, weight, Tile::Many { features: tile }))?;
    let stage = (TILE_ROWS + tile) * DEPTH * 2;
    let stages = (stream.device.shared_memory - MANY_SPARE) / stage;
    let problem = ManyProblem { y: y.view.pointer, m: rows as i32, n: features as i32, k: columns as i32 };
    let grid = Grid {
        blocks: (tiles.min(multiprocessors) as u32, 1),
        threads: 384,
        shared: (stages * stage + 1024) as u32,
    };
    // The narrowest tile is for few rows of long weights: 128 x 4,096 x 14,336 takes 39.4 us with twice as much fetched, 40.9 without.
    let fetch = if tile == 32 { Fetch::Bytes256 } else { Fetch::Bytes128 };
    let map_x = tensor_map(call, x, rows.min(TILE_ROWS), fetch)?;
    let map_w = tensor_map(call, weight, tile, fetch)?;
    let mut arguments = [argument(&map_x), argument(&map_w), argument(&problem)];
    // SAFETY: the values mirror the kernel's parameters; copies and stores are bounded by the maps and the extents checked above.
    unsafe { launch(call, stream, kernel, grid, &mut arguments, || format!("x {x:?}, weight {weight:?}")) }
}

fn many_kernel(m: &Modules, features: usize) -> Option<Kernel> {
    Some(match features {
        32 => m.linear_bf16_32,
        64 => m.linear_bf16_64,
        96 => m.linear_bf16_96,
        128 => m.linear_bf16_128,
        160 => m.linear_bf16_160,
        192 => m.linear_bf16_192,
        224 => m.linear_bf16_224,
        256 => m.linear_bf16_256,
        _ => return None,
    })
}

fn no_tile(call: &'static str, x: Tensor<'_, bf16, 2>, weight: Tensor<'_, bf16, 2>, tile: Tile) -> CudaError {
    shape_error(
        call,
        format!("x {x:?}, weight {weight:?}, {tile:?}"),
        "tiles are Few of 8 to 64 features in eights for at most 64 rows, or Many of 32 to 256 features in thirty-twos, at most 2^31 of them",
    )
}

/// Boxes of `rows` rows and 64 columns.
fn tensor_map(
    call: &'static str,
    tensor: Tensor<'_, bf16, 2>,
    rows: usize,
    fetch: Fetch,
) -> Result<sys::CUtensorMap, CudaError> {
    let [height, width] = tensor.shape.map(|extent| extent as u64);
    let each = [DEPTH as u32, rows as u32];
    Boxes { fetch, ..Boxes::of_bf16(tensor.pointer, [width, height], &[width * 2], each) }.map(call)
}

#[cfg(test)]
mod tests {
    use super::{Tile, tile_by_waves};

    #[test]
    fn the_tile_leaves_the_last_wave_full_where_it_can() {
        for (shape, tile) in [
            ([8192, 8192, 8192], Tile::Many { features: 256 }),
            ([4096, 4096, 4096], Tile::Many { features: 256 }),
            ([256, 4096, 4096], Tile::Many { features: 64 }),
            ([256, 6144, 4096], Tile::Many { features: 96 }),
            ([512, 6144, 4096], Tile::Many { features: 192 }),
            ([512, 28672, 4096], Tile::Many { features: 224 }),
            ([64, 28672, 2048], Tile::Few { features: 56 }),
            ([1, 8, 8], Tile::Few { features: 32 }),
        ] {
            assert_eq!(tile_by_waves(shape, 132), tile, "{shape:?}");
        }
    }
}
