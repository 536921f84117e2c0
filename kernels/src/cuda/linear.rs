//! Linear layers of 16-bit and 8-bit operands with an epilogue.

use half::{bf16, f16};

use super::device::Stream;
use super::error::CudaError;
use super::gemm::{FEW_OVERHANG, FEW_STAGES, MANY_SPARE, MOST_FEW, TILE_ROWS, Tile, cheapest};
use super::launch::{Grid, Named, argument, check, launch, shape_error};
use super::maps::Boxes;
use super::module::{Kernel, Modules};
use super::tensor::{E4m3, Element, Tensor, TensorMut};

/// Columns that share a scale in [`linear_blocks`], and features that do.
pub const SCALE_BLOCK: usize = 128;
/// Columns of integers up to which no sum of products can pass 32 bits: each is 128 · 128 at most.
const MOST_INTEGERS: usize = (i32::MAX / (128 * 128)) as usize;
/// Bytes of a row that one step multiplies: the width of the swizzle.
const STEP_BYTES: usize = 128;

/// Which kernels an operand type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperandKind {
    /// 16 bits: 8 of exponent.
    Bf16,
    /// 16 bits: 5 of exponent.
    F16,
    /// 8 bits: 4 of exponent.
    E4m3,
    /// Integers.
    Int8,
}

/// What a linear layer multiplies.
pub trait Operand: Element {
    /// What the layer's output, bias and residual are made of.
    type Output: Element;
    /// Its kernels.
    const KIND: OperandKind;
}
macro_rules! operand {
    ($($type:ty => $output:ty, $kind:ident);*) => {
        $(impl Operand for $type { type Output = $output; const KIND: OperandKind = OperandKind::$kind; })*
    };
}
operand!(bf16 => bf16, Bf16; f16 => f16, F16; E4m3 => bf16, E4m3; i8 => bf16, Int8);

/// Scales of 8-bit operands: the products' sum times the row's times the feature's.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// Of x: one a row, or one for all.
    pub x: Tensor<'a, f32, 1>,
    /// Of the weight: one a feature, or one for all.
    pub weight: Tensor<'a, f32, 1>,
}

/// What an activation function does to the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `v · sigmoid(v)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
    /// GELU by erf: to 2^-10 of its value from −7 on, and to 1e-12 below.
    GeluErf,
}

impl Activation {
    /// P of `v / (1 + 2^(v · P(v²)))`, the constant first: what the kernels evaluate, of v² up to 49.
    ///
    /// Of GELU by erf it is a minimax fit of degree 6 to logit(Φ(v)) / v for v up to 7, to 1.1e-3 of the logit.
    fn curve(self) -> [f32; 7] {
        let logit: [f32; 7] = match self {
            Self::None => [0.0; 7],
            Self::Silu => [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            Self::GeluTanh => [1.595_769, 0.071_354_81, 0.0, 0.0, 0.0, 0.0, 0.0],
            Self::GeluErf => [
                1.593_095_4,
                0.075_409_8,
                -8.864_418_5e-4,
                -9.816_835e-7,
                4.630_312e-7,
                -9.438_645e-9,
                6.247_709e-11,
            ],
        };
        logit.map(|c| -std::f32::consts::LOG2_E * c)
    }
}

/// What happens to a sum before it is rounded: `activation(sum · scales + bias)`, times the gate's other factor, plus the residual.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, T: Element> {
    /// `[features]`.
    pub bias: Option<Tensor<'a, T, 1>>,
    /// Applied behind the bias.
    pub activation: Activation,
    /// The weight's rows are eight of the gate, eight of the other factor, and so on ([`interleave_gate`]); the output has half as many
    /// features, `activation(gate) · other`.
    pub gated: bool,
    /// Shaped as the output.
    pub residual: Option<Tensor<'a, T, 2>>,
}

impl<T: Element> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self { bias: None, activation: Activation::None, gated: false, residual: None }
    }
}

/// The row of a gated layer's weight for row `index` of `[gate; other]`, each of `inner` rows, a multiple of 8.
#[must_use]
pub fn interleave_gate(index: usize, inner: usize) -> usize {
    let (of_gate, row) = (index < inner, if index < inner { index } else { index - inner });
    row / 8 * 16 + row % 8 + if of_gate { 0 } else { 8 }
}

