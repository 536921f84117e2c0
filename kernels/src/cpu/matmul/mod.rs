//! Products of activation rows with packed weights.
//!
//! Few rows (decoding) read the packed panels directly: memory sets the pace. Many rows (a prompt) unpack a panel once into the
//! cache and run over all rows. Both follow one recipe (`tile`) and give the same bits.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;
mod tile;

use std::cell::RefCell;

use super::Cpu;
use super::activations::Activations;
use super::isa::instantiate;
use super::lanes::{LANES, Lanes};
use super::math;
use super::packed::{PANEL, PackedMatrix, PanelKind};
use tile::{
    BYTE, Brain, Half, NIBBLE, NIBBLE_MIN, NIBBLE_WIDE, Single, Stored, Tile, UNPACKED_RECORD, WIDE_BYTE,
    WIDE_NIBBLE,
};

/// From this many rows on, a panel is unpacked first.
const UNPACK_ROWS: usize = 12;

/// What happens to a product on its way to the output.
#[derive(Clone, Copy)]
pub enum Then<'a> {
    /// `out = y`
    Store,
    /// `out += y` (the residual stream).
    Add,
    /// `out = y + bias`
    Bias(&'a [f32]),
    /// `out += y + bias`
    AddBias(&'a [f32]),
    /// `out = gelu(y + bias)`
    BiasGelu(&'a [f32]),
    /// Columns come in groups of 32: 16 gates, then 16 values; `out = silu(gate) · value`, half as many columns.
    SwiGlu,
}

/// One of several products that share their activations.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The weights.
    pub weights: &'a PackedMatrix,
    /// First output column.
    pub column: usize,
    /// What is written.
    pub then: Then<'a>,
}

impl Product<'_> {
    fn columns(&self) -> usize {
        if matches!(self.then, Then::SwiGlu) { self.weights.n() / 2 } else { self.weights.n() }
    }
}

/// The output, shared by threads that write disjoint columns.
#[derive(Clone, Copy)]
struct Out {
    data: *mut f32,
    stride: usize,
}
// SAFETY: tasks write disjoint columns of the rows.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

