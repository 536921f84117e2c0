//! Tensor maps: what the copy engine is told of a tensor.

use std::mem::MaybeUninit;

use cudarc::driver::sys;

use super::error::CudaError;

/// Boxes of a tensor of 2-byte or 1-byte elements in device memory under the 128-byte swizzle (rows of 64 bytes: under theirs); what lies out of
/// bounds reads as zero.
///
/// `extents` and `box_extents` in elements, fastest first; `strides` in bytes, from the second dimension on.
pub(super) fn boxes<const RANK: usize>(
    call: &'static str,
    address: sys::CUdeviceptr,
    element_bytes: usize,
    extents: [u64; RANK],
    strides: &[u64],
    box_extents: [u32; RANK],
) -> Result<sys::CUtensorMap, CudaError> {
    fetched_boxes(call, address, element_bytes, extents, strides, box_extents, Fetch::Bytes128)
}

/// How much of memory comes to L2 where less is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// A line.
    Bytes128,
    /// Two: rows far apart, each walked to its end by several blocks.
    Bytes256,
}

/// [`boxes`] with a choice of what is fetched.
pub(super) fn fetched_boxes<const RANK: usize>(
    call: &'static str,
    address: sys::CUdeviceptr,
    element_bytes: usize,
    extents: [u64; RANK],
    strides: &[u64],
    box_extents: [u32; RANK],
    fetch: Fetch,
) -> Result<sys::CUtensorMap, CudaError> {
    debug_assert_eq!(strides.len() + 1, RANK);
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: every pointer is to a live array of the rank's length (strides: one fewer); the map is read only if the call wrote it.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            if element_bytes == 1 {
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8
            } else {
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
            },
            RANK as u32,
            address as *mut std::ffi::c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            box_extents.as_ptr(),
            [1; RANK].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            if box_extents[0] as usize * element_bytes == 64 {
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B
            } else {
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
            },
            match fetch {
                Fetch::Bytes128 => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                Fetch::Bytes256 => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            },
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(|e| CudaError::Driver {
            call,
            shapes: format!("boxes {box_extents:?} of {extents:?}"),
            source: e.into(),
        })?;
        Ok(map.assume_init())
    }
}

/// [`boxes`] of bf16.
pub(super) fn bf16_boxes<const RANK: usize>(
    call: &'static str,
    address: sys::CUdeviceptr,
    extents: [u64; RANK],
    strides: &[u64],
    box_extents: [u32; RANK],
) -> Result<sys::CUtensorMap, CudaError> {
    boxes(call, address, 2, extents, strides, box_extents)
}