#[repr(C)]
struct Problem {
    y: u64,
    bias: u64,
    residual: u64,
    row_scale: u64,
    column_scale: u64,
    m: i32,
    n: i32,
    k: i32,
    row_scales: i32,
    column_scales: i32,
    active: i32,
    curve: [f32; 7],
    gated: i32,
    features: i32,
    stages: i32,
}

#[repr(C)]
struct BlockScales {
    x: u64,
    weight: u64,
}

/// A call whose shapes belong together.
pub(super) struct Checked {
    call: &'static str,
    found: String,
    pub(super) rows: usize,
    pub(super) features: usize,
    pub(super) columns: usize,
    element_bytes: usize,
    pub(super) x: u64,
    pub(super) weight: u64,
    problem: Problem,
}

/// `y ← epilogue(x · Wᵀ)`: `x` `[rows, columns]`, `weight` `[features, columns]`, `y` `[rows, features]`, or half as many features where gated.
///
/// Operands bf16, fp16, e4m3 or int8; 8-bit ones need `scales`, 16-bit ones take none. Sums in f32 (e4m3: in the tensor cores' own precision, some
/// 14 bits within 32 products), exact for int8, of at most 131,071 columns; rounded once, to bf16 (fp16 for fp16). Features a multiple of 8 (gated: 16), rows of x and of the
/// weight a multiple of 16 bytes, everything 16-byte aligned. A row's bits do not depend on how many rows there are.
/// Source: `cuda/gemm/linear_fused.cu`, `linear_8bit.cu`, `epilogue.cuh`.
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn linear<T: Operand>(
    stream: &Stream,
    y: &mut TensorMut<'_, T::Output, 2>,
    x: Tensor<'_, T, 2>,
    weight: Tensor<'_, T, 2>,
    scales: Option<Scales<'_>>,
    epilogue: Epilogue<'_, T::Output>,
) -> Result<(), CudaError> {
    const CALL: &str = "linear";
    let scaled = matches!(T::KIND, OperandKind::E4m3 | OperandKind::Int8);
    let (rows, features) = (x.shape[0], weight.shape[0]);
    let one_or = |n: usize, tensor: Tensor<'_, f32, 1>| tensor.shape[0] == 1 || tensor.shape[0] == n;
    if scaled != scales.is_some() || scales.is_some_and(|s| !one_or(rows, s.x) || !one_or(features, s.weight))
    {
        return Err(shape_error(
            CALL,
            format!("x {x:?}, weight {weight:?}, scales {scales:?}"),
            "8-bit operands need scales, one a row of x and one a feature or one for all; 16-bit operands take none",
        ));
    }
    let spans = scales.map(|s| [("x scales", s.x.span()), ("weight scales", s.weight.span())]);
    let Some(mut call) =
        checked(CALL, stream, y, x, weight, epilogue, spans.as_ref().map_or(&[], |s| &s[..]))?
    else {
        return Ok(());
    };
    if let Some(s) = scales {
        call.problem.row_scale = s.x.pointer;
        call.problem.column_scale = s.weight.pointer;
        call.problem.row_scales = i32::from(s.x.shape[0] != 1);
        call.problem.column_scales = i32::from(s.weight.shape[0] != 1);
    }
    let m = &stream.device.modules;
    // No tile with a gate or an activation is wider than 128.
    let plain = !epilogue.gated && epilogue.activation == Activation::None;
    let widths: &[usize] = match (plain, T::KIND) {
        (true, OperandKind::E4m3) => &[256, 224, 192, 160, 128, 96, 64],
        (true, _) => &[256, 192, 128, 64],
        (false, _) => &[128, 64],
    };
    let tile = tile(&call, widths, stream.device.multiprocessors as usize);
    queue(stream, call, tile, kernel(m, T::KIND, tile, rows), 2, None)
}

