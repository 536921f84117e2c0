//! Weights of 4 and 8 bits as GPTQ and AWQ checkpoints hold them, into the order of [`PackedW4`] and [`PackedW8`].

use half::{bf16, f16};

use super::device::Stream;
use super::error::CudaError;
use super::launch::shape_error;
use super::quant::{Bits, GROUP, PackedW4, PackedW8};

/// Which of its eight columns each nibble of an AWQ word holds, from the lowest nibble on.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The tensors of a linear layer of 4 bits, or 8, in a checkpoint; row-major, as they lie in its file. Their extents follow from `[features, columns]`, the weight's
/// shape as [`PackedW4`] names it (a checkpoint calls columns `in_features`).
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// GPTQ `[columns / 8, features]`, of 8 bits `[columns / 4, features]`; AWQ `[columns, features / 8]`.
    pub qweight: &'a [i32],
    /// `[columns / group, features / 8]`, of 8 bits `[columns / group, features / 4]`.
    pub qzeros: &'a [i32],
    /// `[columns / group, features]`; rounded to bf16.
    pub scales: &'a [f16],
    /// Columns that share a scale: a multiple of 128, or `columns` where a feature has one.
    pub group: usize,
}

/// How a checkpoint's words are cut into numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// Eight columns a word (of 8 bits four), from the lowest number on; zeros are stored one less than they are (the format's first version, which `AutoGPTQ` and GPTQModel
    /// write by default).
    Gptq,
    /// As `Gptq`, zeros as they are (`checkpoint_format: gptq_v2`).
    GptqV2,
    /// Eight features a word, in the order 0 2 4 6 1 3 5 7 (the `gemm` version of `AutoAWQ`).
    Awq,
}

macro_rules! from_checkpoint {
    ($($packed:ident, $bits:ident, $errors:literal;)*) => {$(
        impl $packed {
            /// Packs a layer of a checkpoint on the host. An activation order (`desc_act`, a `g_idx` that is not column / group) is for the caller to refuse:
            /// its columns do not lie in groups.
            ///
            /// # Errors
            #[doc = $errors]
            pub fn from_checkpoint(
                stream: &Stream,
                shape: [usize; 2],
                format: CheckpointFormat,
                of: Checkpoint<'_>,
            ) -> Result<Self, CudaError> {
                const CALL: &str = concat!(stringify!($packed), "::from_checkpoint");
                let (numbers, scales, zeros) = unpack(CALL, Bits::$bits, shape, format, of)?;
                Self::from_host(stream, shape, &numbers, &scales, &zeros)
            }
        }
    )*};
}
from_checkpoint! {
    PackedW4, Four, "[`CudaError::Shape`] for extents that do not belong together, a group that is no multiple of 128, and what [`PackedW4::from_host`] refuses.";
    PackedW8, Eight, "As of [`PackedW4::from_checkpoint`]; [`CudaError::Shape`] also for AWQ, which has none of 8 bits.";
}

/// Numbers `[features, columns]`, scales and zeros `[features, columns / 128]`.
type Layer = (Vec<u8>, Vec<bf16>, Vec<u16>);

