//! Memory on the GPU: owned buffers, and row-major views of them with a shape.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};
use half::{bf16, f16};

use super::device::{Device, Stream};
use super::error::{CudaError, driver};

/// Element types a kernel may take.
pub trait Element: bytemuck::Pod + fmt::Debug + Send + Sync {
    /// Name in error messages.
    const NAME: &'static str;
}
macro_rules! element {
    ($($type:ty => $name:literal),*) => { $(impl Element for $type { const NAME: &'static str = $name; })* };
}
element!(bf16 => "bf16", f16 => "f16", E4m3 => "e4m3", f32 => "f32", i32 => "i32", u16 => "u16", u32 => "u32", u64 => "u64", u8 => "u8", i8 => "i8");

/// A float of 8 bits: sign, 4 of exponent (bias 7), 3 of mantissa; 448 the largest, no infinities, NaN is 0x7f and 0xff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct E4m3(
    /// Its bits.
    pub u8,
);
// SAFETY: a byte, of which every value and zero are valid.
unsafe impl bytemuck::Zeroable for E4m3 {}
// SAFETY: as above; transparent, so without padding.
unsafe impl bytemuck::Pod for E4m3 {}

/// Owned memory on one GPU. Freed on drop, after the work that uses it: the driver's free waits for the device.
#[derive(Debug)]
pub struct Buffer<T: Element> {
    device: Arc<Device>,
    pointer: sys::CUdeviceptr,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// `len` elements of zero bytes.
    pub fn zeros(stream: &Stream, len: usize) -> Result<Self, CudaError> {
        let buffer = Self::uninitialised(&stream.device, len)?;
        if len > 0 {
            // SAFETY: the range was just allocated with this size.
            unsafe { result::memset_d8_async(buffer.pointer, 0, len * size_of::<T>(), stream.raw) }
                .map_err(driver("Buffer::zeros"))?;
        }
        Ok(buffer)
    }

    /// A copy of host memory; it is complete when this returns.
    pub fn from_host(stream: &Stream, host: &[T]) -> Result<Self, CudaError> {
        let buffer = Self::uninitialised(&stream.device, host.len())?;
        if !host.is_empty() {
            // SAFETY: both sides hold `host.len()` elements; the synchronise keeps `host` borrowed until the copy is done.
            unsafe { result::memcpy_htod_async(buffer.pointer, host, stream.raw) }
                .map_err(driver("Buffer::from_host"))?;
            stream.synchronize()?;
        }
        Ok(buffer)
    }

    /// Copies host memory to the buffer's front, behind the stream's earlier work and without waiting for it: the driver takes pageable memory before it
    /// returns.
    pub(super) fn overwrite(
        &mut self,
        call: &'static str,
        stream: &Stream,
        host: &[T],
    ) -> Result<(), CudaError> {
        assert!(host.len() <= self.len, "room was made for {} elements", host.len());
        self.device.bind(call)?;
        let mut capture = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream is live, the status a valid place.
        unsafe { sys::cuStreamIsCapturing(stream.raw, &raw mut capture) }.result().map_err(driver(call))?;
        if capture != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Err(CudaError::Shape {
                call,
                found: "a stream under capture".into(),
                limit: "a graph would copy what the host no longer has: before the capture, or after it"
                    .into(),
            });
        }
        if !host.is_empty() {
            // SAFETY: the buffer has room for the host's elements, as asserted; the driver has copied them out of pageable memory when it returns.
            unsafe { result::memcpy_htod_async(self.pointer, host, stream.raw) }.map_err(driver(call))?;
        }
        Ok(())
    }

    /// Copies the buffer to the host, after the stream's earlier work.
    pub fn to_host(&self, stream: &Stream) -> Result<Vec<T>, CudaError> {
        let mut host = vec![T::zeroed(); self.len];
        if self.len > 0 {
            self.device.bind("Buffer::to_host")?;
            // SAFETY: both sides hold `len` elements; the synchronise below ends the copy before `host` is used.
            unsafe { result::memcpy_dtoh_async(&mut host, self.pointer, stream.raw) }
                .map_err(driver("Buffer::to_host"))?;
            stream.synchronize()?;
        }
        Ok(host)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a buffer of no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffer as a row-major tensor.
    ///
    /// # Errors
    /// [`CudaError::Shape`] when the shape does not have exactly as many elements.
    pub fn view<const N: usize>(&self, shape: [usize; N]) -> Result<Tensor<'_, T, N>, CudaError> {
        self.fits("Buffer::view", &shape)?;
        Ok(Tensor {
            pointer: self.pointer,
            shape,
            device: Some(Arc::as_ptr(&self.device)),
            owner: PhantomData,
        })
    }

    /// The buffer as a row-major tensor to write to.
    ///
    /// # Errors
    /// [`CudaError::Shape`] when the shape does not have exactly as many elements.
    pub fn view_mut<const N: usize>(&mut self, shape: [usize; N]) -> Result<TensorMut<'_, T, N>, CudaError> {
        self.fits("Buffer::view_mut", &shape)?;
        Ok(TensorMut {
            view: Tensor {
                pointer: self.pointer,
                shape,
                device: Some(Arc::as_ptr(&self.device)),
                owner: PhantomData,
            },
            owner: PhantomData,
        })
    }

    fn fits(&self, call: &'static str, shape: &[usize]) -> Result<(), CudaError> {
        if elements(shape) == Some(self.len) {
            return Ok(());
        }
        Err(CudaError::Shape {
            call,
            found: format!("{} elements of {} as {shape:?}", self.len, T::NAME),
            limit: "the shape must hold exactly the buffer".into(),
        })
    }

    fn uninitialised(device: &Arc<Device>, len: usize) -> Result<Self, CudaError> {
        let too_large = |bytes| {
            let (free, total) = device.memory().unwrap_or((0, 0));
            CudaError::OutOfMemory { call: "Buffer", bytes, free, total }
        };
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| too_large(usize::MAX))?;
        device.bind("Buffer")?;
        let pointer = if bytes == 0 {
            0
        } else {
            // SAFETY: plain allocation; the pointer is freed once, in drop.
            match unsafe { result::malloc_sync(bytes) } {
                Ok(pointer) => pointer,
                Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => return Err(too_large(bytes)),
                Err(e) => return Err(driver("Buffer")(e)),
            }
        };
        Ok(Self { device: Arc::clone(device), pointer, len, element: PhantomData })
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pointer != 0 && self.device.bind("Buffer::drop").is_ok() {
            // SAFETY: allocated by `uninitialised`, freed only here. An error means the context is already lost.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}

/// A row-major tensor a kernel reads.
pub struct Tensor<'a, T, const N: usize> {
    pub(super) pointer: sys::CUdeviceptr,
    /// Extent of each dimension, slowest first.
    pub shape: [usize; N],
    device: Option<*const Device>,
    owner: PhantomData<&'a T>,
}

impl<T, const N: usize> Clone for Tensor<'_, T, N> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, const N: usize> Copy for Tensor<'_, T, N> {}

/// A row-major tensor a kernel writes.
pub struct TensorMut<'a, T, const N: usize> {
    pub(super) view: Tensor<'a, T, N>,
    owner: PhantomData<&'a mut T>,
}