/// [`linear`] for e4m3 with a scale for every 128 columns of a row of x and for every 128 × 128 of the weight, as DeepSeek-V3's checkpoints have them:
/// `x_scales` `[columns / 128, rows]`, `weight_scales` `[features / 128, columns / 128]`, both quotients rounded up. The blocks' sums are added in f32.
/// Source: `cuda/gemm/linear_block.cu`.
///
/// # Errors
/// As [`linear`].
pub fn linear_blocks(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, E4m3, 2>,
    weight: Tensor<'_, E4m3, 2>,
    x_scales: Tensor<'_, f32, 2>,
    weight_scales: Tensor<'_, f32, 2>,
    epilogue: Epilogue<'_, bf16>,
) -> Result<(), CudaError> {
    const CALL: &str = "linear_blocks";
    let (blocks, feature_blocks) = (x.shape[1].div_ceil(SCALE_BLOCK), weight.shape[0].div_ceil(SCALE_BLOCK));
    if x_scales.shape != [blocks, x.shape[0]] || weight_scales.shape != [feature_blocks, blocks] {
        return Err(shape_error(
            CALL,
            format!("x {x:?}, weight {weight:?}, scales {x_scales:?} and {weight_scales:?}"),
            "scales are [columns / 128, rows] of x and [features / 128, columns / 128] of the weight, rounded up",
        ));
    }
    let spans = [("x scales", x_scales.span()), ("weight scales", weight_scales.span())];
    let Some(call) = checked(CALL, stream, y, x, weight, epilogue, &spans)? else { return Ok(()) };
    let m = &stream.device.modules;
    let tile = tile(&call, &[128], stream.device.multiprocessors as usize);
    let kernel = match (tile, call.rows) {
        (Tile::Many { .. }, _) => m.linear_block_128,
        (_, 0..=8) => m.linear_block_few_8,
        (_, 9..=16) => m.linear_block_few_16,
        (_, 17..=32) => m.linear_block_few_32,
        _ => m.linear_block_few_64,
    };
    queue(
        stream,
        call,
        tile,
        kernel,
        1,
        Some(&BlockScales { x: x_scales.pointer, weight: weight_scales.pointer }),
    )
}

/// None where there is nothing to do.
pub(super) fn checked<T: Operand>(
    call: &'static str,
    stream: &Stream,
    y: &TensorMut<'_, T::Output, 2>,
    x: Tensor<'_, T, 2>,
    weight: Tensor<'_, T, 2>,
    epilogue: Epilogue<'_, T::Output>,
    scales: &[Named],
) -> Result<Option<Checked>, CudaError> {
    let ([rows, columns], [features, weight_columns]) = (x.shape, weight.shape);
    let found = format!("y {y:?}, x {x:?}, weight {weight:?}, {epilogue:?}");
    let step = if epilogue.gated { 2 } else { 1 };
    let limit = if y.shape() != [rows, features / step] || columns != weight_columns {
        "y must be [rows, features] (gated: half as many) for x [rows, columns] and weight [features, columns]"
    } else if epilogue.bias.is_some_and(|b| b.shape[0] != features)
        || epilogue.residual.is_some_and(|r| r.shape != y.shape())
    {
        "the bias must be [features] and the residual shaped as y"
    } else if features % (8 * step) != 0 || !(columns * size_of::<T>()).is_multiple_of(16) || columns == 0 {
        "features must be a multiple of 8 (gated: 16), rows of x and weight a multiple of 16 bytes and not empty"
    } else if rows.max(features).max(columns) > 1 << 30 {
        "no extent above 2^30"
    } else if T::KIND == OperandKind::Int8 && columns > MOST_INTEGERS {
        "int8 has at most 131,071 columns: the sums of more could pass 32 bits"
    } else {
        ""
    };
    if !limit.is_empty() {
        return Err(shape_error(call, found, limit));
    }
    let mut inputs = vec![("x", x.span()), ("weight", weight.span())];
    inputs.extend(epilogue.bias.map(|b| ("bias", b.span())));
    inputs.extend(epilogue.residual.map(|r| ("residual", r.span())));
    check(call, stream, 16, &[("y", y.span())], &inputs)?;
    check(call, stream, 4, &[("y", y.span())], scales)?;
    let problem = Problem {
        y: y.view.pointer,
        bias: epilogue.bias.map_or(0, |b| b.pointer),
        residual: epilogue.residual.map_or(0, |r| r.pointer),
        row_scale: 0,
        column_scale: 0,
        m: rows as i32,
        n: features as i32,
        k: columns as i32,
        row_scales: 0,
        column_scales: 0,
        active: i32::from(epilogue.activation != Activation::None),
        curve: epilogue.activation.curve(),
        gated: i32::from(epilogue.gated),
        features: 0,
        stages: 0,
    };
    let element_bytes = size_of::<T>();
    let (x, weight) = (x.pointer, weight.pointer);
    Ok((rows > 0 && features > 0).then_some(Checked {
        call,
        found,
        rows,
        features,
        columns,
        element_bytes,
        x,
        weight,
        problem,
    }))
}

