//! Weights repacked at load into panels of 32 output columns, in the order in which the kernels read them.
//!
//! A matrix `W[n × k]` (output `y = W x`) becomes `ceil(n / 32)` panels; a panel is a sequence of records, one for each 32
//! values of `k`, so that a product streams memory once, front to back. Quantised panels keep the file's own integers and scales:
//! packing loses nothing. Column `c` of a panel is `n = 32 · panel + c`; missing columns are zero.
//!
//! Record of a 4-bit panel: eight vectors of 64 bytes (`i = 0..4`, columns `0..16` then `16..32`) in which byte `4 · c + t` holds
//! `q[4 i + t]` of its column in the low nibble and `q[16 + 4 i + t]` in the high nibble, then 32 scales, then 32 minima where the
//! format has them. Record of an 8-bit panel: sixteen vectors (`i = 0..8`) of signed bytes, then 32 scales. A float panel is
//! row-major `[k × 32]`.

use super::arena::{Arena, Region};
use super::format::{BlockType, dequantize_row, q4k_scale_min};

/// Columns of a panel.
pub const PANEL: usize = 32;
/// Values of `k` that share a scale.
pub const BLOCK: usize = 32;

/// The form of a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PanelKind {
    /// 4 bits, half scale: Q4_0.
    Nibble,
    /// 4 bits, half scale and minimum: Q4_1.
    NibbleMin,
    /// 4 bits, single scale and minimum: Q4_K, whose products of scales need more than a half.
    NibbleWide,
    /// 8 bits, half scale: Q8_0.
    Byte,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl PanelKind {
    /// Bytes of a record: 32 values of `k` (one value for floats) of 32 columns.
    pub const fn record_bytes(self) -> usize {
        match self {
            Self::Nibble => 512 + 64,
            Self::NibbleMin => 512 + 128,
            Self::NibbleWide => 512 + 256,
            Self::Byte => 1024 + 64,
            Self::F32 => 4 * PANEL,
            Self::F16 | Self::Bf16 => 2 * PANEL,
        }
    }

    /// Whether products take 16-bit integer activations.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::Nibble | Self::NibbleMin | Self::NibbleWide | Self::Byte)
    }

    const fn records(self, k: usize) -> usize {
        if self.is_integer() { k / BLOCK } else { k }
    }
}

/// Why rows could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A row is not as long as its format and `k` say.
    #[error("row {row} has {given} bytes, {kind} of {k} values needs {needed}")]
    RowBytes {
        /// Which row.
        row: usize,
        /// Its bytes.
        given: usize,
        /// Bytes that the format needs.
        needed: usize,
        /// The format.
        kind: &'static str,
        /// Values of a row.
        k: usize,
    },
    /// `k` is no whole number of blocks of the format.
    #[error("{k} values are no whole number of {kind} blocks")]
    RowLength {
        /// Values of a row.
        k: usize,
        /// The format.
        kind: &'static str,
    },
    /// There was no memory for the panels.
    #[error("no memory for {bytes} bytes of weights: {reason}")]
    Memory {
        /// Bytes wanted.
        bytes: usize,
        /// What the system said.
        reason: String,
    },
}

/// A weight matrix in panels.
pub struct PackedMatrix {
    kind: PanelKind,
    n: usize,
    k: usize,
    data: Region,
}

impl PackedMatrix {
    /// Packs rows (each one output column's weights) of `k` values in the format `kind`. The order of `rows` is the order of outputs.
    pub fn pack(kind: BlockType, k: usize, rows: &[&[u8]]) -> Result<Self, PackError> {
        Self::pack_in(&mut Arena::default(), kind, k, rows)
    }

    /// [`Self::pack`] with memory of an arena, where the matrices of a model lie together on large pages.
    pub fn pack_in(arena: &mut Arena, kind: BlockType, k: usize, rows: &[&[u8]]) -> Result<Self, PackError> {
        let needed = kind.row_bytes(k).ok_or(PackError::RowLength { k, kind: kind.name() })?;
        if let Some((row, data)) = rows.iter().enumerate().find(|(_, data)| data.len() != needed) {
            return Err(PackError::RowBytes { row, given: data.len(), needed, kind: kind.name(), k });
        }
        let panel_kind = match kind {
            BlockType::Q4_0 => PanelKind::Nibble,
            BlockType::Q4_1 => PanelKind::NibbleMin,
            BlockType::Q4K => PanelKind::NibbleWide,
            // The byte -128, which no quantiser writes, has no exact product without VNNI: such a tensor is kept as floats.
            BlockType::Q8_0 if rows.iter().all(|row| q8_negatable(row)) => PanelKind::Byte,
            BlockType::F16 => PanelKind::F16,
            BlockType::Bf16 => PanelKind::Bf16,
            BlockType::Q8_0 | BlockType::Q6K | BlockType::F32 => PanelKind::F32,
        };
        let mut packed = Self::allocate(arena, panel_kind, rows.len(), k)?;
        let panel_bytes = packed.panel_bytes();
        if panel_bytes == 0 {
            return Ok(packed);
        }
        for (panel, rows) in packed.data.bytes_mut().chunks_exact_mut(panel_bytes).zip(rows.chunks(PANEL)) {
            for (column, row) in rows.iter().enumerate() {
                match panel_kind {
                    PanelKind::Nibble | PanelKind::NibbleMin => {
                        pack_nibble_row(panel_kind, panel, column, row);
                    }
                    PanelKind::NibbleWide => pack_q4k_row(panel, column, row),
                    PanelKind::Byte => pack_byte_row(panel, column, row),
                    PanelKind::F16 | PanelKind::Bf16 => pack_values(panel, column, row, 2),
                    PanelKind::F32 if kind == BlockType::F32 => pack_values(panel, column, row, 4),
                    PanelKind::F32 => {
                        let mut values = vec![0f32; k];
                        dequantize_row(kind, row, &mut values);
                        pack_values(panel, column, bytemuck::cast_slice(&values), 4);
                    }
                }
            }
        }
        Ok(packed)
    }

