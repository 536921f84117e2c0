//! Sorting, the linear layer with a tile or a back end of the caller's choice, the norm in place.

use std::ffi::{c_int, c_void};

use tinykernels::cuda::{
    Backend, CublasLt, SortWorkspace, Tile, add_rms_norm_in_place, linear_bf16_by, linear_bf16_tiled,
    sort_pairs_u32, sort_u32,
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
            Backend::fastest(shape, Some(&mut *library))
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
