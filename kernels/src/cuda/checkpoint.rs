//! 4-bit weights as GPTQ and AWQ checkpoints hold them, into the order of [`PackedW4`].

use half::{bf16, f16};

use super::device::Stream;
use super::error::CudaError;
use super::launch::shape_error;
use super::quant::{GROUP, PackedW4};

/// Which of its eight columns each nibble of an AWQ word holds, from the lowest nibble on.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The tensors of a 4-bit linear layer in a checkpoint; row-major, as they lie in its file. Their extents follow from `[features, columns]`, the weight's
/// shape as [`PackedW4`] names it (a checkpoint calls columns `in_features`).
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// GPTQ `[columns / 8, features]`, AWQ `[columns, features / 8]`.
    pub qweight: &'a [i32],
    /// `[columns / group, features / 8]`.
    pub qzeros: &'a [i32],
    /// `[columns / group, features]`; rounded to bf16.
    pub scales: &'a [f16],
    /// Columns that share a scale: a multiple of 128, or `columns` where a feature has one.
    pub group: usize,
}

/// How a checkpoint's words are cut into nibbles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// Eight columns a word, from the lowest nibble on; zeros are stored one less than they are (the format's first version, which `AutoGPTQ` and GPTQModel
    /// write by default).
    Gptq,
    /// As `Gptq`, zeros as they are (`checkpoint_format: gptq_v2`).
    GptqV2,
    /// Eight features a word, in the order 0 2 4 6 1 3 5 7 (the `gemm` version of `AutoAWQ`).
    Awq,
}

impl PackedW4 {
    /// Packs a layer of a checkpoint on the host. An activation order (`desc_act`, a `g_idx` that is not column / group) is for the caller to refuse: its
    /// columns do not lie in groups.
    ///
    /// # Errors
    /// [`CudaError::Shape`] for extents that do not belong together, a group that is no multiple of 128, and what [`PackedW4::from_host`] refuses.
    pub fn from_checkpoint(
        stream: &Stream,
        shape: [usize; 2],
        format: CheckpointFormat,
        of: Checkpoint<'_>,
    ) -> Result<Self, CudaError> {
        let (nibbles, scales, zeros) = unpack(shape, format, of)?;
        Self::from_host(stream, shape, &nibbles, &scales, &zeros)
    }
}

/// Nibbles `[features, columns]`, scales and zeros `[features, columns / 128]`.
type Layer = (Vec<u8>, Vec<bf16>, Vec<u8>);