impl<T: Element, const N: usize> fmt::Debug for Tensor<'_, T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", T::NAME, self.shape)
    }
}
impl<T: Element, const N: usize> fmt::Debug for TensorMut<'_, T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

impl<T: Element, const N: usize> Tensor<'_, T, N> {
    /// A tensor in memory of another library.
    ///
    /// # Safety
    /// `address` holds that many elements on the stream's GPU, and stays so and unwritten until the work it is given to is done.
    pub unsafe fn from_raw(address: u64, shape: [usize; N]) -> Self {
        Self { pointer: address, shape, device: None, owner: PhantomData }
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        elements(&self.shape).expect("checked when the view was made")
    }

    /// True for a tensor of no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn span(&self) -> Span {
        let bytes = elements(&self.shape).and_then(|n| n.checked_mul(size_of::<T>())).unwrap_or(usize::MAX);
        Span { start: self.pointer, bytes: bytes as u64, device: self.device }
    }
}

impl<T: Element, const N: usize> TensorMut<'_, T, N> {
    /// A tensor in memory of another library.
    ///
    /// # Safety
    /// As for [`Tensor::from_raw`], and nothing else uses the memory until the work it is given to is done.
    pub unsafe fn from_raw(address: u64, shape: [usize; N]) -> Self {
        // SAFETY: the caller's promise is stronger than the one asked for.
        Self { view: unsafe { Tensor::from_raw(address, shape) }, owner: PhantomData }
    }

    /// Extent of each dimension, slowest first.
    pub fn shape(&self) -> [usize; N] {
        self.view.shape
    }

    pub(super) fn span(&self) -> Span {
        self.view.span()
    }
}

/// Where a tensor lies, without its type.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub start: u64,
    pub bytes: u64,
    pub device: Option<*const Device>,
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))
}
