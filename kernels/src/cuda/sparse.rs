//! Linear layers of 2:4 sparse weights.

use half::bf16;

use super::device::Stream;
use super::error::CudaError;
use super::gemm::cheapest;
use super::launch::{Grid, argument, check, launch, shape_error};
use super::maps::Boxes;
use super::tensor::{Buffer, Tensor, TensorMut};

/// Features of a tile, columns of K of a stage, rows of x that leave the block at a time and bytes of each, as in the kernel.
const FEATURES: usize = 128;
const DEPTH: usize = 64;
const CHUNK: usize = 32;
const BOARD_ROW: usize = 144;
const MOST_SHARED: usize = 232_448 - 2048;
const MOST_STAGES: usize = 12;
/// Words of 64 features and 64 columns: one for each thread of a warpgroup.
const WORDS: usize = 128;
/// Two places of two bits: the first two of four, where nothing is kept.
const NOTHING: u32 = 0x4;

/// A weight `[features, columns]` of bf16 of which every four neighbours of a row have at most two that are not zero, in the kernel's own order: 9/16
/// of the dense weight's bytes.
#[derive(Debug)]
pub struct SparseWeights {
    values: Buffer<bf16>,
    words: Buffer<u32>,
    shape: [usize; 2],
}

impl SparseWeights {
    /// Packs on the host.
    ///
    /// # Errors
    /// [`CudaError::Shape`] unless features is a multiple of 8 and columns of 16, and every four neighbours have two zeros ([`prune_2_of_4`] makes them).
    pub fn from_host(stream: &Stream, shape: [usize; 2], weight: &[bf16]) -> Result<Self, CudaError> {
        let (values, words) = pack(shape, weight)?;
        Ok(Self {
            values: Buffer::from_host(stream, &values)?,
            words: Buffer::from_host(stream, &words)?,
            shape,
        })
    }

    /// `[features, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }
}

/// Of every four neighbours the two of the least magnitude become zero, the later ones where magnitudes are equal; a NaN stays.
pub fn prune_2_of_4(weight: &mut [bf16]) {
    for four in weight.chunks_exact_mut(4) {
        let mut order = [0, 1, 2, 3];
        order.sort_by(|&a, &b| {
            let magnitude = |i: usize| bf16::from_bits(four[i].to_bits() & 0x7fff).to_f32();
            magnitude(b).total_cmp(&magnitude(a))
        });
        for &place in &order[2..] {
            four[place] = bf16::ZERO;
        }
    }
}

/// Values `[features, columns / 2]`, and words `[features / 64, columns / 64, 128]`, both quotients rounded up to whole tiles.
fn pack([features, columns]: [usize; 2], weight: &[bf16]) -> Result<(Vec<bf16>, Vec<u32>), CudaError> {
    let refuse = |limit: String| {
        let found = format!("[{features}, {columns}] from {} numbers", weight.len());
        Err(shape_error("SparseWeights", found, limit))
    };
    if features == 0
        || columns == 0
        || features % 8 != 0
        || columns % 16 != 0
        || features.max(columns) > 1 << 30
    {
        return refuse(
            "features must be a multiple of 8 and columns of 16, neither zero nor above 2^30".into(),
        );
    }
    if weight.len() != features * columns {
        return refuse("one number a weight".into());
    }
    let steps = columns.div_ceil(DEPTH);
    let mut values = Vec::with_capacity(weight.len() / 2);
    let nothing = (0..8).fold(0, |word, i| word | NOTHING << (4 * i));
    let mut words = vec![nothing; features.next_multiple_of(FEATURES) / 64 * steps * WORDS];
    for (index, four) in weight.chunks_exact(4).enumerate() {
        let (feature, column) = (index * 4 / columns, index * 4 % columns);
        let kept: Vec<usize> = (0..4).filter(|&i| four[i].to_bits() << 1 != 0).collect();
        // Two places that rise, whatever lies there.
        let places = match kept[..] {
            [] => [0, 1],
            [3] => [2, 3],
            [one] => [one, 3],
            [one, two] => [one, two],
            _ => {
                return refuse(format!(
                    "of columns {column} to {} of feature {feature}, {} are not zero: at most two may be",
                    column + 3,
                    kept.len()
                ));
            }
        };
        values.extend(places.map(|i| four[i]));
        let (row, group) = (feature % 16, column % DEPTH / 4);
        let lane = row % 8 * 4 + group / 4;
        let at = (feature / 64 * steps + column / DEPTH) * WORDS + feature % 64 / 16 * 32 + lane;
        let shift = row / 8 * 16 + group % 4 * 4;
        words[at] = words[at] & !(0xf << shift) | ((places[0] | places[1] << 2) as u32) << shift;
    }
    Ok((values, words))
}

#[repr(C)]
struct Problem {
    y: u64,
    words: u64,
    m: i32,
    n: i32,
    k: i32,
}

