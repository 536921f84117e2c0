//! The Rust API on a machine with a GPU (run by hack/gpu/device.sh), and its refusals on a machine without one.
#![cfg(feature = "cuda")]

use half::bf16;
use tinykernels::cuda::{Buffer, CudaError, Device, add_rms_norm};

/// The GPU, or none where this machine has none that fits; any other failure to open one fails the test.
fn device() -> Result<Option<std::sync::Arc<Device>>, CudaError> {
    match Device::open(0) {
        Ok(device) => Ok(Some(device)),
        Err(
            CudaError::NoDriver
            | CudaError::NoDevice { .. }
            | CudaError::UnsupportedDevice { .. }
            | CudaError::DriverTooOld { .. },
        ) => Ok(None),
        Err(e) => Err(e),
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_with_the_count() {
    match Device::open(4096) {
        Err(CudaError::NoDevice { ordinal: 4096, count }) => assert!(count < 4096),
        other => assert!(matches!(other, Err(CudaError::NoDriver)), "{other:?}"),
    }
}

#[test]
fn add_rms_norm_matches_float64_through_the_rust_api() -> Result<(), CudaError> {
    let Some(device) = device()? else { return Ok(()) };
    let stream = device.stream()?;
    let (rows, hidden) = (5, 328);
    let value = |i: usize, k: usize| bf16::from_f32(((i * k) % 251) as f32 / 37.0 - 3.0);
    let x: Vec<bf16> = (0..rows * hidden).map(|i| value(i, 7)).collect();
    let r: Vec<bf16> = (0..rows * hidden).map(|i| value(i, 13)).collect();
    let w: Vec<bf16> = (0..hidden).map(|i| value(i, 29)).collect();
    let poison = vec![bf16::NAN; rows * hidden];
    let (dx, dw) = (Buffer::from_host(&stream, &x)?, Buffer::from_host(&stream, &w)?);
    let (mut dr, mut dy) = (Buffer::from_host(&stream, &r)?, Buffer::from_host(&stream, &poison)?);
    add_rms_norm(
        &stream,
        &mut dy.view_mut([rows, hidden])?,
        dx.view([rows, hidden])?,
        &mut dr.view_mut([rows, hidden])?,
        dw.view([hidden])?,
        1e-6,
    )?;
    let y = dy.to_host(&stream)?;
    for row in 0..rows {
        let sums: Vec<f64> = (0..hidden)
            .map(|c| bf16::from_f32(x[row * hidden + c].to_f32() + r[row * hidden + c].to_f32()).to_f64())
            .collect();
        let scale = (sums.iter().map(|s| s * s).sum::<f64>() / hidden as f64 + 1e-6).sqrt().recip();
        for c in 0..hidden {
            let want = sums[c] * scale * w[c].to_f64();
            let got = y[row * hidden + c].to_f64();
            assert!(
                (got - want).abs() <= want.abs() / 128.0 + 1e-6,
                "row {row} column {c}: {got} for {want}"
            );
        }
    }
    Ok(())
}

#[test]
fn an_allocation_past_the_gpu_names_bytes_and_room() -> Result<(), CudaError> {
    let Some(device) = device()? else { return Ok(()) };
    match Buffer::<f32>::zeros(&device.stream()?, 1 << 44) {
        Err(CudaError::OutOfMemory { bytes, total, .. }) => assert!(bytes == 1 << 46 && total > 0),
        other => assert!(other.is_err(), "16 TiB were allocated"),
    }
    Ok(())
}
