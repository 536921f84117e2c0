//! From tensors of a GGUF file to packed matrices and vectors, every shape checked.

use std::path::Path;

use tinykernels::cpu::arena::Arena;
use tinykernels::cpu::format::{BlockType, dequantize_row, row_is_finite};
use tinykernels::cpu::packed::PackedMatrix;

use super::LoadError;
use crate::gguf::{Gguf, GgufError, TensorInfo};

/// The tensors of one file.
pub(super) struct Weights<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) path: &'a Path,
}

/// Rows of one or more tensors in the order in which a matrix wants them.
pub(super) struct RowList<'a> {
    name: String,
    k: usize,
    rows: Vec<(BlockType, &'a [u8])>,
}

impl<'a> Weights<'a> {
    pub(super) fn error(&self, source: GgufError) -> LoadError {
        LoadError::Gguf { path: self.path.to_owned(), source }
    }

    /// A tensor that must have these dimensions, the contiguous one first.
    pub(super) fn tensor(&self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo, LoadError> {
        let tensor = self.gguf.header.tensor(name).map_err(|e| self.error(e))?;
        if tensor.dims != dims {
            let (name, given) = (name.to_owned(), tensor.dims.clone());
            return Err(LoadError::Shape { name, given, needed: dims.to_vec() });
        }
        Ok(tensor)
    }

    /// A vector as f32.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(name, &[length])?;
        let mut values = vec![0f32; length];
        dequantize_row(tensor.kind, self.gguf.data(tensor), &mut values);
        if values.iter().all(|value| value.is_finite()) {
            Ok(values)
        } else {
            Err(LoadError::NotFinite { name: name.to_owned() })
        }
    }

    /// The rows of a matrix `[k, n]`.
    pub(super) fn rows(&self, name: &str, k: usize, n: usize) -> Result<RowList<'a>, LoadError> {
        let tensor = self.tensor(name, &[k, n])?;
        let data = self.gguf.data(tensor);
        if !row_is_finite(tensor.kind, data) {
            return Err(LoadError::NotFinite { name: name.to_owned() });
        }
        let rows = data.chunks_exact(data.len() / n).map(|row| (tensor.kind, row)).collect();
        Ok(RowList { name: name.to_owned(), k, rows })
    }
}

impl RowList<'_> {
    /// Undoes the order that GGUF gives to the rows of a llama query or key matrix, pairs `(2 i, 2 i + 1)`, back to halves
    /// `(i, i + dim / 2)`: queries and keys change alike, so scores do not change at all.
    pub(super) fn pairs_to_halves(mut self, head_dim: usize) -> Self {
        let half = head_dim / 2;
        let order =
            |head: usize, i: usize| head * head_dim + if i < half { 2 * i } else { 2 * (i - half) + 1 };
        let heads = self.rows.len() / head_dim;
        self.rows = (0..heads)
            .flat_map(|h| (0..head_dim).map(move |i| (h, i)))
            .map(|(h, i)| self.rows[order(h, i)])
            .collect();
        self
    }

    /// Sixteen rows of `self`, sixteen of `other`, and so on.
    pub(super) fn interleave(mut self, other: &Self) -> Self {
        let groups = self.rows.chunks(16).zip(other.rows.chunks(16));
        self.rows = groups.flat_map(|(a, b)| a.iter().chain(b).copied()).collect();
        self
    }

    /// Packs them: in their own format when they share one, else as floats.
    pub(super) fn pack(&self, arena: &mut Arena) -> Result<PackedMatrix, LoadError> {
        let error = |source| LoadError::Pack { name: self.name.clone(), source };
        let kind = self.rows.first().map_or(BlockType::F32, |row| row.0);
        if self.rows.iter().any(|row| row.0 != kind) {
            return PackedMatrix::pack_as_f32(arena, self.k, &self.rows).map_err(error);
        }
        let rows: Vec<&[u8]> = self.rows.iter().map(|row| row.1).collect();
        PackedMatrix::pack_in(arena, kind, self.k, &rows).map_err(error)
    }
}
