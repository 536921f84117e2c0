//! Each panel kind against the recipe spelled out (to the bit) and against float64 on the decoded weights (to the error of 16 bits).

#![allow(clippy::float_cmp, reason = "results are specified to the bit")]

use half::f16;

use super::*;
use crate::cpu::format::{BlockType, dequantize_row};
use crate::cpu::isa::Isa;
use crate::cpu::packed::BLOCK;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
    fn half(&mut self) -> [u8; 2] {
        f16::from_f32(self.float() * 0.02).to_le_bytes()
    }
}

/// A random stored row: any bits, but sane scales.
fn stored_row(kind: BlockType, k: usize, random: &mut Random) -> Vec<u8> {
    let mut row = Vec::new();
    for _ in 0..k / kind.block_len() {
        let mut block = random.bytes(kind.block_bytes());
        match kind {
            BlockType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            BlockType::F16 => block.copy_from_slice(&random.half()),
            BlockType::Bf16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            BlockType::Q6K => block[208..].copy_from_slice(&random.half()),
            BlockType::Q4_1 | BlockType::Q4K => {
                block[..2].copy_from_slice(&random.half());
                block[2..4].copy_from_slice(&random.half());
            }
            BlockType::Q4_0 => block[..2].copy_from_slice(&random.half()),
            BlockType::Q8_0 => {
                block[..2].copy_from_slice(&random.half());
                block[2..].iter_mut().filter(|b| **b == 128).for_each(|b| *b = 127);
            }
        }
        row.extend(block);
    }
    row
}

/// The blocks of a stored row as (integers, scale, minimum).
fn integer_blocks(kind: BlockType, row: &[u8]) -> Vec<(Vec<i64>, f32, f32)> {
    let half = |b: &[u8], at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let nibbles = |qs: &[u8]| -> Vec<i64> {
        qs.iter().map(|q| i64::from(q & 15)).chain(qs.iter().map(|q| i64::from(q >> 4))).collect()
    };
    let blocks = row.chunks_exact(kind.block_bytes());
    match kind {
        BlockType::Q4_0 => blocks.map(|b| (nibbles(&b[2..]), half(b, 0), -8.0 * half(b, 0))).collect(),
        BlockType::Q4_1 => blocks.map(|b| (nibbles(&b[4..]), half(b, 0), half(b, 2))).collect(),
        BlockType::Q8_0 => {
            blocks.map(|b| (b[2..].iter().map(|&q| i64::from(q as i8)).collect(), half(b, 0), 0.0)).collect()
        }
        _ => Vec::new(),
    }
}

/// The integer recipe for one output.
fn recipe(x: &Activations, row: usize, blocks: &[(Vec<i64>, f32, f32)]) -> f32 {
    let value = |k: usize| {
        let at = row * 2 * x.k + k / 4 * 8 + k % 4;
        i64::from(x.split[at]) * 256 + i64::from(x.split[at + 4])
    };
    let mut acc = 0f32;
    for (b, (q, d, m)) in blocks.iter().enumerate() {
        let dot: i64 = q.iter().enumerate().map(|(t, q)| q * value(BLOCK * b + t)).sum();
        let sum: i64 = (0..BLOCK).map(|t| value(BLOCK * b + t)).sum();
        acc = (dot as f32).mul_add(*d, acc);
        acc = m.mul_add(sum as f32, acc);
    }
    acc * x.scale[row]
}

fn input(rows: usize, k: usize, random: &mut Random) -> Activations {
    let mut x = Activations::new(k);
    x.resize(rows);
    x.float_mut().iter_mut().for_each(|v| *v = random.float());
    // An outlier, as real activations have.
    x.float_mut()[3] = 40.0;
    Cpu::with_isa(1, Isa::Scalar).unwrap().quantize(&mut x);
    x
}

fn single_row(x: &Activations, row: usize) -> Activations {
    let mut one = Activations::new(x.k);
    one.resize(1);
    one.float_mut().copy_from_slice(&x.float[row * x.k..][..x.k]);
    Cpu::with_isa(1, Isa::Scalar).unwrap().quantize(&mut one);
    one
}

const KINDS: [BlockType; 8] = [
    BlockType::F32,
    BlockType::F16,
    BlockType::Bf16,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q8_0,
    BlockType::Q4K,
    BlockType::Q6K,
];

