//! Scores of the processor kernels on SmolLM2-135M's and MiniLM's shapes: `cargo bench -p tinykernels --bench cpu [ISA]`.
//!
//! One thread, CPU time (a busy machine disturbs it less than the clock on the wall), median and best of several runs.
#![allow(unsafe_code, missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use tinykernels::cpu::Cpu;
use tinykernels::cpu::activations::Activations;
use tinykernels::cpu::attention::{Attention, Segment};
use tinykernels::cpu::format::BlockType;
use tinykernels::cpu::isa::Isa;
use tinykernels::cpu::kv::{KvCache, KvShape};
use tinykernels::cpu::matmul::{Product, Then};
use tinykernels::cpu::packed::PackedMatrix;

fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec to write to.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    assert_eq!(rc, 0, "the thread's CPU clock");
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Median and best seconds of one call.
fn time(mut work: impl FnMut()) -> (f64, f64) {
    work();
    let began = cpu_seconds();
    work();
    let calls = (0.004 / (cpu_seconds() - began).max(1e-7)).ceil().clamp(1.0, 1000.0);
    let mut seconds: Vec<f64> = (0..15)
        .map(|_| {
            let began = cpu_seconds();
            (0..calls as usize).for_each(|_| work());
            (cpu_seconds() - began) / calls
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[seconds.len() / 2], seconds[0])
}

fn report(what: &str, seconds: (f64, f64), work: f64, unit: &str) {
    println!(
        "{what:44} {:10.1} us  {:8.1} {unit} (best {:.1})",
        1e6 * seconds.0,
        work / seconds.0 / 1e9,
        work / seconds.1 / 1e9
    );
}

fn matrix(kind: BlockType, n: usize, k: usize) -> PackedMatrix {
    let row = kind.row_bytes(k).unwrap();
    let mut state = 1u64;
    let mut data: Vec<u8> = (0..n * row)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .collect();
    for block in data.chunks_mut(kind.block_bytes()) {
        match kind {
            BlockType::F32 => block.copy_from_slice(&(f32::from(block[0]) / 256.0 - 0.5).to_le_bytes()),
            BlockType::F16 => block.copy_from_slice(&0x2e66u16.to_le_bytes()),
            _ => {
                block[..2].copy_from_slice(&0x2066u16.to_le_bytes());
                if kind == BlockType::Q4_1 {
                    block[2..4].copy_from_slice(&0xa466u16.to_le_bytes());
                }
                if kind == BlockType::Q8_0 {
                    block[2..].iter_mut().filter(|b| **b == 128).for_each(|b| *b = 1);
                }
            }
        }
    }
    PackedMatrix::pack(kind, k, &data.chunks(row).collect::<Vec<_>>()).unwrap()
}

fn input(cpu: &Cpu, rows: usize, k: usize) -> Activations {
    let mut x = Activations::new(k);
    x.resize(rows);
    x.float_mut().iter_mut().enumerate().for_each(|(i, v)| *v = ((i * 7919) % 1000) as f32 / 500.0 - 1.0);
    if k.is_multiple_of(32) {
        cpu.quantize(&mut x);
    }
    x
}

fn products(cpu: &Cpu) {
    for (kind, n, k, rows) in [
        (BlockType::Q4_1, 576, 576, 128),
        (BlockType::Q4_1, 3072, 576, 128),
        (BlockType::Q4_1, 576, 1536, 128),
        (BlockType::Q4_0, 3072, 576, 128),
        (BlockType::Q8_0, 3072, 576, 128),
        (BlockType::F32, 1152, 384, 128),
        (BlockType::F32, 384, 1536, 128),
        (BlockType::Q4_1, 576, 576, 1),
        (BlockType::Q4_1, 3072, 576, 1),
        (BlockType::Q4_1, 576, 1536, 1),
        (BlockType::Q4_1, 3072, 576, 8),
        (BlockType::Q8_0, 49152, 576, 1),
        (BlockType::Q4_1, 49152, 1536, 1),
    ] {
        let weights = matrix(kind, n, k);
        let x = input(cpu, rows, k);
        let mut y = vec![0f32; rows * n];
        let product = Product { weights: &weights, column: 0, then: Then::Store };
        let seconds = time(|| cpu.matmul(&x, &[product], &mut y, n));
        let name = format!("{} {n}x{k}, {rows} rows", kind.name());
        report(&name, seconds, (n * k * rows) as f64, "GMAC/s");
        if rows == 1 {
            report("", seconds, weights.bytes() as f64, "GB/s");
        }
    }
}

fn rows_and_attention(cpu: &Cpu) {
    let x = vec![0.3f32; 128 * 576];
    let weight = vec![1.1f32; 576];
    let mut y = Activations::new(576);
    y.resize(128);
    report(
        "rms_norm + quantize 128x576",
        time(|| cpu.rms_norm(&x, &weight, 1e-5, &mut y, true)),
        128.0 * 576.0,
        "G/s",
    );
    let mut wide = input(cpu, 128, 1536);
    report("quantize 128x1536", time(|| cpu.quantize(&mut wide)), 128.0 * 1536.0, "G/s");
    let shape = KvShape { layers: 1, kv_heads: 3, head_dim: 64, block_size: 16 };
    let mut kv = KvCache::new(shape, 64).unwrap();
    let blocks: Vec<u32> = (0..64).collect();
    let row: Vec<f32> = (0..192).map(|i| (i % 13) as f32 / 13.0).collect();
    report(
        "kv_write 128 rows",
        time(|| (0..128).for_each(|i| cpu.kv_write(&mut kv, 0, (i / 16, i as usize % 16), &row, &row))),
        128.0 * 384.0,
        "G/s",
    );
    let queries = vec![0.1f32; 128 * 576];
    let mut out = vec![0f32; 128 * 576];
    for (rows, start) in [(128, 384), (1, 512)] {
        let a = Attention { queries: &queries, stride: 576, heads: 9, kv: &kv, layer: 0, scale: 0.125 };
        let segment = Segment { row: 0, rows, start, blocks: &blocks, causal: true };
        let seconds = time(|| cpu.attention(&a, &[segment], &mut out));
        let macs = 9.0 * 64.0 * 2.0 * rows as f64 * (start as f64 + rows as f64 / 2.0);
        report(&format!("attention 9/3 heads x64, {rows} rows at {start}"), seconds, macs, "GMAC/s");
    }
}

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let isa = Isa::ALL.into_iter().find(|isa| Some(isa.name()) == wanted.as_deref()).unwrap_or(Isa::detect());
    let cpu = Cpu::with_isa(1, isa).expect("an instruction set of this machine");
    println!("{isa}, one thread");
    products(&cpu);
    rows_and_attention(&cpu);
}