fn unpack(
    [features, columns]: [usize; 2],
    format: CheckpointFormat,
    of: Checkpoint<'_>,
) -> Result<Layer, CudaError> {
    let refuse = |limit: &str| {
        Err(shape_error(
            "PackedW4::from_checkpoint",
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
    let groups = columns / of.group;
    if of.qweight.len() != features / 8 * columns
        || of.qzeros.len() != groups * features / 8
        || of.scales.len() != groups * features
    {
        return refuse("a word for eight weights, a scale and a nibble of zeros for each group of a feature");
    }
    let nibble = |word: i32, place: usize| (word as u32 >> (4 * place) & 15) as u8;
    // Where a nibble of eight neighbours lies.
    let place = |eighth: usize| match format {
        CheckpointFormat::Awq => AWQ_ORDER.iter().position(|&c| c == eighth).expect("a permutation of 0 … 7"),
        _ => eighth,
    };
    let weight = |feature: usize, column: usize| match format {
        CheckpointFormat::Awq => {
            nibble(of.qweight[column * (features / 8) + feature / 8], place(feature % 8))
        }
        _ => nibble(of.qweight[column / 8 * features + feature], column % 8),
    };
    let nibbles =
        (0..features).flat_map(|f| (0..columns).map(move |c| (f, c))).map(|(f, c)| weight(f, c)).collect();
    let of_groups =
        || (0..features).flat_map(|f| (0..columns / GROUP).map(move |g| (f, g * GROUP / of.group)));
    let scales = of_groups().map(|(f, g)| bf16::from_f32(of.scales[g * features + f].to_f32())).collect();
    let more = u8::from(format == CheckpointFormat::Gptq);
    let zero = |f: usize, g: usize| nibble(of.qzeros[g * (features / 8) + f / 8], place(f % 8)) + more;
    let zeros = of_groups().map(|(f, g)| zero(f, g)).collect();
    Ok((nibbles, scales, zeros))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 2] = [16, 256];

    /// What the layer's nibbles, scales and zeros are, and the checkpoint's tensors written by the formats' own packers' rules: a word is the sum of its
    /// eight entries, the i-th shifted by 4 i.
    fn layer(seed: u32) -> (Vec<u8>, Vec<f16>, Vec<u8>) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 20
        };
        let [features, columns] = SHAPE;
        let nibbles = (0..features * columns).map(|_| (next() % 16) as u8).collect();
        let scales = (0..features * 2).map(|_| f16::from_f32((next() % 97 + 1) as f32 / 64.0)).collect();
        (nibbles, scales, (0..features * 2).map(|_| (next() % 15 + 1) as u8).collect())
    }

    fn word(entries: impl Iterator<Item = u8>) -> i32 {
        entries.enumerate().map(|(i, e)| u32::from(e) << (4 * i)).sum::<u32>() as i32
    }

    #[test]
    fn every_format_unpacks_to_the_layer_it_was_packed_from() {
        let [features, columns] = SHAPE;
        for seed in 0..20 {
            let (nibbles, scales, zeros) = layer(seed);
            let at = |f: usize, c: usize| nibbles[f * columns + c];
            let of_groups = |v: &[f16]| -> Vec<f16> {
                (0..2).flat_map(|g| (0..features).map(move |f| (f, g))).map(|(f, g)| v[f * 2 + g]).collect()
            };
            let want =
                (nibbles.clone(), scales.iter().map(|s| bf16::from_f32(s.to_f32())).collect(), zeros.clone());
            for format in [CheckpointFormat::Gptq, CheckpointFormat::GptqV2, CheckpointFormat::Awq] {
                let awq = format == CheckpointFormat::Awq;
                let order = |i: usize| if awq { AWQ_ORDER[i] } else { i };
                let less = u8::from(format == CheckpointFormat::Gptq);
                let qweight: Vec<i32> = if awq {
                    (0..columns)
                        .flat_map(|c| (0..features / 8).map(move |w| (c, w)))
                        .map(|(c, w)| word((0..8).map(|i| at(w * 8 + order(i), c))))
                        .collect()
                } else {
                    (0..columns / 8)
                        .flat_map(|w| (0..features).map(move |f| (w, f)))
                        .map(|(w, f)| word((0..8).map(|i| at(f, w * 8 + i))))
                        .collect()
                };
                let qzeros: Vec<i32> = (0..2)
                    .flat_map(|g| (0..features / 8).map(move |w| (g, w)))
                    .map(|(g, w)| word((0..8).map(|i| zeros[(w * 8 + order(i)) * 2 + g] - less)))
                    .collect();
                let scales = of_groups(&scales);
                let of = Checkpoint { qweight: &qweight, qzeros: &qzeros, scales: &scales, group: 128 };
                assert_eq!(unpack(SHAPE, format, of).expect("a legal layer"), want, "{format:?} {seed}");
            }
        }
    }

    #[test]
    fn a_stored_gptq_zero_of_fifteen_is_sixteen_and_one_scale_a_feature_serves_every_group() {
        let (qweight, qzeros, scales) = (vec![0x7654_3210; 512], vec![-1; 2], vec![f16::ONE; 16]);
        let of = Checkpoint { qweight: &qweight, qzeros: &qzeros, scales: &scales, group: 256 };
        let (nibbles, scales, zeros) = unpack(SHAPE, CheckpointFormat::Gptq, of).expect("a legal layer");
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
        let limit = |of| unpack(SHAPE, CheckpointFormat::Awq, of).err().map(|e| e.to_string());
        assert!(limit(of(64, 512)).is_some_and(|e| e.contains("multiple of 128")));
        assert!(limit(of(128, 511)).is_some_and(|e| e.contains("511 words")));
        assert_eq!(limit(of(128, 512)), None);
    }
}
