//! The one error of the CUDA side.

use thiserror::Error;

/// Why a call on the GPU did not happen, or did not finish.
///
/// A call that returns `Err` before its launch has written nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CudaError {
    /// libcuda is not installed on this machine.
    #[error(
        "no CUDA driver on this machine (libcuda.so.1 not found): install the NVIDIA driver, or use the CPU kernels"
    )]
    NoDriver,
    /// The driver is there, the GPU asked for is not.
    #[error("GPU {ordinal} does not exist: the driver shows {count}")]
    NoDevice {
        /// Ordinal asked for.
        ordinal: usize,
        /// GPUs the driver shows.
        count: usize,
    },
    /// A GPU these kernels were not compiled for.
    #[error(
        "{name} has compute capability {major}.{minor}; these kernels are compiled for 9.0 (H100, H200) only"
    )]
    UnsupportedDevice {
        /// Marketing name.
        name: String,
        /// Compute capability, major.
        major: i32,
        /// Compute capability, minor.
        minor: i32,
    },
    /// The driver is older than the toolkit the kernels were compiled with.
    #[error("the driver supports CUDA {found_major}.{found_minor}; these kernels need 13.0 or newer")]
    DriverTooOld {
        /// Version the driver supports, major.
        found_major: i32,
        /// Version the driver supports, minor.
        found_minor: i32,
    },
    /// An allocation that does not fit.
    #[error("{call}: {bytes} bytes asked for, {free} of {total} bytes free on the GPU")]
    OutOfMemory {
        /// Call that allocated.
        call: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes free at that moment.
        free: usize,
        /// Bytes the GPU has.
        total: usize,
    },
    /// Shapes that do not belong together, or go past a kernel's limit.
    #[error("{call}: {found}; {limit}")]
    Shape {
        /// Call that refused.
        call: &'static str,
        /// The shapes it was given.
        found: String,
        /// What it accepts.
        limit: String,
    },
    /// A tensor that does not start where the kernel's vector loads need it to.
    #[error("{call}: {tensor} starts at {address:#x}, which is not a multiple of {align} bytes")]
    Misaligned {
        /// Call that refused.
        call: &'static str,
        /// Name of the argument.
        tensor: &'static str,
        /// Its device address.
        address: u64,
        /// Alignment in bytes.
        align: u64,
    },
    /// An output that overlaps another argument.
    #[error("{call}: {output} overlaps {other}; outputs must be apart from every other argument")]
    Aliased {
        /// Call that refused.
        call: &'static str,
        /// Name of the output.
        output: &'static str,
        /// Name of the argument it overlaps.
        other: &'static str,
    },
    /// An argument on another GPU than the stream, or in memory of the host.
    #[error("{call}: {tensor} is not in memory of the stream's GPU")]
    WrongDevice {
        /// Call that refused.
        call: &'static str,
        /// Name of the argument.
        tensor: &'static str,
    },
    /// A library of NVIDIA's is missing, or refused.
    #[error("{call}: {library}: {reason}")]
    Library {
        /// Call that failed.
        call: &'static str,
        /// Name of the library.
        library: &'static str,
        /// Its status, or what is missing.
        reason: String,
    },
    /// An embedded kernel image the driver would not load.
    #[error("cannot load kernel image {module}: {source}")]
    Module {
        /// Name of the image.
        module: &'static str,
        /// What the driver said.
        source: DriverFault,
    },
    /// The driver refused a call, or an earlier kernel faulted: after a fault the context is lost and every later call says so.
    #[error("{call} ({shapes}): {source}")]
    Driver {
        /// Call that failed.
        call: &'static str,
        /// Shapes of its arguments, empty where there are none.
        shapes: String,
        /// What the driver said.
        source: DriverFault,
    },
}

/// A driver status in words.
#[derive(Debug, Clone, Error)]
#[error("{name}: {meaning}")]
pub struct DriverFault {
    /// Symbolic name, such as `CUDA_ERROR_ILLEGAL_ADDRESS`.
    pub name: String,
    /// The driver's own sentence.
    pub meaning: String,
}

impl From<cudarc::driver::DriverError> for DriverFault {
    fn from(error: cudarc::driver::DriverError) -> Self {
        let text = |r: Result<&std::ffi::CStr, _>| {
            r.map_or_else(
                |_: cudarc::driver::DriverError| format!("status {}", error.0 as u32),
                |s| s.to_string_lossy().into_owned(),
            )
        };
        Self { name: text(error.error_name()), meaning: text(error.error_string()) }
    }
}

pub(super) fn driver(call: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> CudaError {
    move |e| CudaError::Driver { call, shapes: String::new(), source: e.into() }
}
