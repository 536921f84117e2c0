//! Tensor maps: what the copy engine is told of a tensor.

use std::mem::MaybeUninit;

use cudarc::driver::sys;

use super::error::CudaError;

/// Boxes of a tensor of 2-byte or 1-byte elements in device memory under the 128-byte swizzle (rows of 64 bytes: under theirs).
///
/// Extents in elements, fastest first.
pub(super) struct Boxes<'a, const RANK: usize> {
    pub address: sys::CUdeviceptr,
    pub element_bytes: usize,
    pub extents: [u64; RANK],
    /// In bytes, from the second dimension on.
    pub strides: &'a [u64],
    /// Of a box.
    pub each: [u32; RANK],
    pub fetch: Fetch,
    pub outside: Outside,
}

/// How much of memory comes to L2 where less is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// A line.
    Bytes128,
    /// Two: rows far apart, each walked to its end by several blocks.
    Bytes256,
}

/// What is read of a box that reaches past the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    Zeros,
    /// Not numbers: of tensors of which nothing outside belongs into a result.
    NotNumbers,
}

impl<'a, const RANK: usize> Boxes<'a, RANK> {
    /// Of bf16, a line fetched at a time, zeros outside.
    pub fn of_bf16(
        address: sys::CUdeviceptr,
        extents: [u64; RANK],
        strides: &'a [u64],
        each: [u32; RANK],
    ) -> Self {
        Self {
            address,
            element_bytes: 2,
            extents,
            strides,
            each,
            fetch: Fetch::Bytes128,
            outside: Outside::Zeros,
        }
    }

    /// What the copy engine is given.
    pub fn map(&self, call: &'static str) -> Result<sys::CUtensorMap, CudaError> {
        debug_assert_eq!(self.strides.len() + 1, RANK);
        let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
        // SAFETY: every pointer is to a live array of the rank's length (strides: one fewer); the map is read only if the call wrote it.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                if self.element_bytes == 1 {
                    sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8
                } else {
                    sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                },
                RANK as u32,
                self.address as *mut std::ffi::c_void,
                self.extents.as_ptr(),
                self.strides.as_ptr(),
                self.each.as_ptr(),
                [1; RANK].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                if self.each[0] as usize * self.element_bytes == 64 {
                    sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B
                } else {
                    sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
                },
                match self.fetch {
                    Fetch::Bytes128 => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                    Fetch::Bytes256 => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                },
                match self.outside {
                    Outside::Zeros => sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                    Outside::NotNumbers => {
                        sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
                    }
                },
            )
            .result()
            .map_err(|e| CudaError::Driver {
                call,
                shapes: format!("boxes {:?} of {:?}", self.each, self.extents),
                source: e.into(),
            })?;
            Ok(map.assume_init())
        }
    }
}