/// As [`super::linear_tile`], among the widths that these kernels have.
fn tile(call: &Checked, widths: &[usize], multiprocessors: usize) -> Tile {
    let extents = [call.rows, call.features];
    if call.rows <= MOST_FEW {
        // A gated tile has its features in sixteens.
        let narrow: &[usize] = if call.problem.gated == 0 { &[64, 56, 48, 40, 32] } else { &[64, 48, 32] };
        Tile::Few { features: cheapest(narrow, [MOST_FEW, 8], extents, multiprocessors) }
    } else {
        Tile::Many { features: cheapest(widths, [TILE_ROWS, 64], extents, multiprocessors) }
    }
}

fn kernel(m: &Modules, kind: OperandKind, tile: Tile, rows: usize) -> Kernel {
    macro_rules! of {
        ($w64:ident $w128:ident $w192:ident $w256:ident $f8:ident $f16:ident $f32:ident $f64:ident) => {
            match (tile, rows) {
                (Tile::Many { features: 64 }, _) => m.$w64,
                (Tile::Many { features: 128 }, _) => m.$w128,
                (Tile::Many { features: 192 }, _) => m.$w192,
                (Tile::Many { .. }, _) => m.$w256,
                (_, 0..=8) => m.$f8,
                (_, 9..=16) => m.$f16,
                (_, 17..=32) => m.$f32,
                _ => m.$f64,
            }
        };
    }
    match kind {
        OperandKind::Bf16 => {
            of!(linear_bf16_fused_64 linear_bf16_fused_128 linear_bf16_fused_192 linear_bf16_fused_256
                linear_bf16_fused_few_8 linear_bf16_fused_few_16 linear_bf16_fused_few_32 linear_bf16_fused_few_64)
        }
        OperandKind::F16 => {
            of!(linear_f16_fused_64 linear_f16_fused_128 linear_f16_fused_192 linear_f16_fused_256
                linear_f16_fused_few_8 linear_f16_fused_few_16 linear_f16_fused_few_32 linear_f16_fused_few_64)
        }
        OperandKind::E4m3 if tile == (Tile::Many { features: 96 }) => m.linear_e4m3_96,
        OperandKind::E4m3 if tile == (Tile::Many { features: 160 }) => m.linear_e4m3_160,
        OperandKind::E4m3 if tile == (Tile::Many { features: 224 }) => m.linear_e4m3_224,
        OperandKind::E4m3 => {
            of!(linear_e4m3_64 linear_e4m3_128 linear_e4m3_192 linear_e4m3_256
                linear_e4m3_few_8 linear_e4m3_few_16 linear_e4m3_few_32 linear_e4m3_few_64)
        }
        OperandKind::Int8 => {
            of!(linear_int8_64 linear_int8_128 linear_int8_192 linear_int8_256
                linear_int8_few_8 linear_int8_few_16 linear_int8_few_32 linear_int8_few_64)
        }
    }
}

