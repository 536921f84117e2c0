//! The Rust API on a machine with a GPU (run by hack/gpu/device.sh), and its refusals on a machine without one.
#![cfg(feature = "cuda")]
#![allow(unsafe_code)] // addresses that the safe way in cannot name: misaligned, overlapping, nowhere

use std::process::Command;

use half::bf16;
use tinykernels::cuda::{
    self, Buffer, CudaError, Device, Epilogue, PrefillPlan, PrefillSequence, PrefillShape, Scales,
    SortWorkspace, Tensor, TensorMut, add_rms_norm, embedding, linear_bf16, prefill_attention, rms_norm,
    silu_mul, softmax, sort_u32, top_k, transpose,
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
        other => assert!(other.is_err(), "64 TiB were allocated"),
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
            other => panic!("{shape:?}: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn what_no_kernel_was_made_for_is_refused_by_the_call_s_name_before_anything_is_written()
-> Result<(), CudaError> {
    let Some(device) = device()? else { return Ok(()) };
    let stream = &device.stream()?;
    let filled = |n: usize| Buffer::from_host(stream, &vec![bf16::NAN; n]);
    let untouched = |b: &Buffer<bf16>| Ok::<_, CudaError>(b.to_host(stream)?.iter().all(|y| y.is_nan()));
    let linear = |[rows, features, columns]: [usize; 3]| {
        let (x, w, mut y) = (filled(rows * columns)?, filled(features * columns)?, filled(rows * features)?);
        let outcome = linear_bf16(
            stream,
            &mut y.view_mut([rows, features])?,
            x.view([rows, columns])?,
            w.view([features, columns])?,
        );
        assert!(untouched(&y)?, "a refused call wrote");
        outcome
    };
    let mut out = filled(512)?;
    let x = filled(512)?;
    let refused = |call: &str, outcome: Result<(), CudaError>, word: &str| match outcome {
        Ok(()) => panic!("{call} was accepted where it should say {word}"),
        Err(e) => {
            let text = e.to_string();
            assert!(text.contains(call) && text.contains(word), "{call}, {word}: {text}");
        }
    };
    // Extents that a kernel does not take, or that do not belong together.
    refused("linear_bf16", linear([4, 12, 64]), "multiples of 8");
    refused("linear_bf16", linear([4, 16, 12]), "multiples of 8");
    refused("linear_bf16", linear([4, 16, 0]), "not zero");
    refused("silu_mul", silu_mul(stream, &mut out.view_mut([8, 64])?, x.view([8, 64])?), "silu_mul");
    refused("transpose", transpose(stream, &mut out.view_mut([8, 64])?, x.view([8, 64])?), "transpose");
    // More than a workspace, or a view, was made for.
    let (mut keys, mut small) =
        (Buffer::<u32>::zeros(stream, 4096)?, SortWorkspace::new(stream, 100, false)?);
    refused("sort_u32", sort_u32(stream, &mut keys.view_mut([4096])?, &mut small), "100");
    let scores = Buffer::<f32>::zeros(stream, 2048)?;
    let (mut values, mut places) = (Buffer::<f32>::zeros(stream, 1025)?, Buffer::<i32>::zeros(stream, 1025)?);
    refused(
        "top_k",
        top_k(
            stream,
            &mut values.view_mut([1, 1025])?,
            &mut places.view_mut([1, 1025])?,
            scores.view([1, 2048])?,
        ),
        "1 to 1024",
    );
    refused("Buffer::view", x.view([8, 65]).map(|_| ()), "512 elements");
    // Over-sized, misaligned, aliased: nothing of these is read, so no such memory need exist.
    // SAFETY: every one of these calls is refused before it touches memory.
    unsafe {
        let far = 1 << 40;
        let oversized = linear_bf16(
            stream,
            &mut TensorMut::from_raw(far, [1 << 31, 8]),
            Tensor::from_raw(far + (1 << 42), [1 << 31, 8]),
            Tensor::from_raw(far + (1 << 43), [8, 8]),
        );
        refused("linear_bf16", oversized, "2^30");
        let one = Tensor::from_raw(far + (1 << 44), [1]);
        let scales = Some(Scales { x: one, weight: one });
        let (mut y, x) =
            (TensorMut::from_raw(far, [8, 8]), Tensor::<i8, 2>::from_raw(far + (1 << 42), [8, 1 << 17]));
        let w = Tensor::from_raw(far + (1 << 43), [8, 1 << 17]);
        refused("linear", cuda::linear(stream, &mut y, x, w, scales, Epilogue::default()), "131,071");
        let norm = |y, x| {
            let (mut y, x) = (TensorMut::from_raw(y, [8, 64]), Tensor::from_raw(x, [8, 64]));
            rms_norm(stream, &mut y, x, Tensor::from_raw(far + (1 << 30), [64]), 1e-6)
        };
        refused("rms_norm", norm(far, far + 1032), "multiple of 16");
        refused("rms_norm", norm(far + 2, far + 4096), "multiple of 16");
        refused("rms_norm", norm(far, far + 512), "overlaps");
        refused("rms_norm", norm(0, far), "device memory");
        // Memory that is nobody's, and the host's own.
        refused("rms_norm", norm(far, far + 4096), "y is not in memory of the stream's GPU");
        let host = vec![0_u128; 512];
        let mut y = TensorMut::<bf16, 2>::from_raw(device_memory(1 << 16), [8, 64]);
        let outcome = softmax(stream, &mut y, Tensor::from_raw(host.as_ptr() as u64, [8, 64]), 1.0, false);
        refused("softmax", outcome, "x is not in memory of the stream's GPU");
    }
    // Nothing to do is done.
    linear([0, 16, 64])?;
    linear([4, 0, 64])?;
    let (mut none, nothing) = (filled(0)?, filled(0)?);
    silu_mul(stream, &mut none.view_mut([0, 64])?, nothing.view([0, 128])?)?;
    let mut no_keys = Buffer::<u32>::zeros(stream, 0)?;
    sort_u32(stream, &mut no_keys.view_mut([0])?, &mut small)?;
    stream.synchronize()?;
    assert!(untouched(&out)?, "a refused call wrote");
    Ok(())
}

#[test]
fn an_image_that_is_cut_short_or_foreign_is_named_and_no_device_opened() -> Result<(), CudaError> {
    if device()?.is_none() {
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("tinykernels-images-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder of the temporary ones");
    let this = std::fs::read(std::env::current_exe().expect("this program")).expect("this program is read");
    // Not an ELF; one of another machine, whole and cut short.
    for (bytes, word) in
        [(&b"no kernel"[..], "no ELF"), (&this[..], "CUDA_ERROR"), (&this[..this.len() / 2], "cut short")]
    {
        std::fs::write(folder.join("norm.cubin"), bytes).expect("written");
        match Device::open_with(0, Some(&folder)) {
            Err(e @ CudaError::Module { module: "norm", .. }) => {
                assert!(e.to_string().contains(word), "{word}: {e}");
            }
            other => panic!("{} bytes as an image: {:?}", bytes.len(), other.map(|_| ())),
        }
    }
    std::fs::remove_dir_all(&folder).expect("removed");
    // The process is none the worse: the embedded ones still load.
    assert!(device()?.is_some());
    Ok(())
}

/// Memory of the GPU that no buffer owns; it goes with the process.
fn device_memory(bytes: usize) -> u64 {
    // SAFETY: a plain allocation in the context that an opened device has bound to this thread.
    unsafe { cudarc::driver::result::malloc_sync(bytes) }.expect("room for it")
}

/// Whether this process is the child of the test below.
const FAULTING: &str = "TINYKERNELS_TEST_FAULTS";

#[test]
fn a_kernel_that_faults_is_reported_by_the_wait_and_by_every_call_after_it() -> Result<(), CudaError> {
    let Some(device) = device()? else { return Ok(()) };
    if std::env::var_os(FAULTING).is_none() {
        // The fault costs the process its context: a child has it.
        let name = "a_kernel_that_faults_is_reported_by_the_wait_and_by_every_call_after_it";
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--nocapture"])
            .env(FAULTING, "1")
            .output()
            .expect("this program starts");
        let said =
            String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return Ok(());
    }
    let stream = device.stream()?;
    let ids = Buffer::from_host(&stream, &[(1 << 29) - 1; 8])?;
    let mut places = [device_memory(1 << 16), device_memory(1 << 16)];
    places.sort_unstable();
    // SAFETY: a table of 64 GB of which 64 KB are there is what this test is about; the GPU faults, and says so.
    let (mut y, table) =
        unsafe { (TensorMut::from_raw(places[0], [8, 64]), Tensor::from_raw(places[1], [1 << 29, 64])) };
    embedding(&stream, &mut y, table, ids.view([8])?)?;
    for call in ["Stream::synchronize", "embedding", "to_host"] {
        let outcome = match call {
            "Stream::synchronize" => stream.synchronize(),
            "embedding" => embedding(&stream, &mut y, table, ids.view([8])?),
            _ => ids.to_host(&stream).map(|_| ()),
        };
        let Err(CudaError::Driver { source, .. }) = outcome else {
            panic!("{call} did not report the fault")
        };
        assert!(source.name.contains("ILLEGAL_ADDRESS"), "{call}: {source}");
    }
    Ok(())
}
