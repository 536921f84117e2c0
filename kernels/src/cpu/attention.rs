//! Attention over a paged cache, by strips of keys with a running maximum (Milakov and Gimelshein, 2018; Dao et al., 2022).
//!
//! Strips are cut at multiples of 128 tokens from the sequence's first, and a query's arithmetic depends on its own limit alone,
//! so a result does not depend on the queries computed beside it nor on how a prompt was cut. All query heads of a
//! key-value head are computed together, so keys and values are read once for the group.
#![allow(unsafe_code)]

use std::cell::RefCell;

use super::Cpu;
use super::isa::instantiate;
use super::kv::KvCache;
use super::lanes::{LANES, Lanes};
use super::math;

/// Keys of a strip.
const STRIP: usize = 128;
/// Groups of sixteen keys in a strip.
const GROUPS: usize = STRIP / LANES;
/// Queries of a task (times the heads of a group).
const QUERIES: usize = 8;

/// Consecutive queries of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Row of the first query.
    pub row: usize,
    /// Queries.
    pub rows: usize,
    /// Position of the first query.
    pub start: usize,
    /// The sequence's blocks.
    pub blocks: &'a [u32],
    /// Whether a query sees only its own position and those before; otherwise it sees all `start + rows`.
    pub causal: bool,
}

/// What attention reads and writes.
pub struct Attention<'a> {
    /// Queries `[rows × stride]`, heads from column 0.
    pub queries: &'a [f32],
    /// Columns of a row of queries.
    pub stride: usize,
    /// Query heads; a multiple of the cache's heads.
    pub heads: usize,
    /// Keys and values, those of the segments' own tokens included.
    pub kv: &'a KvCache,
    /// Which layer.
    pub layer: usize,
    /// Scores are `scale · q·k`.
    pub scale: f32,
}

#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: tasks write disjoint rows and heads.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

/// One task: some queries of a segment, all heads of a group.
struct Task<'a> {
    a: &'a Attention<'a>,
    segment: Segment<'a>,
    /// First query within the segment, and how many.
    first: usize,
    queries: usize,
    kv_head: usize,
    out: *mut f32,
}

/// Working memory of a task. A row is one query of one head.
#[derive(Default)]
struct Scratch {
    /// `[rows × head_dim]`, scaled.
    q: Vec<f32>,
    /// `[rows × head_dim]`
    acc: Vec<f32>,
    /// `[rows × STRIP]`
    scores: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Cpu {
    /// Softmax attention for all segments; `out` is `[rows × heads · head_dim]`.
    ///
    /// # Panics
    /// When shapes or block ids do not fit the cache.
    pub fn attention(&self, a: &Attention<'_>, segments: &[Segment<'_>], out: &mut [f32]) {
        let shape = *a.kv.shape();
        assert!(a.heads.is_multiple_of(shape.kv_heads), "whole groups of heads");
        assert!(a.heads * shape.head_dim <= a.stride, "columns of the queries");
        let width = a.heads * shape.head_dim;
        let mut tasks = Vec::new();
        for (i, s) in segments.iter().enumerate() {
            assert!(
                (s.row + s.rows) * a.stride <= a.queries.len() && (s.row + s.rows) * width <= out.len(),
                "rows"
            );
            assert!(s.blocks.len() * shape.block_size >= s.start + s.rows, "blocks for all tokens");
            assert!(s.blocks.iter().all(|&b| (b as usize) < a.kv.blocks()), "block ids");
            for first in (0..s.rows).step_by(QUERIES) {
                tasks.extend((0..shape.kv_heads).map(|head| (i, first, head)));
            }
        }
        let shared = Out(out.as_mut_ptr());
        let isa = self.isa();
        self.pool().run(tasks.len(), &|t| {
            let shared = shared;
            let (i, first, kv_head) = tasks[t];
            let segment = segments[i];
            let queries = QUERIES.min(segment.rows - first);
            let task = Task { a, segment, first, queries, kv_head, out: shared.0 };
            SCRATCH.with_borrow_mut(|scratch| {
                // SAFETY: shapes were checked above; the instruction set is available; tasks write disjoint rows and heads.
                unsafe { attend(isa, &task, scratch) };
            });
        });
    }
}