/// A range of panels of one product.
struct Job<'a> {
    product: Product<'a>,
    x: &'a Activations,
    out: Out,
    from: usize,
    to: usize,
    scratch: *mut u8,
}

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code, reason = "only its address is used")] [u8; 64]);

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Cpu {
    /// `out[row, column..] ← weights · x[row]` for all rows of `x` and all products; `out` is row-major with `stride` columns.
    ///
    /// Weights with integer panels read the quantised form of `x` ([`Cpu::quantize`]).
    ///
    /// # Panics
    /// When shapes do not fit together; they are fixed when a model is loaded.
    pub fn matmul(&self, x: &Activations, products: &[Product<'_>], out: &mut [f32], stride: usize) {
        if x.rows == 0 {
            return;
        }
        let mut tasks = Vec::new();
        for (i, p) in products.iter().enumerate() {
            assert_eq!(p.weights.k(), x.k, "inner dimensions");
            assert!(p.column + p.columns() <= stride, "columns of the output");
            check_bias(p);
            let total: usize = products.iter().map(|p| p.weights.panels()).sum();
            // Small enough to share well, large enough not to be felt.
            let size = if self.threads() == 1 { total } else { total.div_ceil(self.threads() * 6) }.max(1);
            let panels = p.weights.panels();
            tasks.extend((0..panels).step_by(size).map(|from| (i, from, (from + size).min(panels))));
        }
        assert!(out.len() >= x.rows * stride, "rows of the output");
        let shared = Out { data: out.as_mut_ptr(), stride };
        self.pool().run(tasks.len(), &|t| {
            let shared = shared;
            let (i, from, to) = tasks[t];
            let product = products[i];
            let lines = if x.rows < UNPACK_ROWS { 0 } else { scratch_bytes(product.weights).div_ceil(64) };
            SCRATCH.with_borrow_mut(|scratch| {
                if scratch.len() < lines {
                    scratch.resize(lines, Line([0; 64]));
                }
                let scratch = scratch.as_mut_ptr().cast();
                let job = Job { product, x, out: shared, from, to, scratch };
                // SAFETY: shapes were checked above; the instruction set is available; tasks write disjoint columns.
                unsafe { run(self.isa(), &job) };
            });
        });
    }
}

fn check_bias(p: &Product<'_>) {
    match p.then {
        Then::Bias(bias) | Then::AddBias(bias) | Then::BiasGelu(bias) => {
            assert_eq!(bias.len(), p.weights.n(), "a bias for each column");
        }
        Then::SwiGlu => {
            assert!(p.weights.n().is_multiple_of(PANEL), "gates and values in groups of 32 columns");
        }
        Then::Store | Then::Add => {}
    }
}

fn scratch_bytes(w: &PackedMatrix) -> usize {
    match w.kind() {
        PanelKind::F32 => 0,
        PanelKind::F16 | PanelKind::Bf16 => w.k() * PANEL * 4,
        _ => w.k() / 32 * UNPACKED_RECORD,
    }
}

instantiate! { fn run(job: &Job<'_>) = panels<1, 3; 4, 8> }

/// `RI` rows of integers and `RF` rows of floats fill the registers.
#[inline(always)]
unsafe fn panels<L: Lanes, const RI: usize, const RF: usize>(job: &Job<'_>) {
    // SAFETY: the caller's contract, passed on.
    unsafe {
        match job.product.weights.kind() {
            PanelKind::Nibble => integers::<L, RI, NIBBLE>(job),
            PanelKind::NibbleMin => integers::<L, RI, NIBBLE_MIN>(job),
            PanelKind::NibbleWide => integers::<L, RI, NIBBLE_WIDE>(job),
            PanelKind::Byte => integers::<L, RI, BYTE>(job),
            PanelKind::F32 => floats::<L, RF, Single>(job),
            PanelKind::F16 => floats::<L, RF, Half>(job),
            PanelKind::Bf16 => floats::<L, RF, Brain>(job),
        }
    }
}

#[inline(always)]
unsafe fn integers<L: Lanes, const R: usize, const KIND: u8>(job: &Job<'_>) {
    let rows = job.x.rows;
    for p in job.from..job.to {
        let panel = job.product.weights.panel(p).as_ptr();
        // SAFETY: the scratch holds a whole unpacked panel; rows are within `x`.
        unsafe {
            if L::UNPACKS && rows >= UNPACK_ROWS {
                tile::unpack::<L, KIND>(panel, job.x.k / 32, job.scratch);
                if KIND == BYTE {
                    integer_rows::<L, R, WIDE_BYTE>(job, p, job.scratch);
                } else {
                    integer_rows::<L, R, WIDE_NIBBLE>(job, p, job.scratch);
                }
            } else {
                integer_rows::<L, R, KIND>(job, p, panel);
            }
        }
    }
}

#[inline(always)]
unsafe fn integer_rows<L: Lanes, const R: usize, const KIND: u8>(job: &Job<'_>, p: usize, panel: *const u8) {
    let (rows, records) = (job.x.rows, job.x.k / 32);
    let mut row = 0;
    // SAFETY: `row + R <= rows` at each call.
    unsafe {
        while row + R <= rows {
            integer_tile::<L, R, KIND>(job, p, panel, records, row);
            row += R;
        }
        while row < rows {
            integer_tile::<L, 1, KIND>(job, p, panel, records, row);
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn integer_tile<L: Lanes, const R: usize, const KIND: u8>(
    job: &Job<'_>,
    p: usize,
    panel: *const u8,
    records: usize,
    row: usize,
) {
    let mut tile: Tile<R> = [[0.0; PANEL]; R];
    // SAFETY: the caller's contract.
    unsafe {
        tile::integer::<L, R, KIND>(panel, records, job.x, row, &mut tile);
        finish::<L, R>(job, p, row, &mut tile);
    }
}

#[inline(always)]
unsafe fn floats<L: Lanes, const R: usize, S: Stored>(job: &Job<'_>) {
    let (rows, k) = (job.x.rows, job.x.k);
    for p in job.from..job.to {
        let panel = job.product.weights.panel(p).as_ptr();
        // SAFETY: the scratch holds a panel of f32; rows are within `x`.
        unsafe {
            if L::UNPACKS && S::BYTES != 4 && rows >= UNPACK_ROWS {
                let wide = job.scratch.cast::<f32>();
                for i in 0..2 * k {
                    L::store(wide.add(LANES * i), S::load::<L>(panel.add(LANES * i * S::BYTES)));
                }
                float_rows::<L, R, Single>(job, p, job.scratch);
            } else {
                float_rows::<L, R, S>(job, p, panel);
            }
        }
    }
}

#[inline(always)]
unsafe fn float_rows<L: Lanes, const R: usize, S: Stored>(job: &Job<'_>, p: usize, panel: *const u8) {
    let rows = job.x.rows;
    let mut row = 0;
    // SAFETY: `row + R <= rows` at each call.
    unsafe {
        while row + R <= rows {
            float_tile::<L, R, S>(job, p, panel, row);
            row += R;
        }
        while row < rows {
            float_tile::<L, 1, S>(job, p, panel, row);
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn float_tile<L: Lanes, const R: usize, S: Stored>(
    job: &Job<'_>,
    p: usize,
    panel: *const u8,
    row: usize,
) {
    let mut tile: Tile<R> = [[0.0; PANEL]; R];
    // SAFETY: the caller's contract.
    unsafe {
        tile::float::<L, S, R>(panel, job.x, row, &mut tile);
        finish::<L, R>(job, p, row, &mut tile);
    }
}

/// Writes a tile to the output the way the product asks for.
#[inline(always)]
unsafe fn finish<L: Lanes, const R: usize>(job: &Job<'_>, p: usize, row: usize, tile: &mut Tile<R>) {
    let first = p * PANEL;
    let valid = (job.product.weights.n() - first).min(PANEL);
    // SAFETY: the output has the rows and columns (checked in `matmul`); vectors never pass `valid` columns.
    unsafe {
        for (r, tile) in tile.iter_mut().enumerate() {
            let out = job.out.data.add((row + r) * job.out.stride + job.product.column);
            if matches!(job.product.then, Then::SwiGlu) {
                let (gate, value) = (L::load(tile.as_ptr()), L::load(tile.as_ptr().add(LANES)));
                L::store(out.add(first / 2), L::mul(math::silu::<L>(gate), value));
                continue;
            }
            let out = out.add(first);
            if valid == PANEL {
                for c in [0, LANES] {
                    let y = L::load(tile.as_ptr().add(c));
                    L::store(out.add(c), apply::<L>(job, first + c, y, out.add(c)));
                }
                continue;
            }
            // The last, narrow panel: through a full-width copy.
            let (mut old, mut bias) = ([0f32; PANEL], [0f32; PANEL]);
            for c in 0..valid {
                old[c] = *out.add(c);
            }
            if let Then::Bias(b) | Then::AddBias(b) | Then::BiasGelu(b) = job.product.then {
                bias[..valid].copy_from_slice(&b[first..]);
            }
            for c in [0, LANES] {
                let y = L::load(tile.as_ptr().add(c));
                let (old, bias) = (L::load(old.as_ptr().add(c)), L::load(bias.as_ptr().add(c)));
                L::store(tile.as_mut_ptr().add(c), combine::<L>(job.product.then, y, old, bias));
            }
            for (c, y) in tile.iter().take(valid).enumerate() {
                *out.add(c) = *y;
            }
        }
    }
}

#[inline(always)]
unsafe fn apply<L: Lanes>(job: &Job<'_>, column: usize, y: L::F, out: *const f32) -> L::F {
    // SAFETY: sixteen columns from `column` exist in the output and in a bias.
    unsafe {
        match job.product.then {
            Then::Bias(bias) | Then::AddBias(bias) | Then::BiasGelu(bias) => {
                combine::<L>(job.product.then, y, L::load(out), L::load(bias.as_ptr().add(column)))
            }
            then => combine::<L>(then, y, L::load(out), L::splat(0.0)),
        }
    }
}

#[inline(always)]
unsafe fn combine<L: Lanes>(then: Then<'_>, y: L::F, old: L::F, bias: L::F) -> L::F {
    // SAFETY: register arithmetic.
    unsafe {
        match then {
            Then::Store | Then::SwiGlu => y,
            Then::Add => L::add(old, y),
            Then::Bias(_) => L::add(y, bias),
            Then::AddBias(_) => L::add(old, L::add(y, bias)),
            Then::BiasGelu(_) => math::gelu::<L>(L::add(y, bias)),
        }
    }
}
