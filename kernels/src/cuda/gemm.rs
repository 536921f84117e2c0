//! Linear layers for many rows, on the tensor cores' warpgroup instructions.

use std::mem::MaybeUninit;

use cudarc::driver::sys;
use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Tensor, TensorMut};

/// Rows of a tile and depth of a stage, as in the kernel.
const TILE_ROWS: usize = 128;
const DEPTH: usize = 64;
const STAGES: usize = 4;

#[repr(C)]
struct Problem {
    y: u64,
    m: i32,
    n: i32,
    k: i32,
}

/// `y ← x · Wᵀ`: `x` `[rows, columns]`, `weight` `[features, columns]`, `y` `[rows, features]`, bf16 with f32 sums; features and columns
/// multiples of 8, 16-byte aligned.
///
/// Written for many rows. With few (under about 128) it is right but far from the memory's rate; use a GEMV or cuBLAS there.
/// A row's bits do not depend on how many rows there are.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn linear_bf16(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 2>,
) -> Result<(), CudaError> {
    const CALL: &str = "linear_bf16";
    let [rows, columns] = x.shape;
    let [features, weight_columns] = weight.shape;
    let refuse = |limit: &str| Err(shape_error(CALL, format!("y {y:?}, x {x:?}, weight {weight:?}"), limit));
    if y.shape() != [rows, features] || columns != weight_columns {
        return refuse("y must be [rows, features] for x [rows, columns] and weight [features, columns]");
    }
    if features % 8 != 0 || columns % 8 != 0 || columns == 0 || rows.max(features).max(columns) > 1 << 30 {
        return refuse(
            "features and columns must be multiples of 8, columns not zero, and no extent above 2^30",
        );
    }
    check(CALL, stream, 16, &[("y", y.span())], &[("x", x.span()), ("weight", weight.span())])?;
    if rows == 0 || features == 0 {
        return Ok(());
    }
    let multiprocessors = stream.device.multiprocessors as usize;
    let (width, tiles) = tile_width(rows, features, multiprocessors);
    let m = &stream.device.modules;
    let kernel = match width {
        64 => m.linear_bf16_64,
        128 => m.linear_bf16_128,
        192 => m.linear_bf16_192,
        _ => m.linear_bf16_256,
    };
    if tiles > i32::MAX as usize {
        return refuse("at most 2^31 tiles of 128 rows");
    }
    stream.device.bind(CALL)?;
    let map_x = tensor_map(CALL, x, TILE_ROWS)?;
    let map_w = tensor_map(CALL, weight, width)?;
    let problem = Problem { y: y.view.pointer, m: rows as i32, n: features as i32, k: columns as i32 };
    let shared = STAGES * (TILE_ROWS + width) * DEPTH * 2 + 1024;
    let grid = Grid { blocks: (tiles.min(multiprocessors) as u32, 1), threads: 384, shared: shared as u32 };
    let mut arguments = [argument(&map_x), argument(&map_w), argument(&problem)];
    // SAFETY: the values mirror the kernel's parameters; copies and stores are bounded by the maps and the extents checked above.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}, weight {weight:?}")) }
}

/// The width whose waves of tiles cost least, and how many tiles it makes. A tile costs its width and what 64 columns cost besides: loading
/// 128 rows of x. Wider wins a tie, as it reuses more.
fn tile_width(rows: usize, features: usize, multiprocessors: usize) -> (usize, usize) {
    let tiles = |width: usize| rows.div_ceil(TILE_ROWS).saturating_mul(features.div_ceil(width));
    let cost = |width: usize| tiles(width).div_ceil(multiprocessors).saturating_mul(width + 64);
    let width = [256, 192, 128, 64].into_iter().min_by_key(|&width| cost(width)).expect("four widths");
    (width, tiles(width))
}

/// Boxes of `rows` rows and one stage's depth, under the 128-byte swizzle; what lies out of bounds reads as zero.
fn tensor_map(
    call: &'static str,
    tensor: Tensor<'_, bf16, 2>,
    rows: usize,
) -> Result<sys::CUtensorMap, CudaError> {
    let [height, width] = tensor.shape;
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: every pointer is to a live array of the rank's length; the map is read only if the call wrote it.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            tensor.pointer as *mut std::ffi::c_void,
            [width as u64, height as u64].as_ptr(),
            [width as u64 * 2].as_ptr(),
            [DEPTH as u32, rows as u32].as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(|e| CudaError::Driver { call, shapes: format!("{tensor:?}"), source: e.into() })?;
        Ok(map.assume_init())
    }
}

#[cfg(test)]
mod tests {
    use super::tile_width;

    #[test]
    fn the_width_leaves_the_last_wave_full_where_it_can() {
        for (rows, features, width) in [
            (8192, 8192, 256),
            (4096, 4096, 256),
            (256, 4096, 64),
            (512, 6144, 192),
            (1024, 6144, 192),
            (1, 28672, 256),
        ] {
            assert_eq!(tile_width(rows, features, 132).0, width, "{rows} x {features}");
        }
    }
}