    /// Packs rows of different formats as floats (exact).
    pub fn pack_as_f32(arena: &mut Arena, k: usize, rows: &[(BlockType, &[u8])]) -> Result<Self, PackError> {
        let mut values = Vec::with_capacity(rows.len());
        for (row, &(kind, data)) in rows.iter().enumerate() {
            let needed = kind.row_bytes(k).ok_or(PackError::RowLength { k, kind: kind.name() })?;
            if data.len() != needed {
                return Err(PackError::RowBytes { row, given: data.len(), needed, kind: kind.name(), k });
            }
            let mut decoded = vec![0f32; k];
            dequantize_row(kind, data, &mut decoded);
            values.push(decoded);
        }
        let rows: Vec<&[u8]> = values.iter().map(|row| bytemuck::cast_slice(row)).collect();
        Self::pack_in(arena, BlockType::F32, k, &rows)
    }

    fn allocate(arena: &mut Arena, kind: PanelKind, n: usize, k: usize) -> Result<Self, PackError> {
        let bytes = n
            .div_ceil(PANEL)
            .checked_mul(kind.records(k))
            .and_then(|records| records.checked_mul(kind.record_bytes()))
            .ok_or(PackError::Memory { bytes: usize::MAX, reason: "size overflows".to_owned() })?;
        let data = arena.take(bytes).map_err(|e| PackError::Memory { bytes, reason: e.to_string() })?;
        Ok(Self { kind, n, k, data })
    }

    /// The panels' form.
    pub fn kind(&self) -> PanelKind {
        self.kind
    }

    /// Output columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Values of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Panels of [`PANEL`] columns.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Bytes of a panel.
    pub fn panel_bytes(&self) -> usize {
        self.kind.records(self.k) * self.kind.record_bytes()
    }

    /// The bytes of panel `i`, 64-byte aligned.
    pub fn panel(&self, i: usize) -> &[u8] {
        &self.data.bytes()[i * self.panel_bytes()..][..self.panel_bytes()]
    }

    /// Bytes that a product with one row reads.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }
}

fn q8_negatable(row: &[u8]) -> bool {
    row.chunks_exact(34).all(|block| block[2..].iter().all(|&q| q as i8 != i8::MIN))
}

fn pack_nibble_row(kind: PanelKind, panel: &mut [u8], column: usize, row: &[u8]) {
    let (block_bytes, header) = if kind == PanelKind::Nibble { (18, 2) } else { (20, 4) };
    for (record, block) in panel.chunks_exact_mut(kind.record_bytes()).zip(row.chunks_exact(block_bytes)) {
        pack_nibbles(record, column, &block[header..]);
        record[512 + 2 * column..][..2].copy_from_slice(&block[..2]);
        if kind == PanelKind::NibbleMin {
            record[576 + 2 * column..][..2].copy_from_slice(&block[2..4]);
        }
    }
}

/// `bytes[j]` holds value `j` low and value `j + 16` high, four of each go to one vector.
fn pack_nibbles(record: &mut [u8], column: usize, bytes: &[u8]) {
    for (i, four) in bytes.chunks_exact(4).enumerate() {
        record[128 * i + 4 * column..][..4].copy_from_slice(four);
    }
}

fn pack_q4k_row(panel: &mut [u8], column: usize, row: &[u8]) {
    let half = |b: &[u8], at: usize| half::f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let mut records = panel.chunks_exact_mut(PanelKind::NibbleWide.record_bytes());
    for block in row.chunks_exact(144) {
        let (d, dmin) = (half(block, 0), half(block, 2));
        for (j, record) in records.by_ref().take(8).enumerate() {
            let (scale, min) = q4k_scale_min(&block[4..16], j);
            let quads = &block[16 + j / 2 * 32..][..32];
            let nibble = |q: u8| if j % 2 == 0 { q & 0x0f } else { q >> 4 };
            let bytes: [u8; 16] = std::array::from_fn(|t| nibble(quads[t]) | (nibble(quads[t + 16]) << 4));
            pack_nibbles(record, column, &bytes);
            // Both products are exact: 11 by 6 bits.
            let (d, m) = (d * f32::from(scale), -(dmin * f32::from(min)));
            record[512 + 4 * column..][..4].copy_from_slice(&d.to_le_bytes());
            record[640 + 4 * column..][..4].copy_from_slice(&m.to_le_bytes());
        }
    }
}

fn pack_byte_row(panel: &mut [u8], column: usize, row: &[u8]) {
    for (record, block) in panel.chunks_exact_mut(PanelKind::Byte.record_bytes()).zip(row.chunks_exact(34)) {
        for (i, four) in block[2..].chunks_exact(4).enumerate() {
            record[128 * i + 4 * column..][..4].copy_from_slice(four);
        }
        record[1024 + 2 * column..][..2].copy_from_slice(&block[..2]);
    }
}

fn pack_values(panel: &mut [u8], column: usize, row: &[u8], bytes: usize) {
    for (record, value) in panel.chunks_exact_mut(bytes * PANEL).zip(row.chunks_exact(bytes)) {
        record[bytes * column..][..bytes].copy_from_slice(value);
    }
}