instantiate! { fn attend(task: &Task<'_>, scratch: &mut Scratch) = run<3; 8> }

#[inline(always)]
unsafe fn run<L: Lanes, const R: usize>(task: &Task<'_>, s: &mut Scratch) {
    let (a, shape) = (task.a, task.a.kv.shape());
    let dim = shape.head_dim;
    let group = a.heads / shape.kv_heads;
    let rows = task.queries * group;
    s.q.resize(rows * dim, 0.0);
    s.acc.clear();
    s.acc.resize(rows * dim, 0.0);
    s.scores.resize(rows * STRIP, 0.0);
    s.max.clear();
    s.max.resize(rows, f32::NEG_INFINITY);
    s.sum.clear();
    s.sum.resize(rows, 0.0);
    for row in 0..rows {
        let query = task.segment.row + task.first + row / group;
        let head = task.kv_head * group + row % group;
        let from = &a.queries[query * a.stride + head * dim..][..dim];
        for (to, from) in s.q[row * dim..][..dim].iter_mut().zip(from) {
            *to = from * a.scale;
        }
    }
    let position = task.segment.start + task.first;
    let all = task.segment.start + task.segment.rows;
    // Keys that a row sees: the limits of a task's rows never fall.
    let limit = |row: usize| if task.segment.causal { position + row / group + 1 } else { all };
    let end = limit(rows - 1);
    // SAFETY: strips stay below `end`, for which there are blocks; scratch rows are as resized above.
    unsafe {
        for strip in (0..end).step_by(STRIP) {
            let keys = STRIP.min(end - strip);
            let groups = keys.div_ceil(LANES);
            let (k, v) = pointers(task, strip, groups);
            let mut row = 0;
            while row < rows {
                row += scores::<L, R>(&s.q, dim, &k[..groups], row, rows, &mut s.scores);
            }
            for row in 0..rows {
                let seen = limit(row).saturating_sub(strip).min(keys);
                let scores = &mut s.scores[row * STRIP..][..groups * LANES];
                let scale = soften::<L>(scores, seen, &mut s.max[row], &mut s.sum[row]);
                for acc in s.acc[row * dim..][..dim].chunks_exact_mut(LANES) {
                    L::store(acc.as_mut_ptr(), L::mul(L::load(acc.as_ptr()), L::splat(scale)));
                }
            }
            let mut row = 0;
            while row < rows {
                row += mix::<L, R>(s, dim, &v[..groups], keys, row, rows);
            }
        }
        for row in 0..rows {
            let query = task.segment.row + task.first + row / group;
            let head = task.kv_head * group + row % group;
            let out = task.out.add((query * a.heads + head) * dim);
            let inverse = L::splat(1.0 / s.sum[row]);
            for d in (0..dim).step_by(LANES) {
                L::store(out.add(d), L::mul(L::load(s.acc.as_ptr().add(row * dim + d)), inverse));
            }
        }
    }
}

/// The key groups and values of a strip.
fn pointers(task: &Task<'_>, strip: usize, groups: usize) -> ([*const u16; GROUPS], [*const u16; GROUPS]) {
    let (kv, per_block) = (task.a.kv, task.a.kv.shape().block_size / LANES);
    let (mut keys, mut values) = ([std::ptr::null(); GROUPS], [std::ptr::null(); GROUPS]);
    for g in 0..groups {
        let group = strip / LANES + g;
        let block = task.segment.blocks[group / per_block];
        keys[g] = kv.keys(block, task.a.layer, task.kv_head, group % per_block);
        values[g] = kv.values(block, task.a.layer, task.kv_head, group % per_block);
    }
    (keys, values)
}

/// Scores of up to `R` rows from `row` on with all keys of a strip; returns how many rows it took.
#[inline(always)]
unsafe fn scores<L: Lanes, const R: usize>(
    q: &[f32],
    dim: usize,
    keys: &[*const u16],
    row: usize,
    rows: usize,
    out: &mut [f32],
) -> usize {
    let (q, out) = (&q[row * dim..], &mut out[row * STRIP..]);
    // SAFETY: the rows exist.
    unsafe {
        match rows - row {
            n if n >= R => score_tile::<L, R>(q, dim, keys, out),
            n if n >= 3 => score_tile::<L, 3>(q, dim, keys, out),
            _ => score_tile::<L, 1>(q, dim, keys, out),
        }
    }
}

#[inline(always)]
unsafe fn score_tile<L: Lanes, const R: usize>(
    q: &[f32],
    dim: usize,
    keys: &[*const u16],
    out: &mut [f32],
) -> usize {
    // SAFETY: `q` has `R` rows of `dim`, `out` `R` rows of `STRIP`, each key group `dim` vectors.
    unsafe {
        for (pair, keys) in keys.chunks(2).enumerate() {
            let (k0, k1) = (keys[0], keys[keys.len() - 1]);
            let mut acc = [[L::splat(0.0); 2]; R];
            for d in 0..dim {
                let (a, b) = (L::load_f16(k0.add(LANES * d)), L::load_f16(k1.add(LANES * d)));
                for r in 0..R {
                    let q = L::splat(*q.as_ptr().add(r * dim + d));
                    acc[r][0] = L::fma(q, a, acc[r][0]);
                    acc[r][1] = L::fma(q, b, acc[r][1]);
                }
            }
            for r in 0..R {
                let out = out.as_mut_ptr().add(r * STRIP + pair * 2 * LANES);
                L::store(out, acc[r][0]);
                if keys.len() == 2 {
                    L::store(out.add(LANES), acc[r][1]);
                }
            }
        }
    }
    R
}

/// Turns the first `seen` scores of a row into weights `e^(s - max)` and the others into zero; returns what earlier sums are to be
/// multiplied with. A row that sees nothing of the strip is left as it was.
#[inline(always)]
unsafe fn soften<L: Lanes>(scores: &mut [f32], seen: usize, max: &mut f32, sum: &mut f32) -> f32 {
    if seen == 0 {
        scores.fill(0.0);
        return 1.0;
    }
    // SAFETY: `scores` is whole vectors.
    unsafe {
        scores[seen..].fill(f32::NEG_INFINITY);
        let mut largest = L::splat(f32::NEG_INFINITY);
        for s in scores.chunks_exact(LANES) {
            largest = L::max(L::load(s.as_ptr()), largest);
        }
        let new = L::reduce_max(largest).max(*max);
        let shift = L::splat(new);
        for s in scores.chunks_exact_mut(LANES) {
            L::store(s.as_mut_ptr(), math::exp::<L>(L::sub(L::load(s.as_ptr()), shift)));
        }
        scores[seen..].fill(0.0);
        let mut total = L::splat(0.0);
        for s in scores.chunks_exact(LANES) {
            total = L::add(total, L::load(s.as_ptr()));
        }
        let mut old = [0f32; LANES];
        L::store(old.as_mut_ptr(), math::exp::<L>(L::splat(*max - new)));
        // Before the first strip there is nothing to keep.
        let scale = if *max == f32::NEG_INFINITY { 0.0 } else { old[0] };
        *max = new;
        *sum = sum.mul_add(scale, L::reduce_add(total));
        scale
    }
}

/// Adds the weighted values of a strip to up to `R` rows from `row` on; returns how many rows it took.
#[inline(always)]
unsafe fn mix<L: Lanes, const R: usize>(
    s: &mut Scratch,
    dim: usize,
    values: &[*const u16],
    keys: usize,
    row: usize,
    rows: usize,
) -> usize {
    let (scores, acc) = (&s.scores[row * STRIP..], &mut s.acc[row * dim..]);
    // SAFETY: the rows exist.
    unsafe {
        match rows - row {
            n if n >= R => mix_tile::<L, R>(scores, acc, dim, values, keys),
            n if n >= 3 => mix_tile::<L, 3>(scores, acc, dim, values, keys),
            _ => mix_tile::<L, 1>(scores, acc, dim, values, keys),
        }
    }
}

#[inline(always)]
unsafe fn mix_tile<L: Lanes, const R: usize>(
    scores: &[f32],
    out: &mut [f32],
    dim: usize,
    values: &[*const u16],
    keys: usize,
) -> usize {
    // SAFETY: `scores` has `R` rows of `STRIP`, `out` `R` rows of `dim`, values a row of `dim` for each key.
    unsafe {
        for d in (0..dim).step_by(2 * LANES) {
            let mut acc = [[L::splat(0.0); 2]; R];
            for r in 0..R {
                let from = out.as_ptr().add(r * dim + d);
                acc[r] = [L::load(from), L::load(from.add(LANES))];
            }
            for (g, v) in values.iter().enumerate() {
                for t in 0..LANES.min(keys - g * LANES) {
                    let v = v.add(t * dim + d);
                    let (a, b) = (L::load_f16(v), L::load_f16(v.add(LANES)));
                    for r in 0..R {
                        let p = L::splat(*scores.as_ptr().add(r * STRIP + g * LANES + t));
                        acc[r][0] = L::fma(p, a, acc[r][0]);
                        acc[r][1] = L::fma(p, b, acc[r][1]);
                    }
                }
            }
            for r in 0..R {
                let to = out.as_mut_ptr().add(r * dim + d);
                L::store(to, acc[r][0]);
                L::store(to.add(LANES), acc[r][1]);
            }
        }
    }
    R
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::kv::KvShape;

    const DIM: usize = 64;
    const KV_HEADS: usize = 3;
    const HEADS: usize = 9;

    fn value(i: usize, seed: usize) -> f32 {
        let h = (i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35);
        ((h >> 7) % 2001) as f32 / 1000.0 - 1.0
    }

    fn filled(cpu: &Cpu, tokens: usize, block_size: usize, blocks: &[u32]) -> KvCache {
        let shape = KvShape { layers: 2, kv_heads: KV_HEADS, head_dim: DIM, block_size };
        let mut kv = KvCache::new(shape, 64).unwrap();
        for t in 0..tokens {
            let row =
                |seed| (0..KV_HEADS * DIM).map(|i| value(t * KV_HEADS * DIM + i, seed)).collect::<Vec<f32>>();
            cpu.kv_write(&mut kv, 1, (blocks[t / block_size], t % block_size), &row(1), &row(2));
        }
        kv
    }

    fn half(x: f32) -> f64 {
        half::f16::from_f32(x).to_f64()
    }

    /// Softmax attention in f64, straight from the definition.
    fn reference(queries: &[f32], first: usize, rows: usize, limit: impl Fn(usize) -> usize) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..rows {
            for head in 0..HEADS {
                let kv_head = head / (HEADS / KV_HEADS);
                let at = |t: usize, d: usize, seed| half(value(t * KV_HEADS * DIM + kv_head * DIM + d, seed));
                let q = &queries[row * HEADS * DIM + head * DIM..][..DIM];
                let scores: Vec<f64> = (0..limit(first + row))
                    .map(|t| (0..DIM).map(|d| f64::from(q[d]) * at(t, d, 1)).sum::<f64>() * 0.125)
                    .collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                out.extend((0..DIM).map(|d| {
                    scores.iter().enumerate().map(|(t, s)| (s - max).exp() / sum * at(t, d, 2)).sum::<f64>()
                }));
            }
        }
        out
    }

    #[test]
    fn any_cut_of_a_sequence_gives_the_same_bits_and_follows_float64() {
        let tokens = 300;
        let scattered: Vec<u32> = (0..19).map(|i| (i * 7 + 3) % 64).collect();
        let wide: Vec<u32> = (0..10).map(|i| 40 - i).collect();
        let queries: Vec<f32> = (0..tokens * HEADS * DIM).map(|i| value(i, 3) * 3.0).collect();
        let want = reference(&queries, 0, tokens, |p| p + 1);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            for (threads, block_size, blocks) in [(1, 16, &scattered), (3, 32, &wide)] {
                let cpu = Cpu::with_isa(threads, isa).unwrap();
                let kv = filled(&cpu, tokens, block_size, blocks);
                for cut in [300, 128, 77, 1] {
                    let mut out = vec![f32::NAN; queries.len()];
                    let a = Attention {
                        queries: &queries,
                        stride: HEADS * DIM,
                        heads: HEADS,
                        kv: &kv,
                        layer: 1,
                        scale: 0.125,
                    };
                    let segments: Vec<Segment<'_>> = (0..tokens)
                        .step_by(cut)
                        .map(|row| Segment {
                            row,
                            rows: cut.min(tokens - row),
                            start: row,
                            blocks,
                            causal: true,
                        })
                        .collect();
                    cpu.attention(&a, &segments, &mut out);
                    for (got, want) in out.iter().zip(&want) {
                        assert!((f64::from(*got) - want).abs() < 2e-6, "{got}, not {want}");
                    }
                    assert_eq!(
                        first.get_or_insert_with(|| out.clone()),
                        &out,
                        "{isa}, blocks of {block_size}, cut {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn without_a_mask_every_query_sees_all_tokens() {
        let blocks = [5, 2, 9];
        let queries: Vec<f32> = (0..37 * HEADS * DIM).map(|i| value(i, 4)).collect();
        let want = reference(&queries, 0, 37, |_| 37);
        let cpu = Cpu::new(2);
        let kv = filled(&cpu, 37, 16, &blocks);
        let mut out = vec![f32::NAN; queries.len()];
        let a = Attention {
            queries: &queries,
            stride: HEADS * DIM,
            heads: HEADS,
            kv: &kv,
            layer: 1,
            scale: 0.125,
        };
        cpu.attention(
            &a,
            &[Segment { row: 0, rows: 37, start: 0, blocks: &blocks, causal: false }],
            &mut out,
        );
        for (got, want) in out.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 2e-6, "{got}, not {want}");
        }
    }

    #[test]
    fn copied_blocks_serve_like_the_original_and_infinities_are_clamped() {
        let cpu = Cpu::new(1);
        let mut kv = filled(&cpu, 16, 16, &[3]);
        kv.copy_block(3, 8);
        let queries: Vec<f32> = (0..HEADS * DIM).map(|i| value(i, 5)).collect();
        let run = |kv: &KvCache, block: u32| {
            let mut out = vec![f32::NAN; queries.len()];
            let a = Attention {
                queries: &queries,
                stride: HEADS * DIM,
                heads: HEADS,
                kv,
                layer: 1,
                scale: 0.125,
            };
            cpu.attention(
                &a,
                &[Segment { row: 0, rows: 1, start: 15, blocks: &[block], causal: true }],
                &mut out,
            );
            out
        };
        assert_eq!(run(&kv, 3), run(&kv, 8));
        let wild = [f32::NAN, f32::INFINITY, -1e9].repeat(KV_HEADS * DIM / 3);
        cpu.kv_write(&mut kv, 1, (8, 15), &wild, &wild);
        assert!(run(&kv, 8).iter().all(|v| v.is_finite()));
    }
}