/// `copies`: of 128 bytes of a row, a stage of the kernel for few rows.
fn queue(
    stream: &Stream,
    mut c: Checked,
    tile: Tile,
    kernel: Kernel,
    copies: usize,
    scales: Option<&BlockScales>,
) -> Result<(), CudaError> {
    let multiprocessors = stream.device.multiprocessors as usize;
    let shared = stream.device.shared_memory;
    let (box_rows, width, grid) = match tile {
        Tile::Few { features } => {
            let box_rows = c.rows.next_power_of_two().clamp(8, MOST_FEW);
            let stage = copies * (features + box_rows) * STEP_BYTES;
            let fixed = 1024 + FEW_OVERHANG;
            let own = box_rows * 144 + FEW_STAGES * 16 + 64;
            let stages = ((shared - fixed - own) / stage).min(FEW_STAGES);
            (c.problem.features, c.problem.stages) = (features as i32, stages as i32);
            let blocks = c.features.div_ceil(features).min(multiprocessors) as u32;
            (
                box_rows,
                features,
                Grid { blocks: (blocks, 1), threads: 160, shared: (stages * stage + fixed) as u32 },
            )
        }
        Tile::Many { features } => {
            let stage = (TILE_ROWS + features) * STEP_BYTES;
            // Two scales and biases a column lie beside the ring.
            let stages = (shared - MANY_SPARE - features * 16) / stage;
            let tiles = c.rows.div_ceil(TILE_ROWS).saturating_mul(c.features.div_ceil(features));
            if i32::try_from(tiles).is_err() {
                return Err(shape_error(c.call, c.found, "at most 2^31 tiles"));
            }
            let blocks = tiles.min(multiprocessors) as u32;
            (
                TILE_ROWS,
                features,
                Grid { blocks: (blocks, 1), threads: 384, shared: (stages * stage + 1024) as u32 },
            )
        }
    };
    stream.device.bind(c.call)?;
    let map = |address: u64, height: usize, rows: usize| {
        let (width, bytes) = (c.columns as u64, c.element_bytes);
        let each = [(STEP_BYTES / bytes) as u32, rows as u32];
        let strides = [width * bytes as u64];
        let boxes = Boxes::of_bf16(address, [width, height as u64], &strides, each);
        Boxes { element_bytes: bytes, ..boxes }.map(c.call)
    };
    let (map_x, map_w) = (map(c.x, c.rows, c.rows.min(box_rows))?, map(c.weight, c.features, width)?);
    let mut arguments = vec![argument(&map_x), argument(&map_w), argument(&c.problem)];
    arguments.extend(scales.map(argument));
    // SAFETY: the values mirror the kernel's parameters; copies and stores are bounded by the maps and the extents checked above.
    unsafe { launch(c.call, stream, kernel, grid, &mut arguments, || c.found.clone()) }
}

#[cfg(test)]
mod tests {
    use super::{Activation, MOST_INTEGERS, interleave_gate};

    #[test]
    fn the_greatest_sum_of_the_most_integers_is_one() {
        let greatest = |columns: usize| i32::try_from(columns * 128 * 128);
        assert_eq!(MOST_INTEGERS, 131_071);
        assert!(greatest(MOST_INTEGERS).is_ok() && greatest(MOST_INTEGERS + 1).is_err());
    }

    #[test]
    fn the_curves_of_activations_are_theirs() {
        let evaluate = |a: Activation, v: f64| {
            let square = (v * v).min(49.0);
            let p = a.curve().iter().rev().fold(0.0, |sum, &c| sum * square + f64::from(c));
            v / (1.0 + (v * p).exp2())
        };
        for i in -700..=800 {
            let v = f64::from(i) / 100.0;
            let tanh = 0.5 * v * (1.0 + (0.797_884_560_8 * (v + 0.044_715 * v.powi(3))).tanh());
            // Φ by its series where that converges fast, by its continued fraction in the tails.
            let density = (-v * v / 2.0).exp() / std::f64::consts::TAU.sqrt();
            let upper = |x: f64| density / (1..=120).rev().fold(x, |f, k| x + f64::from(k) / f);
            let series = (1..200).fold((v, v), |(term, sum), k| {
                let term = term * v * v / f64::from(2 * k + 1);
                (term, sum + term)
            });
            let phi = if v > 3.0 {
                1.0 - upper(v)
            } else if v < -3.0 {
                upper(-v)
            } else {
                0.5 + density * series.1
            };
            let near = |found: f64, want: f64, part: f64| {
                assert!((found - want).abs() <= part * want.abs() + 1e-7, "{v}: {found} for {want}");
            };
            near(evaluate(Activation::Silu, v), v / (1.0 + (-v).exp()), 1e-6);
            near(evaluate(Activation::GeluTanh, v), tanh, 1e-5);
            near(evaluate(Activation::GeluErf, v), v * phi, 1.0 / 900.0);
        }
    }

    #[test]
    fn a_gated_weight_has_eight_rows_of_the_gate_before_eight_of_the_other() {
        let rows: Vec<usize> = (0..48).map(|i| interleave_gate(i, 24)).collect();
        assert_eq!((rows[0], rows[7], rows[8], rows[23]), (0, 7, 16, 39));
        assert_eq!((rows[24], rows[31], rows[32], rows[47]), (8, 15, 24, 47));
        let mut sorted = rows.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..48).collect::<Vec<_>>());
    }
}
