//! What every call checks, and the launch itself.

use std::ffi::c_void;

use cudarc::driver::{result, sys};

use super::device::Stream;
use super::error::CudaError;
use super::module::Kernel;
use super::tensor::Span;

/// A named argument in device memory.
pub(super) type Named = (&'static str, Span);

/// Alignment, placement and aliasing of a call's tensors: every tensor on the stream's GPU and aligned to `align` bytes, every output apart
/// from every other tensor.
pub(super) fn check(
    call: &'static str,
    stream: &Stream,
    align: u64,
    outputs: &[Named],
    inputs: &[Named],
) -> Result<(), CudaError> {
    for &(tensor, span) in outputs.iter().chain(inputs) {
        if span.device.is_some_and(|d| !std::ptr::eq(d, std::sync::Arc::as_ptr(&stream.device))) {
            return Err(CudaError::WrongDevice { call, tensor });
        }
        if span.bytes > 0 && span.start % align != 0 {
            return Err(CudaError::Misaligned { call, tensor, address: span.start, align });
        }
        if span.bytes > 0 && (span.start == 0 || span.start.checked_add(span.bytes).is_none()) {
            return Err(CudaError::Shape {
                call,
                found: format!("{tensor} of {} bytes at {:#x}", span.bytes, span.start),
                limit: "tensors lie in device memory".into(),
            });
        }
    }
    for (i, &(output, a)) in outputs.iter().enumerate() {
        let others = outputs[i + 1..].iter().chain(inputs);
        for &(other, b) in others {
            if a.bytes > 0 && b.bytes > 0 && a.start < b.start + b.bytes && b.start < a.start + a.bytes {
                return Err(CudaError::Aliased { call, output, other });
            }
        }
    }
    // Last, as it asks the driver: tensors of another library, of which the address alone is known.
    let foreign = |(_, span): &&Named| span.device.is_none() && span.bytes > 0;
    for &(tensor, span) in outputs.iter().chain(inputs).filter(foreign) {
        if !stream.device.holds(call, span.start)? {
            return Err(CudaError::WrongDevice { call, tensor });
        }
    }
    Ok(())
}

pub(super) fn shape_error(call: &'static str, found: String, limit: impl Into<String>) -> CudaError {
    CudaError::Shape { call, found, limit: limit.into() }
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub blocks: (u32, u32),
    pub threads: u32,
    pub shared: u32,
}

/// Queues a kernel.
///
/// # Safety
/// `arguments` point to values of the kernel's parameter types, in order, and the memory they name is valid for what the kernel does.
pub(super) unsafe fn launch(
    call: &'static str,
    stream: &Stream,
    kernel: Kernel,
    grid: Grid,
    arguments: &mut [*mut c_void],
    shapes: impl FnOnce() -> String,
) -> Result<(), CudaError> {
    stream.device.bind(call)?;
    // SAFETY: the function lives as long as the device; the arguments are the caller's promise.
    let outcome = unsafe {
        // The limit of 48 KB without it counts static shared memory too, of which no kernel has over 24 KB.
        if grid.shared > 24 * 1024 {
            result::function::set_function_attribute(
                kernel.0,
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                grid.shared as i32,
            )
        } else {
            Ok(())
        }
        .and_then(|()| {
            result::launch_kernel(
                kernel.0,
                (grid.blocks.0, grid.blocks.1, 1),
                (grid.threads, 1, 1),
                grid.shared,
                stream.raw,
                arguments,
            )
        })
    };
    outcome.map_err(|e| CudaError::Driver { call, shapes: shapes(), source: e.into() })
}

/// Queues a kernel that may start before the one ahead of it in the stream has ended, and itself waits for that before it touches memory.
///
/// # Safety
/// As [`launch`]; the kernel waits for the previous grid before its first access.
pub(super) unsafe fn launch_overlapping(
    call: &'static str,
    stream: &Stream,
    kernel: Kernel,
    grid: Grid,
    arguments: &mut [*mut c_void],
    shapes: impl FnOnce() -> String,
) -> Result<(), CudaError> {
    stream.device.bind(call)?;
    let mut overlap = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: grid.blocks.0,
        gridDimY: grid.blocks.1,
        gridDimZ: 1,
        blockDimX: grid.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: grid.shared,
        hStream: stream.raw,
        attrs: &raw mut overlap,
        numAttrs: 1,
    };
    // SAFETY: the function lives as long as the device; the configuration and its attribute live to the end of the call; the arguments are the
    // caller's promise.
    unsafe {
        sys::cuLaunchKernelEx(&raw const config, kernel.0, arguments.as_mut_ptr(), std::ptr::null_mut())
    }
    .result()
    .map_err(|e| CudaError::Driver { call, shapes: shapes(), source: e.into() })
}

/// A pointer to a launch argument.
pub(super) fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}
