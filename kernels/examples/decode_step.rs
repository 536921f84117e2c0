//! One decode step of a layer of a real model, SmolLM2-135M, checked against Hugging Face transformers.
//!
//!     python3 kernels/examples/decode_step/export.py model.gguf layer.safetensors     # once: weights, the sequence so far, what is wanted
//!     cargo run --release -p tinykernels --features cuda --example decode_step -- layer.safetensors
//!
//! What an engine does for each layer and step, in eight launches: norm, projection, rotary embedding with the cache's new token, attention over pages,
//! projection with the residual, norm, and the gated MLP in two.

use std::error::Error;
use std::process::ExitCode;

use half::bf16;
use safetensors::{Dtype, SafeTensors};
use tinykernels::cuda::{
    Activation, Buffer, DecodeShape, DecodeWorkspace, Device, Epilogue, PagedCache, RopeStep, Stream,
    interleave_gate, linear, linear_bf16, paged_decode, rms_norm, rope_cache,
};

const PAGE: usize = 16;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: decode_step LAYER.safetensors (written by examples/decode_step/export.py)");
        return ExitCode::FAILURE;
    };
    match run(&path) {
        Ok(error) if error < 1e-2 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    let tensor = file.tensor(name)?;
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::BF16 => Ok(data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
        Dtype::F32 => {
            Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        other => Err(format!("{name} is of {other:?}, not of bf16 or f32").into()),
    }
}

/// A matrix as the file has it.
struct Matrix {
    values: Vec<bf16>,
    rows: usize,
    columns: usize,
}

fn matrix(file: &SafeTensors<'_>, name: &str) -> Result<Matrix, Box<dyn Error>> {
    let shape = file.tensor(name)?.shape().to_vec();
    let columns = *shape.last().ok_or_else(|| format!("{name} is a scalar"))?;
    let values: Vec<bf16> = floats(file, name)?.into_iter().map(bf16::from_f32).collect();
    Ok(Matrix { rows: values.len() / columns, values, columns })
}

/// Relative error of the layer's output, of the numbers in the file.
fn run(path: &str) -> Result<f64, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let device = Device::open(0)?;
    println!("{}, {} multiprocessors", device.name, device.multiprocessors);
    let stream = device.stream()?;
    let got = step(&stream, &file)?;
    let want = floats(&file, "want")?;
    let off: f64 = got.iter().zip(&want).map(|(g, &w)| (g.to_f64() - f64::from(w)).powi(2)).sum();
    let error = (off / want.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()).sqrt();
    println!(
        "{} numbers out of the layer, relative error {error:.1e} beside transformers in float64",
        got.len()
    );
    Ok(error)
}

