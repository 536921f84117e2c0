//! NVIDIA's own matrix products, as judge of ours and to fall back on: cuBLASLt, found at run time.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::{result, sys};
use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::gemm::{checked, linear_bf16};
use super::tensor::{Buffer, Tensor, TensorMut};
use super::tuning;

/// What cuBLASLt may use for its partial sums: what NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Whose kernels do a linear layer.
#[derive(Debug)]
pub enum Backend<'a> {
    /// Ours: a row's bits do not depend on the rows around it.
    Tiny,
    /// cuBLASLt: which kernel, and with it the order of sums, changes with the number of rows.
    CublasLt(&'a mut CublasLt),
}

impl<'a> Backend<'a> {
    /// The faster one for `[rows, features, columns]` by the tuning table, which an H200 filled, as far as cuBLASLt is there; ours where the table has no row.
    pub fn fastest(shape: [usize; 3], library: Option<&'a mut CublasLt>) -> Self {
        match library {
            Some(library) if tuning::cublas_is_faster(shape) => Self::CublasLt(library),
            _ => Self::Tiny,
        }
    }
}

/// [`linear_bf16`] by the back end of the caller's choice.
///
/// # Errors
/// As [`linear_bf16`]; [`CudaError::Library`] where cuBLASLt refuses.
pub fn linear_bf16_by(
    backend: &mut Backend<'_>,
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weight: Tensor<'_, bf16, 2>,
) -> Result<(), CudaError> {
    match backend {
        Backend::Tiny => linear_bf16(stream, y, x, weight),
        Backend::CublasLt(library) => library.linear_bf16(stream, y, x, weight),
    }
}

/// An opened cuBLASLt with the kernels it chose, a shape each, and its workspace: for one stream at a time.
#[derive(Debug)]
pub struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: Buffer<u8>,
    plans: HashMap<[usize; 3], Plan>,
}

/// Descriptors of one shape, and the kernel the library's heuristic put first.
#[derive(Debug)]
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

fn refused(call: &'static str) -> impl Fn(result::CublasError) -> CudaError {
    move |e| CudaError::Library { call, library: "cuBLASLt", reason: format!("{:?}", e.0) }
}

impl CublasLt {
    /// Loads libcublasLt and takes 32 MiB of the GPU.
    ///
    /// # Errors
    /// [`CudaError::Library`] where it is not installed, or of no version this crate knows; [`CudaError::OutOfMemory`].
    pub fn open(stream: &Stream) -> Result<Self, CudaError> {
        const CALL: &str = "CublasLt::open";
        // SAFETY: only asks the loader whether the library exists; cudarc would panic on the first call otherwise.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::Library {
                call: CALL,
                library: "cuBLASLt",
                reason: "libcublasLt is not installed".into(),
            });
        }
        stream.device.bind(CALL)?;
        let workspace = Buffer::zeros(stream, WORKSPACE)?;
        let handle = result::create_handle().map_err(refused(CALL))?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    /// As [`linear_bf16`], by cuBLASLt.
    ///
    /// # Errors
    /// As [`linear_bf16`]; [`CudaError::Library`] where the library has no kernel for the shape or refuses to start it.
    pub fn linear_bf16(
        &mut self,
        stream: &Stream,
        y: &mut TensorMut<'_, bf16, 2>,
        x: Tensor<'_, bf16, 2>,
        weight: Tensor<'_, bf16, 2>,
    ) -> Result<(), CudaError> {
        const CALL: &str = "CublasLt::linear_bf16";
        let Some(shape) = checked(CALL, stream, y, x, weight)? else { return Ok(()) };
        stream.device.bind(CALL)?;
        if !self.plans.contains_key(&shape) {
            let plan = Plan::new(self.handle, shape).map_err(refused(CALL))?;
            self.plans.insert(shape, plan);
        }
        let plan = &self.plans[&shape];
        let workspace = self.workspace.view([WORKSPACE])?.pointer;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: the layouts are those of the checked tensors; alpha and beta are f32, as the descriptor says, and are read before it returns.
        unsafe {
            result::matmul(
                self.handle,
                plan.product,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&zero).cast(),
                pointer(weight.pointer),
                plan.weight,
                pointer(x.pointer),
                plan.x,
                pointer(y.view.pointer),
                plan.y,
                y.view.pointer as *mut c_void,
                plan.y,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream.raw.cast(),
            )
        }
        .map_err(refused(CALL))
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: created by `open`, destroyed only here, after its plans.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    /// The library counts columns first: yᵀ = W · xᵀ, with W `[features, columns]` read transposed.
    fn new(
        handle: sys::cublasLtHandle_t,
        [rows, features, columns]: [usize; 3],
    ) -> Result<Self, result::CublasError> {
        const BF16: sys::cudaDataType = sys::cudaDataType_t::CUDA_R_16BF;
        let layout = |first: usize, second: usize| {
            result::create_matrix_layout(BF16, first as u64, second as u64, first as i64)
        };
        let mut plan = Self {
            product: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            )?,
            weight: layout(columns, features)?,
            x: layout(columns, rows)?,
            y: layout(features, rows)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        let transposed: i32 = 1;
        let preference = result::create_matmul_pref()?;
        // SAFETY: attributes of the size their names ask for; everything passed was just created.
        let chosen = unsafe {
            result::set_matmul_desc_attribute(
                plan.product,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                std::ptr::from_ref(&transposed).cast(),
                size_of::<i32>(),
            )
            .and_then(|()| {
                result::set_matmul_pref_attribute(
                    preference,
                    sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                    std::ptr::from_ref(&WORKSPACE).cast(),
                    size_of::<usize>(),
                )
            })
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    handle,
                    plan.product,
                    plan.weight,
                    plan.x,
                    plan.y,
                    plan.y,
                    preference,
                )
            })
        };
        // SAFETY: created above, not used again.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        plan.algorithm = chosen?.algo;
        Ok(plan)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed only here; the library copied what queued work needs.
        unsafe {
            for layout in [self.weight, self.x, self.y] {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.product);
        }
    }
}