#[test]
fn every_format_follows_its_recipe_to_the_bit_and_float64_to_16_bits() {
    let mut random = Random(42);
    for kind in KINDS {
        for (n, k, rows) in [(70, 256, 21), (32, 512, 3), (1, 256, 1), (96, 256, 13)] {
            let stored: Vec<Vec<u8>> = (0..n).map(|_| stored_row(kind, k, &mut random)).collect();
            let refs: Vec<&[u8]> = stored.iter().map(Vec::as_slice).collect();
            let matrix = PackedMatrix::pack(kind, k, &refs).unwrap();
            let x = input(rows, k, &mut random);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::ALL {
                for threads in [1, 3] {
                    let Some(cpu) = Cpu::with_isa(threads, isa) else { continue };
                    let mut y = vec![f32::NAN; rows * n];
                    cpu.matmul(&x, &[Product { weights: &matrix, column: 0, then: Then::Store }], &mut y, n);
                    let first = first.get_or_insert_with(|| y.clone());
                    assert_eq!(first, &y, "{} {n}x{k}x{rows} on {isa}, {threads} threads", kind.name());
                    let mut alone = vec![f32::NAN; n];
                    let one = single_row(&x, rows / 2);
                    cpu.matmul(
                        &one,
                        &[Product { weights: &matrix, column: 0, then: Then::Store }],
                        &mut alone,
                        n,
                    );
                    assert_eq!(alone, first[rows / 2 * n..][..n], "{} alone on {isa}", kind.name());
                }
            }
            check_values(kind, &stored, &x, &first.unwrap());
        }
    }
}

fn check_values(kind: BlockType, stored: &[Vec<u8>], x: &Activations, y: &[f32]) {
    for (column, stored) in stored.iter().enumerate() {
        let mut weights = vec![0f32; x.k];
        dequantize_row(kind, stored, &mut weights);
        let blocks = integer_blocks(kind, stored);
        for row in 0..x.rows {
            let got = y[row * (y.len() / x.rows) + column];
            if !blocks.is_empty() {
                assert_eq!(
                    got.to_bits(),
                    recipe(x, row, &blocks).to_bits(),
                    "{} row {row} column {column}",
                    kind.name()
                );
            }
            let (mut want, mut size) = (0f64, 0f64);
            for (w, x) in weights.iter().zip(&x.float[row * x.k..][..x.k]) {
                want += f64::from(*w) * f64::from(*x);
                size += (f64::from(*w) * f64::from(*x)).powi(2);
            }
            // Quantising moves each activation by at most half a step.
            let step =
                f64::from(x.scale[row]) * weights.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
            let allowed = 4.0 * step + 1e-5 * size.sqrt() + 1e-7;
            assert!(
                (f64::from(got) - want).abs() <= allowed,
                "{} [{row}, {column}]: {got}, not {want}",
                kind.name()
            );
        }
    }
}

#[test]
fn several_products_share_one_input_and_write_side_by_side() {
    let mut random = Random(7);
    let k = 64;
    let rows: Vec<Vec<u8>> = (0..160).map(|_| stored_row(BlockType::Q4_1, k, &mut random)).collect();
    let refs: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    let all = PackedMatrix::pack(BlockType::Q4_1, k, &refs).unwrap();
    let (a, b) = refs.split_at(96);
    let (a, b) = (
        PackedMatrix::pack(BlockType::Q4_1, k, a).unwrap(),
        PackedMatrix::pack(BlockType::Q4_1, k, b).unwrap(),
    );
    for rows in [1, 5, 30] {
        let x = input(rows, k, &mut random);
        let cpu = Cpu::new(2);
        let (mut one, mut two) = (vec![0.0; rows * 160], vec![f32::NAN; rows * 160]);
        cpu.matmul(&x, &[Product { weights: &all, column: 0, then: Then::Store }], &mut one, 160);
        let parts = [
            Product { weights: &a, column: 0, then: Then::Store },
            Product { weights: &b, column: 96, then: Then::Store },
        ];
        cpu.matmul(&x, &parts, &mut two, 160);
        assert_eq!(one, two);
        cpu.matmul(&x, &[Product { weights: &all, column: 0, then: Then::Add }], &mut two, 160);
        assert!(one.iter().zip(&two).all(|(a, b)| a + a == *b), "added to what was there");
    }
}

