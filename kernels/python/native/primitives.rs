//! Sorting and the other primitives, the linear layer with a tile or a back end of the caller's choice, the norm in place.

use std::ffi::{c_int, c_void};

use tinykernels::cuda::{
    Backend, CublasLt, OperandKind, Reduction, Scratch, SortWorkspace, Tile, add_rms_norm_in_place,
    histogram_u32, linear_bf16_by, linear_bf16_tiled, reduce, scan_u32, sort_pairs_u32, sort_u32, top_k,
    transpose,
};

use super::{Handle, input, made, output, status, stream};

/// # Safety
/// Pointers as the shapes say, on the handle's GPU. `few` is 1 for the kernel for few rows, `tile` its features.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_linear_bf16_tiled(
    handle: *const Handle,
    queue: *mut c_void,
    y: u64,
    x: u64,
    weight: u64,
    rows: usize,
    features: usize,
    columns: usize,
    few: c_int,
    tile: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        status(linear_bf16_tiled(
            &stream(handle, queue),
            &mut output(y, [rows, features]),
            input(x, [rows, columns]),
            input(weight, [features, columns]),
            if few == 1 { Tile::Few { features: tile } } else { Tile::Many { features: tile } },
        ))
    }
}

/// Scratch for [`tk_sort_u32`]; null on error.
///
/// # Safety
/// `handle` is from [`super::tk_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_sort_workspace(
    handle: *const Handle,
    keys: usize,
    pairs: c_int,
) -> *mut SortWorkspace {
    // SAFETY: the caller's promise.
    unsafe { made(handle, |stream| SortWorkspace::new(stream, keys, pairs == 1)) }
}

/// # Safety
/// `workspace` is from [`tk_sort_workspace`] and not used again; its work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_sort_workspace_free(workspace: *mut SortWorkspace) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(workspace) });
}

/// Keys alone where `values` is 0.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU; `workspace` is from [`tk_sort_workspace`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_sort_u32(
    handle: *const Handle,
    queue: *mut c_void,
    keys: u64,
    values: u64,
    n: usize,
    workspace: *mut SortWorkspace,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (stream, mut keys) = (stream(handle, queue), output(keys, [n]));
        status(if values == 0 {
            sort_u32(&stream, &mut keys, &mut *workspace)
        } else {
            sort_pairs_u32(&stream, &mut keys, &mut output(values, [n]), &mut *workspace)
        })
    }
}

/// Opens cuBLASLt; null on error.
///
/// # Safety
/// `handle` is from [`super::tk_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_cublaslt_open(handle: *const Handle) -> *mut CublasLt {
    // SAFETY: the caller's promise.
    unsafe { made(handle, CublasLt::open) }
}

/// The linear layer by cuBLASLt, or by whichever the tuning table says is faster where `fastest` is 1.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU; `library` is from [`tk_cublaslt_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_linear_bf16_by(
    handle: *const Handle,
    queue: *mut c_void,
    y: u64,
    x: u64,
    weight: u64,
    rows: usize,
    features: usize,
    columns: usize,
    library: *mut CublasLt,
    fastest: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let shape = [rows, features, columns];
        let mut backend = if fastest == 1 {
            Backend::fastest(&(*handle).0, OperandKind::Bf16, shape, Some(&mut *library))
        } else {
            Backend::CublasLt(&mut *library)
        };
        status(linear_bf16_by(
            &mut backend,
            &stream(handle, queue),
            &mut output(y, [rows, features]),
            input(x, [rows, columns]),
            input(weight, [features, columns]),
        ))
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_add_rms_norm_in_place(
    handle: *const Handle,
    queue: *mut c_void,
    x: u64,
    residual: u64,
    weight: u64,
    rows: usize,
    hidden: usize,
    epsilon: f32,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        status(add_rms_norm_in_place(
            &stream(handle, queue),
            &mut output(x, [rows, hidden]),
            &mut output(residual, [rows, hidden]),
            input(weight, [hidden]),
            epsilon,
        ))
    }
}

/// Scratch for [`tk_reduce`] and [`tk_scan`]; null on error.
///
/// # Safety
/// `handle` is from [`super::tk_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_scratch(handle: *const Handle, elements: usize) -> *mut Scratch {
    // SAFETY: the caller's promise.
    unsafe { made(handle, |stream| Scratch::new(stream, elements)) }
}

/// `with` is 0 for the sum, 1 for the greatest, 2 for the least.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU; `scratch` is from [`tk_scratch`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_reduce(
    handle: *const Handle,
    queue: *mut c_void,
    out: u64,
    x: u64,
    n: usize,
    with: c_int,
    scratch: *mut Scratch,
) -> c_int {
    let with = [Reduction::Sum, Reduction::Max, Reduction::Min][with.clamp(0, 2) as usize];
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = output(out, [1]);
        status(reduce(&stream(handle, queue), &mut out, input(x, [n]), with, &mut *scratch))
    }
}

/// # Safety
/// As [`tk_reduce`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_scan(
    handle: *const Handle,
    queue: *mut c_void,
    out: u64,
    x: u64,
    n: usize,
    exclusive: c_int,
    scratch: *mut Scratch,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = output(out, [n]);
        status(scan_u32(&stream(handle, queue), &mut out, input(x, [n]), exclusive == 1, &mut *scratch))
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_histogram(
    handle: *const Handle,
    queue: *mut c_void,
    counts: u64,
    bins: usize,
    x: u64,
    n: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { status(histogram_u32(&stream(handle, queue), &mut output(counts, [bins]), input(x, [n]))) }
}

/// `wide` is 1 for elements of 4 bytes, 0 for 2.
///
/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_transpose(
    handle: *const Handle,
    queue: *mut c_void,
    out: u64,
    x: u64,
    rows: usize,
    columns: usize,
    wide: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (stream, shape) = (stream(handle, queue), [rows, columns]);
        status(if wide == 1 {
            transpose::<f32>(&stream, &mut output(out, [columns, rows]), input(x, shape))
        } else {
            transpose::<half::bf16>(&stream, &mut output(out, [columns, rows]), input(x, shape))
        })
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_top_k(
    handle: *const Handle,
    queue: *mut c_void,
    values: u64,
    places: u64,
    x: u64,
    rows: usize,
    columns: usize,
    k: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (mut values, mut places) = (output(values, [rows, k]), output(places, [rows, k]));
        status(top_k(&stream(handle, queue), &mut values, &mut places, input(x, [rows, columns])))
    }
}