/// `y ← x · Wᵀ` of a 2:4 sparse weight: `x` `[rows, columns]`, `y` `[rows, features]`, bf16 with f32 sums, 16-byte aligned.
///
/// A row's bits do not depend on how many rows there are. A NaN in x reaches its row where the weight has a number beside it that is kept.
/// Source: `cuda/gemm/linear_sparse.cu` (2:4: Mishra et al., 2021).
///
/// # Errors
/// [`CudaError::Shape`], [`CudaError::Misaligned`], [`CudaError::Aliased`] before anything is written; [`CudaError::Driver`] from the launch.
pub fn linear_sparse(
    stream: &Stream,
    y: &mut TensorMut<'_, bf16, 2>,
    x: Tensor<'_, bf16, 2>,
    weights: &SparseWeights,
) -> Result<(), CudaError> {
    const CALL: &str = "linear_sparse";
    let ([rows, columns], [features, weight_columns]) = (x.shape, weights.shape);
    if y.shape() != [rows, features] || columns != weight_columns || rows > 1 << 30 {
        return Err(shape_error(
            CALL,
            format!("y {y:?}, x {x:?}, weights [{features}, {weight_columns}]"),
            "y must be [rows, features] for x [rows, columns] and weights [features, columns], rows at most 2^30",
        ));
    }
    let values = weights.values.view([features, columns / 2])?;
    let words = weights.words.view([weights.words.len()])?;
    let inputs = [("x", x.span()), ("weights", values.span()), ("words", words.span())];
    check(CALL, stream, 16, &[("y", y.span())], &inputs)?;
    if rows == 0 {
        return Ok(());
    }
    let (m, multiprocessors) = (&stream.device.modules, stream.device.multiprocessors as usize);
    let width = match rows {
        0..=16 => 16,
        17..=64 => 64,
        _ => cheapest(&[256, 128], [FEATURES, 64], [features, rows], multiprocessors),
    };
    let kernel = match width {
        16 => m.linear_sparse_16,
        64 => m.linear_sparse_64,
        128 => m.linear_sparse_128,
        _ => m.linear_sparse_256,
    };
    let stage = width * DEPTH * 2 + FEATURES * DEPTH + 2 * WORDS * 4;
    let boards = 2 * CHUNK * BOARD_ROW;
    let stages = ((MOST_SHARED - boards) / stage).min(MOST_STAGES);
    let tiles = rows.div_ceil(width).saturating_mul(features.div_ceil(FEATURES));
    let grid = Grid {
        blocks: (tiles.min(multiprocessors) as u32, 1),
        threads: 384,
        shared: (1024 + stages * stage + boards) as u32,
    };
    let problem = Problem {
        y: y.view.pointer,
        words: words.pointer,
        m: rows as i32,
        n: features as i32,
        k: columns as i32,
    };
    stream.device.bind(CALL)?;
    let map = |address: u64, height: usize, width: usize, extents: [usize; 2]| {
        let extents = extents.map(|e| e as u32);
        Boxes::of_bf16(address, [width as u64, height as u64], &[width as u64 * 2], extents).map(CALL)
    };
    let map_x = map(x.pointer, rows, columns, [DEPTH, width])?;
    let map_w = map(values.pointer, features, columns / 2, [DEPTH / 2, FEATURES])?;
    let mut arguments = [argument(&map_x), argument(&map_w), argument(&problem)];
    // SAFETY: the values mirror the kernel's parameters; copies and stores are bounded by the maps and the extents checked above, the words are padded.
    unsafe {
        launch(CALL, stream, kernel, grid, &mut arguments, || {
            format!("x {x:?}, weights [{features}, {columns}]")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weight that packed values and words stand for, as the kernel reads them.
    fn unpack([features, columns]: [usize; 2], values: &[bf16], words: &[u32]) -> Vec<bf16> {
        let mut weight = vec![bf16::ZERO; features * columns];
        for feature in 0..features {
            for group in 0..columns / 4 {
                let (step, within) = (group / 16, group % 16);
                let lane = feature % 64 / 16 * 32 + feature % 8 * 4 + within / 4;
                let word = words[(feature / 64 * columns.div_ceil(64) + step) * 128 + lane];
                let nibble = word >> (feature % 16 / 8 * 16 + within % 4 * 4) & 15;
                assert!(nibble & 3 < nibble >> 2, "places rise");
                for (i, place) in [nibble & 3, nibble >> 2].into_iter().enumerate() {
                    weight[feature * columns + group * 4 + place as usize] =
                        values[feature * columns / 2 + group * 2 + i];
                }
            }
        }
        weight
    }

    #[test]
    fn a_pruned_weight_is_packed_and_read_back() {
        for shape in [[8, 16], [72, 80], [200, 192]] {
            let mut weight: Vec<bf16> = (0..shape[0] * shape[1])
                .map(|i| bf16::from_f32(((i * 37 + i / 11) % 101) as f32 - 50.0))
                .collect();
            prune_2_of_4(&mut weight);
            let (values, words) = pack(shape, &weight).expect("a legal weight");
            assert_eq!(unpack(shape, &values, &words), weight, "{shape:?}");
        }
    }

    #[test]
    fn three_of_four_are_refused_and_the_two_greatest_are_kept() {
        let mut weight = vec![bf16::ZERO; 8 * 16];
        for (place, value) in [(20, 1.0), (21, -3.0), (23, 2.0)] {
            weight[place] = bf16::from_f32(value);
        }
        let error = pack([8, 16], &weight).expect_err("three of four").to_string();
        assert!(error.contains("columns 4 to 7 of feature 1, 3 are not zero"), "{error}");
        prune_2_of_4(&mut weight);
        let kept: Vec<f32> = weight[20..24].iter().map(|w| w.to_f32()).collect();
        assert_eq!(kept, [0.0, -3.0, 0.0, 2.0]);
        assert!(pack([8, 24], &weight).is_err_and(|e| e.to_string().contains("columns of 16")));
    }
}