#[test]
fn biases_and_activations_are_applied_on_the_way_out() {
    let mut random = Random(9);
    let (k, n, rows) = (48, 70, 15);
    let stored: Vec<Vec<u8>> = (0..n).map(|_| stored_row(BlockType::F32, k, &mut random)).collect();
    let refs: Vec<&[u8]> = stored.iter().map(Vec::as_slice).collect();
    let matrix = PackedMatrix::pack(BlockType::F32, k, &refs).unwrap();
    let bias: Vec<f32> = (0..n).map(|_| random.float()).collect();
    let mut x = Activations::new(k);
    x.resize(rows);
    x.float_mut().iter_mut().for_each(|v| *v = random.float());
    for isa in Isa::ALL {
        let Some(cpu) = Cpu::with_isa(2, isa) else { continue };
        let run = |then: Then<'_>, start: f32| {
            let mut y = vec![start; rows * n];
            cpu.matmul(&x, &[Product { weights: &matrix, column: 0, then }], &mut y, n);
            y
        };
        let plain = run(Then::Store, f32::NAN);
        for (i, y) in run(Then::Bias(&bias), f32::NAN).iter().enumerate() {
            assert_eq!(*y, plain[i] + bias[i % n]);
        }
        for (i, y) in run(Then::AddBias(&bias), 2.0).iter().enumerate() {
            assert_eq!(*y, 2.0 + (plain[i] + bias[i % n]));
        }
        for (i, y) in run(Then::BiasGelu(&bias), f32::NAN).iter().enumerate() {
            let v = plain[i] + bias[i % n];
            assert!(y.abs() <= v.abs() + 1e-6 && *y > -0.2, "gelu({v}) = {y}");
        }
    }
}

#[test]
fn gates_multiply_their_values() {
    let mut random = Random(11);
    let (k, n, rows) = (64, 64, 14);
    let gate: Vec<Vec<u8>> = (0..n).map(|_| stored_row(BlockType::Q4_1, k, &mut random)).collect();
    let value: Vec<Vec<u8>> = (0..n).map(|_| stored_row(BlockType::Q4_1, k, &mut random)).collect();
    let interleaved: Vec<&[u8]> = (0..n / 16)
        .flat_map(|g| gate[16 * g..][..16].iter().chain(&value[16 * g..][..16]))
        .map(Vec::as_slice)
        .collect();
    let both = PackedMatrix::pack(BlockType::Q4_1, k, &interleaved).unwrap();
    let pack = |rows: &[Vec<u8>]| {
        PackedMatrix::pack(BlockType::Q4_1, k, &rows.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
    };
    let (gate, value) = (pack(&gate), pack(&value));
    let x = input(rows, k, &mut random);
    for isa in Isa::ALL {
        let Some(cpu) = Cpu::with_isa(1, isa) else { continue };
        let run = |weights: &PackedMatrix, then| {
            let mut y = vec![f32::NAN; rows * n];
            cpu.matmul(&x, &[Product { weights, column: 0, then }], &mut y, n);
            y
        };
        let (g, v) = (run(&gate, Then::Store), run(&value, Then::Store));
        for (i, y) in run(&both, Then::SwiGlu).iter().enumerate() {
            let want = f64::from(g[i]) / (1.0 + (-f64::from(g[i])).exp()) * f64::from(v[i]);
            assert!((f64::from(*y) - want).abs() <= 1e-6 * want.abs().max(1e-3), "{y}, not {want}");
        }
    }
}

#[test]
fn rows_that_lie_about_their_length_are_refused() {
    let row = vec![0u8; 20];
    assert!(matches!(
        PackedMatrix::pack(BlockType::Q4_1, 64, &[&row]),
        Err(crate::cpu::packed::PackError::RowBytes { .. })
    ));
    assert!(matches!(
        PackedMatrix::pack(BlockType::Q4_1, 33, &[&row]),
        Err(crate::cpu::packed::PackError::RowLength { .. })
    ));
    let none = PackedMatrix::pack(BlockType::Q4_1, 0, &[&[], &[]]).unwrap();
    assert_eq!((none.n(), none.k()), (2, 0));
}