fn step(stream: &Stream, file: &SafeTensors<'_>) -> Result<Vec<bf16>, Box<dyn Error>> {
    let on = |values: &[bf16]| Buffer::from_host(stream, values);
    let empty = |count: usize| Buffer::<bf16>::zeros(stream, count);
    let [q, k, v, o] = ["q", "k", "v", "o"].map(|n| matrix(file, &format!("self_attn.{n}_proj.weight")));
    let (q, k, v, o) = (q?, k?, v?, o?);
    let (keys, values, rotary) =
        (matrix(file, "keys")?, matrix(file, "values")?, file.tensor("rotary")?.shape().to_vec());
    let (hidden, dim) = (q.columns, keys.columns);
    let (heads, kv_heads) = (q.rows / dim, k.rows / dim);
    let (past, positions) = (keys.rows / kv_heads, rotary[0]);
    let epsilon = floats(file, "epsilon")?[0];
    println!("layer of {hidden}, {heads} heads over {kv_heads}; a step after {past} tokens");

    // As an engine lays weights out once: one projection for queries, keys and values.
    let (qkv_weight, o_weight) = (on(&[q.values, k.values, v.values].concat())?, on(&o.values)?);
    let norm = on(&matrix(file, "input_layernorm.weight")?.values)?;

    // The cache: tokens so far in pages, in reverse order of pages to show that the table is what counts.
    let pages = positions.div_ceil(PAGE);
    let cache = [pages, kv_heads, PAGE, dim];
    let slot = |token: usize| (pages - 1 - token / PAGE) * PAGE + token % PAGE;
    let paged = |dense: &Matrix| {
        let mut pool = vec![bf16::ZERO; pages * kv_heads * PAGE * dim];
        for (index, row) in dense.values.chunks_exact(dim).enumerate() {
            let (place, head) = (slot(index / kv_heads), index % kv_heads);
            pool[((place / PAGE * kv_heads + head) * PAGE + place % PAGE) * dim..][..dim]
                .copy_from_slice(row);
        }
        on(&pool)
    };
    let (mut keys, mut values) = (paged(&keys)?, paged(&values)?);
    let table: Vec<i32> = (0..pages).rev().map(|page| page as i32).collect();
    let integers = |values: &[i32]| Buffer::from_host(stream, values);
    let (table, length) = (integers(&table)?, integers(&[past as i32 + 1])?);
    let (position, slot) = (integers(&[past as i32])?, integers(&[slot(past) as i32])?);
    let rotary = Buffer::from_host(stream, &floats(file, "rotary")?)?;
    let shape = DecodeShape { sequences: 1, query_heads: heads, kv_heads, capacity: pages * PAGE };
    let mut workspace = DecodeWorkspace::new(stream, shape)?;

    let x = on(&matrix(file, "hidden")?.values)?;
    let row = [1, hidden];
    let width = (heads + 2 * kv_heads) * dim;
    let (mut normed, mut qkv) = (empty(hidden)?, empty(width)?);
    let (mut queries, mut attended) = (empty(heads * dim)?, empty(heads * dim)?);
    let mut middle = empty(hidden)?;
    rms_norm(stream, &mut normed.view_mut(row)?, x.view(row)?, norm.view([hidden])?, epsilon)?;
    linear_bf16(
        stream,
        &mut qkv.view_mut([1, width])?,
        normed.view(row)?,
        qkv_weight.view([width, hidden])?,
    )?;
    let rope = RopeStep {
        qkv: qkv.view([1, width])?,
        rotary: rotary.view([positions, dim])?,
        positions: position.view([1])?,
        slots: slot.view([1])?,
        norm: None,
        scales: None,
    };
    let each = [1, heads, dim];
    rope_cache(
        stream,
        &mut queries.view_mut(each)?,
        &mut keys.view_mut(cache)?,
        &mut values.view_mut(cache)?,
        rope,
    )?;
    let of = PagedCache {
        keys: keys.view(cache)?,
        values: values.view(cache)?,
        scales: None,
        block_table: table.view([1, pages])?,
        lengths: length.view([1])?,
    };
    let scale = (dim as f32).sqrt().recip();
    paged_decode(stream, &mut attended.view_mut(each)?, queries.view(each)?, of, scale, &mut workspace)?;
    linear(
        stream,
        &mut middle.view_mut(row)?,
        attended.view([1, heads * dim])?,
        o_weight.view([hidden, heads * dim])?,
        None,
        Epilogue { residual: Some(x.view(row)?), ..Epilogue::default() },
    )?;
    mlp(stream, file, &middle, epsilon)
}

/// The second half of the layer: norm, gated MLP, residual.
fn mlp(
    stream: &Stream,
    file: &SafeTensors<'_>,
    x: &Buffer<bf16>,
    epsilon: f32,
) -> Result<Vec<bf16>, Box<dyn Error>> {
    let [gate, up, down] = ["gate", "up", "down"].map(|n| matrix(file, &format!("mlp.{n}_proj.weight")));
    let (gate, up, down) = (gate?, up?, down?);
    let (hidden, inner) = (gate.columns, gate.rows);
    // Gate and up in turns of eight rows, so that one thread has both factors of a product.
    let mut gated = vec![bf16::ZERO; 2 * inner * hidden];
    for (index, row) in gate.values.chunks_exact(hidden).chain(up.values.chunks_exact(hidden)).enumerate() {
        gated[interleave_gate(index, inner) * hidden..][..hidden].copy_from_slice(row);
    }
    let on = |values: &[bf16]| Buffer::from_host(stream, values);
    let (gated, down_weight) = (on(&gated)?, on(&down.values)?);
    let norm = on(&matrix(file, "post_attention_layernorm.weight")?.values)?;
    let empty = |count: usize| Buffer::<bf16>::zeros(stream, count);
    let (mut normed, mut product, mut out) = (empty(hidden)?, empty(inner)?, empty(hidden)?);
    let row = [1, hidden];
    rms_norm(stream, &mut normed.view_mut(row)?, x.view(row)?, norm.view([hidden])?, epsilon)?;
    linear(
        stream,
        &mut product.view_mut([1, inner])?,
        normed.view(row)?,
        gated.view([2 * inner, hidden])?,
        None,
        Epilogue { activation: Activation::Silu, gated: true, ..Epilogue::default() },
    )?;
    linear(
        stream,
        &mut out.view_mut(row)?,
        product.view([1, inner])?,
        down_weight.view([hidden, inner])?,
        None,
        Epilogue { residual: Some(x.view(row)?), ..Epilogue::default() },
    )?;
    Ok(out.to_host(stream)?)
}
