//! A GPU that these kernels run on, and streams of work on it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys;
use cudarc::driver::{CudaContext, result};

use super::error::{CudaError, driver};
use super::module::Modules;
use super::tuning::Tuning;

/// One opened GPU: its primary context (shared with every other library of the process), limits, and loaded kernels.
#[derive(Debug)]
pub struct Device {
    pub(super) context: Arc<CudaContext>,
    pub(super) modules: Modules,
    pub(super) tuning: Tuning,
    /// Streaming multiprocessors; persistent kernels start one block on each.
    pub multiprocessors: u32,
    /// Bytes of shared memory one block may use.
    pub shared_memory: usize,
    /// What the driver calls it.
    pub name: String,
}

impl Device {
    /// Opens a GPU and loads the embedded kernels.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::NoDevice`], [`CudaError::UnsupportedDevice`], [`CudaError::DriverTooOld`] or
    /// [`CudaError::Module`], each before any memory is taken.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        Self::open_with(ordinal, None)
    }

    /// [`Device::open`], with the images that `folder` holds, `NAME.cubin` for `cuda/*/NAME.cu`, instead of the embedded ones: to tune a kernel without
    /// building this crate anew; and with the folder's `tuning.txt`, where it has one, instead of the GPU's committed table. What such an image does is its
    /// author's affair.
    ///
    /// # Errors
    /// As there; [`CudaError::Module`] names an image that is cut short, foreign, or without a kernel that the embedded one has, and
    /// a line of a table that is none.
    pub fn open_with(ordinal: usize, folder: Option<&Path>) -> Result<Arc<Self>, CudaError> {
        // SAFETY: only asks the loader whether libcuda exists; cudarc would panic on the first call otherwise.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        // A driver without a GPU reports "no device" from its initialisation.
        let count = match result::init().and_then(|()| result::device::get_count()) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(e)
                if matches!(
                    e.0,
                    sys::CUresult::CUDA_ERROR_NO_DEVICE | sys::CUresult::CUDA_ERROR_STUB_LIBRARY
                ) =>
            {
                0
            }
            Err(e) => return Err(driver("Device::open")(e)),
        };
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let mut version = 0;
        // SAFETY: writes one int through a valid pointer.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(driver("Device::open"))?;
        if version < 13000 {
            return Err(CudaError::DriverTooOld {
                found_major: version / 1000,
                found_minor: version % 1000 / 10,
            });
        }
        let context = CudaContext::new(ordinal).map_err(driver("Device::open"))?;
        // SAFETY: no cudarc slices are used, so there is nothing whose events could be missed.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(driver("Device::open"))?;
        let (major, minor) = context.compute_capability().map_err(driver("Device::open"))?;
        if (major, minor) != (9, 0) {
            return Err(CudaError::UnsupportedDevice { name, major, minor });
        }
        let attribute = |a| context.attribute(a).map_err(driver("Device::open"));
        let multiprocessors =
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let shared_memory =
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
                as usize;
        let (modules, tuning) = (Modules::load(folder)?, Tuning::of(&name, folder)?);
        Ok(Arc::new(Self { context, modules, tuning, multiprocessors, shared_memory, name }))
    }

    /// Bytes free and in all on this GPU.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.mem_get_info().map_err(driver("Device::memory"))
    }

    /// A new stream, not synchronised with the legacy default stream.
    pub fn stream(self: &Arc<Self>) -> Result<Stream, CudaError> {
        self.bind("Device::stream")?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(driver("Device::stream"))?;
        Ok(Stream { device: Arc::clone(self), raw, owned: true })
    }

    /// Whether an address lies in memory that this GPU's allocations, or pinned ones of its context, hold.
    pub(super) fn holds(&self, call: &'static str, address: u64) -> Result<bool, CudaError> {
        self.bind(call)?;
        let mut ordinal = -1_i32;
        // SAFETY: writes one int through a valid pointer; the address is only looked up.
        let asked = unsafe {
            sys::cuPointerGetAttribute(
                (&raw mut ordinal).cast(),
                sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                address,
            )
        };
        match asked.result() {
            Ok(()) => Ok(usize::try_from(ordinal) == Ok(self.context.ordinal())),
            // An address that the driver does not know.
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_INVALID_VALUE => Ok(false),
            Err(e) => Err(driver(call)(e)),
        }
    }

    pub(super) fn bind(&self, call: &'static str) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(driver(call))
    }
}

/// An ordered queue of work. Calls return before their work is done; [`Stream::synchronize`] waits, and reports a kernel that faulted.
///
/// Work on two streams is not ordered: pass a tensor from one to the other only after synchronising the first.
#[derive(Debug)]
pub struct Stream {
    pub(super) device: Arc<Device>,
    pub(super) raw: sys::CUstream,
    owned: bool,
}

// SAFETY: a CUstream may be used from any thread, and the driver locks internally.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Wraps a stream of another library (PyTorch, JAX) on the same GPU's primary context.
    ///
    /// # Safety
    /// `raw` is a live `CUstream` (or null, the default stream) of `device`'s primary context and outlives the result.
    pub unsafe fn from_raw(device: &Arc<Device>, raw: *mut std::ffi::c_void) -> Self {
        Self { device: Arc::clone(device), raw: raw.cast(), owned: false }
    }

    /// The GPU this stream belongs to.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Marks the moment at which the work given to this stream so far is done.
    pub fn moment(&self) -> Result<Moment, CudaError> {
        const CALL: &str = "Stream::moment";
        self.device.bind(CALL)?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(driver(CALL))?;
        let moment = Moment { device: Arc::clone(&self.device), event };
        // SAFETY: both were made in the context that is bound.
        unsafe { result::event::record(event, self.raw) }.map_err(driver(CALL))?;
        Ok(moment)
    }

    /// Waits for all work given to this stream.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.device.bind("Stream::synchronize")?;
        // SAFETY: the stream is live by construction.
        unsafe { result::stream::synchronize(self.raw) }.map_err(driver("Stream::synchronize"))
    }
}

/// When a stream had done what it was given before.
#[derive(Debug)]
pub struct Moment {
    device: Arc<Device>,
    event: sys::CUevent,
}

impl Moment {
    /// The time on the GPU since another moment of a stream of it; waits for both.
    pub fn since(&self, earlier: &Self) -> Result<Duration, CudaError> {
        const CALL: &str = "Moment::since";
        self.device.bind(CALL)?;
        // SAFETY: both events are live and recorded.
        let milliseconds = unsafe {
            result::event::synchronize(earlier.event)
                .and_then(|()| result::event::synchronize(self.event))
                .and_then(|()| result::event::elapsed(earlier.event, self.event))
        };
        milliseconds.map(|ms| Duration::from_secs_f32(ms.max(0.0) / 1e3)).map_err(driver(CALL))
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if self.device.bind("Moment::drop").is_ok() {
            // SAFETY: created by Stream::moment, destroyed only here; the driver keeps what queued work needs.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned && self.device.bind("Stream::drop").is_ok() {
            // SAFETY: created by Device::stream and not used after this; the driver finishes queued work first.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}
