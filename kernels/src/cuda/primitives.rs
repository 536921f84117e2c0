//! Sums over all, running sums, counts, transposition and the greatest of a row.

use cudarc::driver::result;

use super::device::Stream;
use super::error::{CudaError, driver};
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Buffer, Element, Tensor, TensorMut};

/// Elements of a tile, threads of a block, as in the kernels.
const REDUCE_TILE: usize = 512 * 8 * 4;
const SCAN_TILE: usize = 512 * 8 * 4;
const THREADS: u32 = 512;
/// Side of a tile of the transposition.
const SQUARE: usize = 64;
/// Words before the tiles' own: a count of blocks that are done, a ticket.
const HEAD: usize = 4;
/// Counts of a block fit into what two blocks of a multiprocessor share.
const HISTOGRAM_BYTES: usize = 96 * 1024;
const MOST_BINS: usize = HISTOGRAM_BYTES / 4 - 1;
const MOST_ELEMENTS: usize = 1 << 40;

/// Scratch of [`reduce`] and [`scan_u32`] for up to a number of elements, reusable on one stream.
#[derive(Debug)]
pub struct Scratch {
    words: Buffer<u64>,
    elements: usize,
}

impl Scratch {
    /// Takes a byte for every 2,048 elements.
    ///
    /// # Errors
    /// [`CudaError::Shape`] past 2^40 elements, [`CudaError::OutOfMemory`].
    pub fn new(stream: &Stream, elements: usize) -> Result<Self, CudaError> {
        if elements > MOST_ELEMENTS {
            return Err(shape_error("Scratch", format!("{elements} elements"), "at most 2^40"));
        }
        // `reduce` of nothing has a tile too, of no numbers.
        let tiles = elements.div_ceil(SCAN_TILE).max(1);
        Ok(Self { words: Buffer::zeros(stream, HEAD + tiles)?, elements })
    }

    fn room(&self, call: &'static str, elements: usize) -> Result<u64, CudaError> {
        if elements > self.elements {
            let found = format!("{elements} elements with scratch for {}", self.elements);
            return Err(shape_error(call, found, "no more than the scratch was made for"));
        }
        Ok(self.words.view([self.words.len()])?.pointer)
    }
}

/// How [`reduce`] joins numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// 0 of nothing.
    Sum,
    /// −∞ of nothing; a NaN wins.
    Max,
    /// ∞ of nothing; a NaN wins.
    Min,
}

