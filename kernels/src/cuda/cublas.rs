//! NVIDIA's own matrix products, as judge of ours and to fall back on: cuBLASLt, found at run time.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::{result, sys};
use half::bf16;

use super::device::{Device, Stream};
use super::error::CudaError;
use super::gemm::{checked, linear_bf16};
use super::launch::shape_error;
use super::linear::{self, Epilogue, Operand, OperandKind, Scales, linear};
use super::tensor::{Buffer, Tensor, TensorMut};

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
    /// The faster one for `[rows, features, columns]` by the GPU's tuning table, as far as cuBLASLt is there; ours where the table has no row.
    pub fn fastest(
        device: &Device,
        kind: OperandKind,
        shape: [usize; 3],
        library: Option<&'a mut CublasLt>,
    ) -> Self {
        match library {
            Some(library) if device.tuning.cublas_is_faster(kind, shape) => Self::CublasLt(library),
            _ => Self::Tiny,
        }
    }
}

/// [`linear_bf16`] by the back end of the caller's choice.
/// Source: of ours as there; of cuBLASLt, NVIDIA's library, whose workspace its handle holds.
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

/// [`linear`] without an epilogue, by the back end of the caller's choice.
/// Source: of ours as there; of cuBLASLt, NVIDIA's library, whose workspace its handle holds.
///
/// # Errors
/// As [`linear`]; by cuBLASLt [`CudaError::Shape`] for int8 and for other scales than one a tensor, [`CudaError::Library`] where it refuses.
pub fn linear_by<T: Operand>(
    backend: &mut Backend<'_>,
    stream: &Stream,
    y: &mut TensorMut<'_, T::Output, 2>,
    x: Tensor<'_, T, 2>,
    weight: Tensor<'_, T, 2>,
    scales: Option<Scales<'_>>,
) -> Result<(), CudaError> {
    match backend {
        Backend::Tiny => linear(stream, y, x, weight, scales, Epilogue::default()),
        Backend::CublasLt(library) => library.linear(stream, y, x, weight, scales),
    }
}

/// An opened cuBLASLt with the kernels it chose, a shape each, and its workspace: for one stream at a time.
#[derive(Debug)]
pub struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: Buffer<u8>,
    plans: HashMap<(OperandKind, [usize; 3]), Plan>,
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
        self.multiply(
            CALL,
            stream,
            (OperandKind::Bf16, shape),
            [y.view.pointer, x.pointer, weight.pointer],
            None,
        )
    }

    /// As [`linear`] without an epilogue, by cuBLASLt: bf16 and fp16, and e4m3 with one scale for all of x and one for all of the weight.
    ///
    /// # Errors
    /// As [`linear_by`].
    pub fn linear<T: Operand>(
        &mut self,
        stream: &Stream,
        y: &mut TensorMut<'_, T::Output, 2>,
        x: Tensor<'_, T, 2>,
        weight: Tensor<'_, T, 2>,
        scales: Option<Scales<'_>>,
    ) -> Result<(), CudaError> {
        const CALL: &str = "CublasLt::linear";
        let of_tensors = scales.is_none_or(|s| s.x.shape == [1] && s.weight.shape == [1]);
        if T::KIND == OperandKind::Int8 || (T::KIND == OperandKind::E4m3) != scales.is_some() || !of_tensors {
            return Err(shape_error(
                CALL,
                format!("x {x:?}, weight {weight:?}, scales {scales:?}"),
                "cuBLASLt multiplies bf16 and fp16 without scales, e4m3 with one of x and one of the weight",
            ));
        }
        let spans = scales.map(|s| [("x scale", s.x.span()), ("weight scale", s.weight.span())]);
        let spans = spans.as_ref().map_or(&[][..], |s| &s[..]);
        let Some(call) = linear::checked(CALL, stream, y, x, weight, Epilogue::default(), spans)? else {
            return Ok(());
        };
        let shape = [call.rows, call.features, call.columns];
        let scales = scales.map(|s| [s.x.pointer, s.weight.pointer]);
        self.multiply(CALL, stream, (T::KIND, shape), [y.view.pointer, call.x, call.weight], scales)
    }

    /// The product of checked tensors `[y, x, weight]`, with the addresses of their scales.
    fn multiply(
        &mut self,
        call: &'static str,
        stream: &Stream,
        key: (OperandKind, [usize; 3]),
        [y, x, weight]: [u64; 3],
        scales: Option<[u64; 2]>,
    ) -> Result<(), CudaError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;

        stream.device.bind(call)?;
        if !self.plans.contains_key(&key) {
            let plan = Plan::new(self.handle, key).map_err(refused(call))?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        if let Some([of_x, of_weight]) = scales {
            // The weight is the library's first operand.
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &of_weight).map_err(refused(call))?;
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &of_x).map_err(refused(call))?;
        }
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
                pointer(weight),
                plan.weight,
                pointer(x),
                plan.x,
                pointer(y),
                plan.y,
                y as *mut c_void,
                plan.y,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream.raw.cast(),
            )
        }
        .map_err(refused(call))
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
        (kind, [rows, features, columns]): (OperandKind, [usize; 3]),
    ) -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cudaDataType_t as Type;

        let (operand, output) = match kind {
            OperandKind::F16 => (Type::CUDA_R_16F, Type::CUDA_R_16F),
            OperandKind::E4m3 => (Type::CUDA_R_8F_E4M3, Type::CUDA_R_16BF),
            OperandKind::Bf16 | OperandKind::Int8 => (Type::CUDA_R_16BF, Type::CUDA_R_16BF),
        };
        let layout = |of: Type, first: usize, second: usize| {
            result::create_matrix_layout(of, first as u64, second as u64, first as i64)
        };
        let mut plan = Self {
            product: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                Type::CUDA_R_32F,
            )?,
            weight: layout(operand, columns, features)?,
            x: layout(operand, columns, rows)?,
            y: layout(output, features, rows)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &1_i32)?;
        if kind == OperandKind::E4m3 {
            // Sums in the tensor cores' own precision, as ours.
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &1_i8)?;
        }
        let preference = result::create_matmul_pref()?;
        // SAFETY: an attribute of the size its name asks for; everything passed was just created.
        let chosen = unsafe {
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                std::ptr::from_ref(&WORKSPACE).cast(),
                size_of::<usize>(),
            )
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

    /// Sets an attribute of the product to a value of the type that its name asks for.
    fn set<V>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: &V,
    ) -> Result<(), result::CublasError> {
        // SAFETY: the value is of its own size, and copied; a size that is not the attribute's is refused.
        unsafe {
            result::set_matmul_desc_attribute(
                self.product,
                attribute,
                std::ptr::from_ref(value).cast(),
                size_of::<V>(),
            )
        }
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
