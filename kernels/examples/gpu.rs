//! A linear layer and causal attention on a GPU, checked against float64 on the CPU.
//!
//!     cargo run --release -p tinykernels --features cuda --example gpu
//!
//! On a machine without a GPU it says what is missing and ends with status 1.

use std::process::ExitCode;

use half::bf16;
use tinykernels::cuda::{
    Buffer, CudaError, Device, PrefillPlan, PrefillSequence, PrefillShape, Stream, linear_bf16,
    prefill_attention,
};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, CudaError> {
    let device = Device::open(0)?;
    println!("{}, {} multiprocessors", device.name, device.multiprocessors);
    let stream = device.stream()?;
    let (linear, attention) = (linear(&stream)?, attention(&stream)?);
    println!("linear layer: relative error {linear:.1e}; causal attention: {attention:.1e}");
    Ok(linear < 4e-3 && attention < 6e-3)
}

/// Numbers about one, the same in every run.
fn numbers(count: usize, seed: u32) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) - 0.5
    };
    (0..count).map(|_| bf16::from_f64((next() + next() + next()) * 2.0)).collect()
}

fn relative_error(got: &[bf16], want: &[f64]) -> f64 {
    let off: f64 = got.iter().zip(want).map(|(g, w)| (g.to_f64() - w).powi(2)).sum();
    (off / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

fn dot(a: &[bf16], b: &[bf16]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x.to_f64() * y.to_f64()).sum()
}

fn linear(stream: &Stream) -> Result<f64, CudaError> {
    let (rows, features, columns) = (33, 520, 1000);
    let (x, w) = (numbers(rows * columns, 1), numbers(features * columns, 2));
    let (on_x, on_w) = (Buffer::from_host(stream, &x)?, Buffer::from_host(stream, &w)?);
    let mut y = Buffer::from_host(stream, &vec![bf16::NAN; rows * features])?;
    linear_bf16(
        stream,
        &mut y.view_mut([rows, features])?,
        on_x.view([rows, columns])?,
        on_w.view([features, columns])?,
    )?;
    let row = |data: &'_ [bf16], at: usize| data[at * columns..(at + 1) * columns].to_vec();
    let want: Vec<f64> = (0..rows)
        .flat_map(|r| (0..features).map(move |f| (r, f)))
        .map(|(r, f)| dot(&row(&x, r), &row(&w, f)))
        .collect();
    Ok(relative_error(&y.to_host(stream)?, &want))
}

fn attention(stream: &Stream) -> Result<f64, CudaError> {
    let (tokens, heads, kv_heads, dim) = (150, 4, 2, 64);
    let shape = PrefillShape {
        query_heads: heads,
        kv_heads,
        head_dim: dim,
        scale: 0.125,
        causal: true,
        window: None,
        soft_cap: None,
    };
    let plan = PrefillPlan::new(stream, shape, &[PrefillSequence { queries: tokens, keys: tokens }])?;
    let q = numbers(tokens * heads * dim, 3);
    let (k, v) = (numbers(tokens * kv_heads * dim, 4), numbers(tokens * kv_heads * dim, 5));
    let (on_q, on_k, on_v) =
        (Buffer::from_host(stream, &q)?, Buffer::from_host(stream, &k)?, Buffer::from_host(stream, &v)?);
    let mut out = Buffer::from_host(stream, &vec![bf16::NAN; q.len()])?;
    let cache = [tokens, kv_heads, dim];
    prefill_attention(
        stream,
        &mut out.view_mut([tokens, heads, dim])?,
        None,
        on_q.view([tokens, heads, dim])?,
        on_k.view(cache)?,
        on_v.view(cache)?,
        &plan,
    )?;
    let row = |data: &'_ [bf16], at: usize| data[at * dim..(at + 1) * dim].to_vec();
    let mut want = Vec::with_capacity(q.len());
    for token in 0..tokens {
        for head in 0..heads {
            let query = row(&q, token * heads + head);
            let key_row = |key: usize| key * kv_heads + head * kv_heads / heads;
            let weights: Vec<f64> =
                (0..=token).map(|key| (dot(&query, &row(&k, key_row(key))) * 0.125).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..dim {
                let sum: f64 =
                    weights.iter().enumerate().map(|(key, w)| w * v[key_row(key) * dim + c].to_f64()).sum();
                want.push(sum / total);
            }
        }
    }
    Ok(relative_error(&out.to_host(stream)?, &want))
}
