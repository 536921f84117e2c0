//! Sorting on the GPU.

use std::sync::Arc;

use cudarc::driver::result;

use super::device::{Device, Stream};
use super::error::{CudaError, driver};
use super::launch::{Grid, argument, check, launch, shape_error};
use super::tensor::{Buffer, TensorMut};

const DIGITS: usize = 256;
const PASSES: usize = 4;
const THREADS: u32 = 512;
/// Keys of a tile, as in the kernels.
const TILE_KEYS: usize = 8192;
const TILE_PAIRS: usize = 6144;
/// Counts go into 30 bits.
const MOST: usize = (1 << 30) - 1;
/// Words of the workspace before the tiles' status: counts of every pass, and tickets in 64 bytes.
const HEAD: usize = PASSES * DIGITS + 16;

#[repr(C)]
struct Pass {
    keys_out: u64,
    keys: u64,
    values_out: u64,
    values: u64,
    starts: u64,
    status: u64,
    ticket: u64,
    n: i32,
    shift: i32,
}

/// Scratch of [`sort_u32`] and [`sort_pairs_u32`] for up to a number of keys, reusable on one stream.
#[derive(Debug)]
pub struct SortWorkspace {
    words: Buffer<u32>,
    keys: Buffer<u32>,
    values: Buffer<u32>,
}

impl SortWorkspace {
    /// For up to `keys` keys; `pairs` also makes room for their values. Takes 4 bytes a key, 8 with values, and an eighth more for counts.
    ///
    /// # Errors
    /// [`CudaError::Shape`] past 2^30 − 1 keys, [`CudaError::OutOfMemory`].
    pub fn new(stream: &Stream, keys: usize, pairs: bool) -> Result<Self, CudaError> {
        if keys > MOST {
            return Err(shape_error("SortWorkspace", format!("{keys} keys"), format!("at most {MOST} keys")));
        }
        let tile = if pairs { TILE_PAIRS } else { TILE_KEYS };
        Ok(Self {
            words: Buffer::zeros(stream, HEAD + PASSES * keys.div_ceil(tile) * DIGITS)?,
            keys: Buffer::zeros(stream, keys)?,
            values: Buffer::zeros(stream, if pairs { keys } else { 0 })?,
        })
    }
}

/// Sorts `keys` `[n]` ascending, in place; n under 2^30, 16-byte aligned. Four passes of eight bits (Adinets and Merrill, 2022).
/// Source: `cuda/primitives/sort.cu`.
///
/// # Errors
/// [`CudaError::Shape`] also where the workspace is too small, [`CudaError::Misaligned`], [`CudaError::WrongDevice`] before anything is written;
/// [`CudaError::Driver`] from a launch.
pub fn sort_u32(
    stream: &Stream,
    keys: &mut TensorMut<'_, u32, 1>,
    workspace: &mut SortWorkspace,
) -> Result<(), CudaError> {
    const CALL: &str = "sort_u32";
    check(CALL, stream, 16, &[("keys", keys.span())], &[])?;
    let n = keys.shape()[0];
    room(CALL, n, TILE_KEYS, workspace, false)?;
    let spare = workspace.keys.view([workspace.keys.len()])?.pointer;
    sort(CALL, stream, n, [keys.view.pointer, spare], None, workspace)
}

/// Sorts `keys` `[n]` ascending with the `values` `[n]` that belong to them, in place and stable: values of equal keys keep their order.
/// Source: `cuda/primitives/sort.cu`.
///
/// # Errors
/// As [`sort_u32`]; [`CudaError::Shape`] also unless there are as many values as keys, [`CudaError::Aliased`].
pub fn sort_pairs_u32(
    stream: &Stream,
    keys: &mut TensorMut<'_, u32, 1>,
    values: &mut TensorMut<'_, u32, 1>,
    workspace: &mut SortWorkspace,
) -> Result<(), CudaError> {
    const CALL: &str = "sort_pairs_u32";
    let n = keys.shape()[0];
    if values.shape()[0] != n {
        return Err(shape_error(CALL, format!("keys {keys:?}, values {values:?}"), "one value a key"));
    }
    check(CALL, stream, 16, &[("keys", keys.span()), ("values", values.span())], &[])?;
    room(CALL, n, TILE_PAIRS, workspace, true)?;
    let spare = workspace.keys.view([workspace.keys.len()])?.pointer;
    let spare_values = workspace.values.view([workspace.values.len()])?.pointer;
    sort(CALL, stream, n, [keys.view.pointer, spare], Some([values.view.pointer, spare_values]), workspace)
}