fn unpack(
    call: &'static str,
    bits: Bits,
    [features, columns]: [usize; 2],
    format: CheckpointFormat,
    of: Checkpoint<'_>,
) -> Result<Layer, CudaError> {
    let refuse = |limit: &str| {
        Err(shape_error(
            call,
            format!(
                "[{features}, {columns}] in groups of {} from {} words, {} of zeros, {} scales",
                of.group,
                of.qweight.len(),
                of.qzeros.len(),
                of.scales.len()
            ),
            limit,
        ))
    };
    if features % 16 != 0 || columns % GROUP != 0 || features == 0 || columns == 0 {
        return refuse("features must be a multiple of 16 and columns of 128");
    }
    if of.group == 0 || !of.group.is_multiple_of(GROUP) || columns % of.group != 0 {
        return refuse("the group must be a multiple of 128 that divides the columns");
    }
    if bits == Bits::Eight && format == CheckpointFormat::Awq {
        return refuse("AWQ has 4 bits");
    }
    // Numbers of a word.
    let each = 32 / bits.count();
    let groups = columns / of.group;
    if of.qweight.len() != features / each * columns
        || of.qzeros.len() != groups * features / each
        || of.scales.len() != groups * features
    {
        return refuse(
            "a word for eight weights (of 8 bits four), a scale and a zero for each group of a feature",
        );
    }
    let number = |word: i32, place: usize| {
        (word as u32 >> (bits.count() * place)) as u8 & (0xff >> (8 - bits.count()))
    };
    // Where one of a word's neighbours lies.
    let place = |at: usize| match format {
        CheckpointFormat::Awq => AWQ_ORDER.iter().position(|&c| c == at).expect("a permutation of 0 … 7"),
        _ => at,
    };
    let weight = |feature: usize, column: usize| match format {
        CheckpointFormat::Awq => {
            number(of.qweight[column * (features / 8) + feature / 8], place(feature % 8))
        }
        _ => number(of.qweight[column / each * features + feature], column % each),
    };
    let numbers =
        (0..features).flat_map(|f| (0..columns).map(move |c| (f, c))).map(|(f, c)| weight(f, c)).collect();
    let of_groups =
        || (0..features).flat_map(|f| (0..columns / GROUP).map(move |g| (f, g * GROUP / of.group)));
    let scales = of_groups().map(|(f, g)| bf16::from_f32(of.scales[g * features + f].to_f32())).collect();
    let more = u16::from(format == CheckpointFormat::Gptq);
    let zero = |f: usize, g: usize| number(of.qzeros[g * (features / each) + f / each], place(f % each));
    let zeros = of_groups().map(|(f, g)| u16::from(zero(f, g)) + more).collect();
    Ok((numbers, scales, zeros))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 2] = [16, 256];

    /// What the layer's numbers, scales and zeros are.
    fn layer(seed: u32, bits: Bits) -> (Vec<u8>, Vec<f16>, Vec<u16>) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 20
        };
        let ([features, columns], end) = (SHAPE, 1 << bits.count());
        let numbers = (0..features * columns).map(|_| (next() % end) as u8).collect();
        let scales = (0..features * 2).map(|_| f16::from_f32((next() % 97 + 1) as f32 / 64.0)).collect();
        (numbers, scales, (0..features * 2).map(|_| (next() % (end - 1) + 1) as u16).collect())
    }

    /// A word as the formats' own packers write it: the sum of its entries, the i-th shifted by i times their bits.
    fn word(bits: Bits, entries: impl Iterator<Item = u16>) -> i32 {
        entries.enumerate().map(|(i, e)| u32::from(e) << (bits.count() * i)).sum::<u32>() as i32
    }

    #[test]
    fn every_format_unpacks_to_the_layer_it_was_packed_from() {
        use CheckpointFormat::{Awq, Gptq, GptqV2};
        let [features, columns] = SHAPE;
        for (seed, bits, format) in (0..20).flat_map(|seed| {
            let four = [Gptq, GptqV2, Awq].map(|format| (seed, Bits::Four, format));
            four.into_iter().chain([Gptq, GptqV2].map(|format| (seed, Bits::Eight, format)))
        }) {
            let (numbers, scales, zeros) = layer(seed, bits);
            let each = 32 / bits.count();
            let at = |f: usize, c: usize| u16::from(numbers[f * columns + c]);
            let order = |i: usize| if format == Awq { AWQ_ORDER[i] } else { i };
            let less = u16::from(format == Gptq);
            let qweight: Vec<i32> = if format == Awq {
                (0..columns)
                    .flat_map(|c| (0..features / 8).map(move |w| (c, w)))
                    .map(|(c, w)| word(bits, (0..8).map(|i| at(w * 8 + order(i), c))))
                    .collect()
            } else {
                (0..columns / each)
                    .flat_map(|w| (0..features).map(move |f| (w, f)))
                    .map(|(w, f)| word(bits, (0..each).map(|i| at(f, w * each + i))))
                    .collect()
            };
            let qzeros: Vec<i32> = (0..2)
                .flat_map(|g| (0..features / each).map(move |w| (g, w)))
                .map(|(g, w)| word(bits, (0..each).map(|i| zeros[(w * each + order(i)) * 2 + g] - less)))
                .collect();
            let by_group: Vec<f16> = (0..2)
                .flat_map(|g| (0..features).map(move |f| (f, g)))
                .map(|(f, g)| scales[f * 2 + g])
                .collect();
            let of = Checkpoint { qweight: &qweight, qzeros: &qzeros, scales: &by_group, group: 128 };
            let want = (numbers.clone(), scales.iter().map(|s| bf16::from_f32(s.to_f32())).collect(), zeros);
            let found = unpack("test", bits, SHAPE, format, of).expect("a legal layer");
            assert_eq!(found, want, "{bits:?} {format:?} {seed}");
        }
    }

    #[test]
    fn a_stored_gptq_zero_of_fifteen_is_sixteen_and_one_scale_a_feature_serves_every_group() {
        let (qweight, qzeros, scales) = (vec![0x7654_3210; 512], vec![-1; 2], vec![f16::ONE; 16]);
        let of = Checkpoint { qweight: &qweight, qzeros: &qzeros, scales: &scales, group: 256 };
        let (nibbles, scales, zeros) =
            unpack("test", Bits::Four, SHAPE, CheckpointFormat::Gptq, of).expect("a legal layer");
        assert_eq!(nibbles[..9], [0, 1, 2, 3, 4, 5, 6, 7, 0]);
        assert!(
            zeros.len() == 32 && zeros.iter().all(|&z| z == 16) && scales.iter().all(|&s| s == bf16::ONE)
        );
    }

    #[test]
    fn extents_that_do_not_belong_together_are_refused() {
        let (qweight, qzeros, scales) = (vec![0; 512], vec![0; 4], vec![f16::ONE; 32]);
        let of =
            |group, words| Checkpoint { qweight: &qweight[..words], qzeros: &qzeros, scales: &scales, group };
        let limit =
            |bits, of| unpack("test", bits, SHAPE, CheckpointFormat::Awq, of).err().map(|e| e.to_string());
        assert!(limit(Bits::Four, of(64, 512)).is_some_and(|e| e.contains("multiple of 128")));
        assert!(limit(Bits::Four, of(128, 511)).is_some_and(|e| e.contains("511 words")));
        assert!(limit(Bits::Eight, of(128, 512)).is_some_and(|e| e.contains("AWQ has 4 bits")));
        assert_eq!(limit(Bits::Four, of(128, 512)), None);
    }
}
