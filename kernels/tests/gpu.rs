//! The Rust API on a machine with a GPU (run by hack/gpu/device.sh), and its refusals on a machine without one.
#![cfg(feature = "cuda")]

use half::bf16;
use tinykernels::cuda::{
    Buffer, CudaError, Device, PrefillPlan, PrefillSequence, PrefillShape, add_rms_norm, prefill_attention,
};

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

#[test]
fn prefill_matches_float64_through_the_rust_api() -> Result<(), CudaError> {
    let Some(device) = device()? else { return Ok(()) };
    let stream = device.stream()?;
    let (heads, kv_heads, dim) = (4, 2, 64);
    let shape = PrefillShape {
        query_heads: heads,
        kv_heads,
        head_dim: dim,
        scale: 0.125,
        causal: true,
        window: None,
        soft_cap: None,
    };
    // The second sequence continues one whose first 30 tokens are in the cache.
    let sequences = [PrefillSequence { queries: 5, keys: 5 }, PrefillSequence { queries: 3, keys: 33 }];
    let value = |i: usize, k: usize| bf16::from_f32(((i * k) % 251) as f32 / 100.0 - 1.2);
    let q: Vec<bf16> = (0..8 * heads * dim).map(|i| value(i, 7)).collect();
    let k: Vec<bf16> = (0..38 * kv_heads * dim).map(|i| value(i, 13)).collect();
    let v: Vec<bf16> = (0..38 * kv_heads * dim).map(|i| value(i, 29)).collect();
    let plan = PrefillPlan::new(&stream, shape, &sequences)?;
    let (dq, dk, dv) =
        (Buffer::from_host(&stream, &q)?, Buffer::from_host(&stream, &k)?, Buffer::from_host(&stream, &v)?);
    let mut out = Buffer::from_host(&stream, &vec![bf16::NAN; q.len()])?;
    let rows = [38, kv_heads, dim];
    prefill_attention(
        &stream,
        &mut out.view_mut([8, heads, dim])?,
        None,
        dq.view([8, heads, dim])?,
        dk.view(rows)?,
        dv.view(rows)?,
        &plan,
    )?;
    let out = out.to_host(&stream)?;
    // (token, first key, keys it sees)
    let tokens = (0..5).map(|i| (i, 0, i + 1)).chain((0..3).map(|i| (5 + i, 5, 31 + i)));
    for (token, first, count) in tokens {
        for head in 0..heads {
            let row = |data: &[bf16], at: usize| -> Vec<f64> {
                data[at * dim..(at + 1) * dim].iter().map(|x| x.to_f64()).collect()
            };
            let query = row(&q, token * heads + head);
            let key_row = |key: usize| (first + key) * kv_heads + head / 2;
            let weights: Vec<f64> = (0..count)
                .map(|key| {
                    row(&k, key_row(key)).iter().zip(&query).map(|(a, b)| a * b * 0.125).sum::<f64>().exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for c in 0..dim {
                let want: f64 =
                    (0..count).map(|key| weights[key] * row(&v, key_row(key))[c]).sum::<f64>() / total;
                let got = out[(token * heads + head) * dim + c].to_f64();
                assert!((got - want).abs() < 0.02, "token {token} head {head} column {c}: {got} for {want}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_prefill_plan_refuses_what_its_kernel_was_not_made_for() -> Result<(), CudaError> {
    let Some(device) = device()? else { return Ok(()) };
    let stream = device.stream()?;
    let good = PrefillShape {
        query_heads: 4,
        kv_heads: 2,
        head_dim: 128,
        scale: 1.0,
        causal: true,
        window: Some(9),
        soft_cap: None,
    };
    let refused = [
        PrefillShape { head_dim: 96, ..good },
        PrefillShape { kv_heads: 3, ..good },
        PrefillShape { kv_heads: 0, ..good },
        PrefillShape { scale: f32::NAN, ..good },
        PrefillShape { window: Some(0), ..good },
        PrefillShape { causal: false, ..good },
        PrefillShape { soft_cap: Some(-1.0), ..good },
    ];
    for shape in refused {
        match PrefillPlan::new(&stream, shape, &[PrefillSequence { queries: 1, keys: 1 }]) {
            Err(CudaError::Shape { call: "PrefillPlan::new", .. }) => {}
            other => assert!(other.is_err(), "{shape:?} was accepted"),
        }
    }
    Ok(())
}