/// `out[0] ←` all of `x` `[n]` joined; f32, x 16-byte aligned. The order of a sum follows from n alone: the same bits in every run.
/// Source: `cuda/primitives/reduce.cu`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn reduce(
    stream: &Stream,
    out: &mut TensorMut<'_, f32, 1>,
    x: Tensor<'_, f32, 1>,
    with: Reduction,
    scratch: &mut Scratch,
) -> Result<(), CudaError> {
    const CALL: &str = "reduce";
    let n = x.shape[0];
    if out.shape() != [1] || n.div_ceil(REDUCE_TILE) > i32::MAX as usize {
        return Err(shape_error(CALL, format!("out {out:?}, x {x:?}"), "out is [1], x under 2^45 numbers"));
    }
    let done = scratch.room(CALL, n)?;
    check(CALL, stream, 16, &[], &[("x", x.span())])?;
    check(CALL, stream, 4, &[("out", out.span())], &[("x", x.span())])?;
    let (partials, count) = (done + 8 * HEAD as u64, n as i64);
    let m = &stream.device.modules;
    let kernel = match with {
        Reduction::Sum => m.reduce_sum,
        Reduction::Max => m.reduce_max,
        Reduction::Min => m.reduce_min,
    };
    let mut arguments = [
        argument(&out.view.pointer),
        argument(&x.pointer),
        argument(&partials),
        argument(&done),
        argument(&count),
    ];
    let grid = Grid { blocks: (n.div_ceil(REDUCE_TILE).max(1) as u32, 1), threads: THREADS, shared: 0 };
    // SAFETY: parameters in the kernel's order; the scratch has a word for every tile.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// `out[i] ← x[0] + … + x[i]` modulo 2^32, without `x[i]` when `exclusive`; `[n]`, 16-byte aligned. One pass (Merrill and Garland, 2016).
/// Source: `cuda/primitives/scan.cu`.
///
/// # Errors
/// As [`reduce`].
pub fn scan_u32(
    stream: &Stream,
    out: &mut TensorMut<'_, u32, 1>,
    x: Tensor<'_, u32, 1>,
    exclusive: bool,
    scratch: &mut Scratch,
) -> Result<(), CudaError> {
    const CALL: &str = "scan_u32";
    let n = x.shape[0];
    let tiles = n.div_ceil(SCAN_TILE);
    if out.shape() != x.shape || tiles > i32::MAX as usize {
        return Err(shape_error(
            CALL,
            format!("out {out:?}, x {x:?}"),
            "out and x have one length, under 2^44",
        ));
    }
    let words = scratch.room(CALL, n)?;
    check(CALL, stream, 16, &[("out", out.span())], &[("x", x.span())])?;
    if n == 0 {
        return Ok(());
    }
    stream.device.bind(CALL)?;
    // SAFETY: the scratch has a word for every tile, as `room` checked.
    unsafe { result::memset_d8_async(words, 0, 8 * (HEAD + tiles), stream.raw) }.map_err(driver(CALL))?;
    let (status, ticket, count) = (words + 8 * HEAD as u64, words + 8, n as i64);
    let m = &stream.device.modules;
    let kernel = if exclusive { m.scan_exclusive } else { m.scan_inclusive };
    let mut arguments = [
        argument(&out.view.pointer),
        argument(&x.pointer),
        argument(&status),
        argument(&ticket),
        argument(&count),
    ];
    let grid = Grid { blocks: (tiles as u32, 1), threads: THREADS, shared: 0 };
    // SAFETY: parameters in the kernel's order; reads and writes lie in n numbers and a word a tile.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// `counts[b] ←` how often b occurs in `x` `[n]`; numbers that are no bin are passed over. Up to 24,575 bins, x 16-byte aligned.
/// Source: `cuda/primitives/histogram.cu`.
///
/// # Errors
/// As [`reduce`].
pub fn histogram_u32(
    stream: &Stream,
    counts: &mut TensorMut<'_, u32, 1>,
    x: Tensor<'_, u32, 1>,
) -> Result<(), CudaError> {
    const CALL: &str = "histogram_u32";
    let ([bins], n) = (counts.shape(), x.shape[0]);
    if bins == 0 || bins > MOST_BINS || n > u32::MAX as usize {
        return Err(shape_error(
            CALL,
            format!("counts {counts:?}, x {x:?}"),
            format!("1 to {MOST_BINS} bins, under 2^32 numbers"),
        ));
    }
    check(CALL, stream, 16, &[], &[("x", x.span())])?;
    check(CALL, stream, 4, &[("counts", counts.span())], &[("x", x.span())])?;
    stream.device.bind(CALL)?;
    // SAFETY: the range is the counts'.
    unsafe { result::memset_d8_async(counts.view.pointer, 0, 4 * bins, stream.raw) }.map_err(driver(CALL))?;
    if n == 0 {
        return Ok(());
    }
    let copies = (HISTOGRAM_BYTES / (4 * (bins + 1))).clamp(1, THREADS as usize / 32);
    let (count, bin_count, copy_count) = (n as i64, bins as i32, copies as i32);
    let mut arguments = [
        argument(&counts.view.pointer),
        argument(&x.pointer),
        argument(&count),
        argument(&bin_count),
        argument(&copy_count),
    ];
    let most = 2 * stream.device.multiprocessors as usize;
    let blocks = n.div_ceil(THREADS as usize * 16).min(most) as u32;
    let grid = Grid { blocks: (blocks, 1), threads: THREADS, shared: (copies * (bins + 1) * 4) as u32 };
    let kernel = stream.device.modules.histogram;
    // SAFETY: parameters in the kernel's order; numbers past the bins touch nothing.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("counts {counts:?}, x {x:?}")) }
}

/// `out[c, r] ← x[r, c]`, elements of 2 or 4 bytes; 4-byte aligned.
/// Source: `cuda/primitives/transpose.cu`.
///
/// # Errors
/// As [`reduce`].
pub fn transpose<T: Element>(
    stream: &Stream,
    out: &mut TensorMut<'_, T, 2>,
    x: Tensor<'_, T, 2>,
) -> Result<(), CudaError> {
    const CALL: &str = "transpose";
    let [rows, columns] = x.shape;
    let tiles = rows.div_ceil(SQUARE).saturating_mul(columns.div_ceil(SQUARE));
    let most = i32::MAX as usize;
    if out.shape() != [columns, rows]
        || !matches!(size_of::<T>(), 2 | 4)
        || tiles > most
        || rows.max(columns) > most - 64
    {
        return Err(shape_error(
            CALL,
            format!("out {out:?}, x {x:?}"),
            "out is [columns, rows] of x [rows, columns], elements of 2 or 4 bytes, under 2^31 tiles of 64 × 64",
        ));
    }
    check(CALL, stream, 4, &[("out", out.span())], &[("x", x.span())])?;
    if tiles == 0 {
        return Ok(());
    }
    let m = &stream.device.modules;
    let kernel = if size_of::<T>() == 2 { m.transpose_16 } else { m.transpose_32 };
    let (row_count, column_count) = (rows as i32, columns as i32);
    let mut arguments =
        [argument(&out.view.pointer), argument(&x.pointer), argument(&row_count), argument(&column_count)];
    let grid = Grid { blocks: (tiles as u32, 1), threads: 256, shared: 0 };
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe { launch(CALL, stream, kernel, grid, &mut arguments, || format!("x {x:?}")) }
}

/// `values[r, i]`, `places[r, i] ←` the i-th greatest of row r of `x` `[rows, columns]` and where it lies; ties go to the lower place, NaN ranks first.
///
/// `values`, `places` `[rows, k]`, k 1 to 1,024; columns a multiple of 4, at least k; x 16-byte aligned.
/// Source: `cuda/primitives/topk.cu`, a selection by digits.
///
/// # Errors
/// As [`reduce`].
pub fn top_k(
    stream: &Stream,
    values: &mut TensorMut<'_, f32, 2>,
    places: &mut TensorMut<'_, i32, 2>,
    x: Tensor<'_, f32, 2>,
) -> Result<(), CudaError> {
    const CALL: &str = "top_k";
    let ([rows, columns], [of, k]) = (x.shape, values.shape());
    let fits = of == rows && places.shape() == values.shape() && k <= columns;
    if !fits || !(1..=1024).contains(&k) || columns % 4 != 0 || columns.max(rows) > 1 << 30 {
        return Err(shape_error(
            CALL,
            format!("values {values:?}, places {places:?}, x {x:?}"),
            "values and places are [rows, k] for x [rows, columns], k 1 to 1024, columns a multiple of 4 and at least k",
        ));
    }
    check(CALL, stream, 16, &[], &[("x", x.span())])?;
    check(CALL, stream, 4, &[("values", values.span()), ("places", places.span())], &[("x", x.span())])?;
    if rows == 0 {
        return Ok(());
    }
    let (column_count, k) = (columns as i32, k as i32);
    let mut arguments = [
        argument(&values.view.pointer),
        argument(&places.view.pointer),
        argument(&x.pointer),
        argument(&column_count),
        argument(&k),
    ];
    let grid = Grid { blocks: (rows as u32, 1), threads: 1024, shared: 0 };
    // SAFETY: parameters in the kernel's order; the checks above cover its reads and writes.
    unsafe {
        launch(CALL, stream, stream.device.modules.topk_f32, grid, &mut arguments, || format!("x {x:?}"))
    }
}
