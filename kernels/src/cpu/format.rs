//! The block formats of GGUF tensors, decoded plainly: the definition that every packed form is tested against.
//!
//! Layouts are those of the GGML project's `ggml-common.h`: little endian, blocks along the row.

use half::{bf16, f16};

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// 32 values: half `d`, 4 bits each: `d · (q - 8)`.
    Q4_0,
    /// 32 values: half `d` and `m`, 4 bits each: `d · q + m`.
    Q4_1,
    /// 32 values: half `d`, 8 bits each: `d · q`.
    Q8_0,
    /// 256 values: half `d` and `dmin`, eight sub-blocks of 32 with 6-bit scale and minimum, 4 bits each.
    Q4K,
    /// 256 values: half `d`, sixteen sub-blocks of 16 with 8-bit scales, 6 bits each.
    Q6K,
}

impl BlockType {
    /// Values of a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `k` values; `None` when `k` is no whole number of blocks.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        if k.is_multiple_of(self.block_len()) {
            (k / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Its name in GGUF files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum of sub-block `j` of a Q4_K block's twelve packed bytes.
pub(crate) fn q4k_scale_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        ((low & 0x0f) | ((packed[j - 4] >> 6) << 4), (low >> 4) | ((packed[j] >> 6) << 4))
    }
}

/// Whether every value of a row is a finite number, told from the numbers that each block stores as floats: a block's other values
/// are small integers. `data` must hold whole blocks.
pub fn row_is_finite(kind: BlockType, data: &[u8]) -> bool {
    let finite = |b: &[u8], at: usize| f16::from_le_bytes([b[at], b[at + 1]]).is_finite();
    data.chunks_exact(kind.block_bytes()).all(|b| match kind {
        BlockType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite(),
        BlockType::Bf16 => bf16::from_le_bytes([b[0], b[1]]).is_finite(),
        BlockType::F16 | BlockType::Q4_0 | BlockType::Q8_0 => finite(b, 0),
        BlockType::Q4_1 | BlockType::Q4K => finite(b, 0) && finite(b, 2),
        BlockType::Q6K => finite(b, 208),
    })
}

/// Decodes one row. `data` must hold exactly the blocks of `out.len()` values.
pub fn dequantize_row(kind: BlockType, data: &[u8], out: &mut [f32]) {
    assert_eq!(kind.row_bytes(out.len()), Some(data.len()), "{} row of {} values", kind.name(), out.len());
    let blocks = data.chunks_exact(kind.block_bytes()).zip(out.chunks_exact_mut(kind.block_len()));
    match kind {
        BlockType::F32 => blocks.for_each(|(b, y)| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        BlockType::F16 => blocks.for_each(|(b, y)| y[0] = half_at(b, 0)),
        BlockType::Bf16 => blocks.for_each(|(b, y)| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        BlockType::Q4_0 => blocks.for_each(|(b, y)| {
            let d = half_at(b, 0);
            for (j, q) in b[2..].iter().enumerate() {
                y[j] = d * (f32::from(q & 0x0f) - 8.0);
                y[j + 16] = d * (f32::from(q >> 4) - 8.0);
            }
        }),
        BlockType::Q4_1 => blocks.for_each(|(b, y)| {
            let (d, m) = (half_at(b, 0), half_at(b, 2));
            for (j, q) in b[4..].iter().enumerate() {
                y[j] = d * f32::from(q & 0x0f) + m;
                y[j + 16] = d * f32::from(q >> 4) + m;
            }
        }),
        BlockType::Q8_0 => blocks.for_each(|(b, y)| {
            let d = half_at(b, 0);
            for (y, q) in y.iter_mut().zip(&b[2..]) {
                *y = d * f32::from(*q as i8);
            }
        }),
        BlockType::Q4K => blocks.for_each(|(b, y)| dequantize_q4k(b, y)),
        BlockType::Q6K => blocks.for_each(|(b, y)| dequantize_q6k(b, y)),
    }
}

fn dequantize_q4k(b: &[u8], y: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = q4k_scale_min(&b[4..16], j);
        let (d, m) = (d * f32::from(scale), dmin * f32::from(min));
        let bytes = &b[16 + j / 2 * 32..][..32];
        for (y, q) in y.iter_mut().zip(bytes) {
            let q = if j % 2 == 0 { q & 0x0f } else { q >> 4 };
            *y = d * f32::from(q) - m;
        }
    }
}

fn dequantize_q6k(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 208);
    for (half, y) in y.chunks_exact_mut(128).enumerate() {
        let (low, high, scales) = (&b[64 * half..], &b[128 + 32 * half..], &b[192 + 8 * half..]);
        for quarter in 0..4 {
            for l in 0..32 {
                let nibbles = low[l + 32 * (quarter % 2)];
                let nibble = if quarter < 2 { nibbles & 0x0f } else { nibbles >> 4 };
                let q = i32::from(nibble | (((high[l] >> (2 * quarter)) & 3) << 4)) - 32;
                let scale = d * f32::from(scales[l / 16 + 2 * quarter] as i8);
                y[l + 32 * quarter] = scale * q as f32;
            }
        }
    }
}