fn room(
    call: &'static str,
    n: usize,
    tile: usize,
    workspace: &SortWorkspace,
    pairs: bool,
) -> Result<(), CudaError> {
    let words = HEAD + PASSES * n.div_ceil(tile) * DIGITS;
    if n > MOST
        || n > workspace.keys.len()
        || pairs && n > workspace.values.len()
        || words > workspace.words.len()
    {
        return Err(shape_error(
            call,
            format!("{n} keys in a workspace for {}", workspace.keys.len()),
            "at most 2^30 - 1 keys, and no more than the workspace was made for (with pairs, where there are values)",
        ));
    }
    Ok(())
}

/// Keys and values lie in, and end in, the first of their two places.
fn sort(
    call: &'static str,
    stream: &Stream,
    n: usize,
    keys: [u64; 2],
    values: Option<[u64; 2]>,
    workspace: &SortWorkspace,
) -> Result<(), CudaError> {
    if n < 2 {
        return Ok(());
    }
    let device: &Arc<Device> = &stream.device;
    let m = &device.modules;
    let tile = if values.is_some() { TILE_PAIRS } else { TILE_KEYS };
    let tiles = n.div_ceil(tile);
    let counts = workspace.words.view([workspace.words.len()])?.pointer;
    let word = |index: usize| counts + 4 * index as u64;
    device.bind(call)?;
    // SAFETY: the range lies in the workspace, as `room` checked.
    unsafe { result::memset_d8_async(counts, 0, 4 * (HEAD + PASSES * tiles * DIGITS), stream.raw) }
        .map_err(driver(call))?;
    let shapes = || format!("{n} keys");
    let length = n as i32;
    let grid = |blocks: usize, threads: u32, shared: usize| Grid {
        blocks: (blocks as u32, 1),
        threads,
        shared: shared as u32,
    };
    let blocks = n.div_ceil(THREADS as usize * 4).min(4 * device.multiprocessors as usize);
    // SAFETY: parameters in the kernels' order; reads and writes lie in n keys and values and in the words counted above.
    unsafe {
        let mut arguments = [argument(&counts), argument(&keys[0]), argument(&length)];
        launch(call, stream, m.radix_histogram, grid(blocks, THREADS, 0), &mut arguments, shapes)?;
        let mut arguments = [argument(&counts)];
        launch(call, stream, m.radix_starts, grid(1, (PASSES * DIGITS) as u32, 0), &mut arguments, shapes)?;
    }
    for pass in 0..PASSES {
        let (from, to) = (pass % 2, 1 - pass % 2);
        let problem = Pass {
            keys_out: keys[to],
            keys: keys[from],
            values_out: values.map_or(0, |v| v[to]),
            values: values.map_or(0, |v| v[from]),
            starts: word(pass * DIGITS),
            status: word(HEAD + pass * tiles * DIGITS),
            ticket: word(PASSES * DIGITS + pass),
            n: length,
            shift: 8 * pass as i32,
        };
        let (kernel, shared) =
            if values.is_some() { (m.radix_pass_pairs, 8 * tile) } else { (m.radix_pass_keys, 4 * tile) };
        // SAFETY: as above; the struct mirrors the kernel's.
        unsafe {
            launch(call, stream, kernel, grid(tiles, THREADS, shared), &mut [argument(&problem)], shapes)?;
        }
    }
    Ok(())
}
