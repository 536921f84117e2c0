//! Tensors of a safetensors file by name, every shape checked. The crate `safetensors` checks the header against the file.

use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use tinykernels::cpu::format::{BlockType, dequantize_row, row_is_finite};

use super::LoadError;

/// A mapped file.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
}

/// Its parsed header.
pub(super) struct Tensors<'a> {
    path: &'a Path,
    /// What all names begin with (`bert.` in some exports).
    prefix: &'static str,
    file: SafeTensors<'a>,
}

impl SafetensorsFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, LoadError> {
        let error = |source| LoadError::Read { path: path.clone(), source };
        let map = crate::mmap::read_only(&path).map_err(error)?;
        Ok(Self { path, map })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    pub(super) fn tensors(&self, prefixes: [&'static str; 2], probe: &str) -> Result<Tensors<'_>, LoadError> {
        parse(&self.path, &self.map, prefixes, probe)
    }
}

fn parse<'a>(
    path: &'a Path,
    bytes: &'a [u8],
    prefixes: [&'static str; 2],
    probe: &str,
) -> Result<Tensors<'a>, LoadError> {
    let error = |reason: String| LoadError::Safetensors { path: path.to_owned(), reason };
    let file = SafeTensors::deserialize(bytes).map_err(|e| error(e.to_string()))?;
    let prefix = prefixes.into_iter().find(|prefix| file.tensor(&format!("{prefix}{probe}")).is_ok());
    let prefix = prefix.ok_or_else(|| error(format!("tensor {probe} is missing")))?;
    Ok(Tensors { path, prefix, file })
}

impl<'a> Tensors<'a> {
    /// A tensor of these dimensions, outermost first, with its element format.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<(BlockType, &'a [u8]), LoadError> {
        let error = |reason: String| LoadError::Safetensors { path: self.path.to_owned(), reason };
        let full = format!("{}{name}", self.prefix);
        let tensor = self.file.tensor(&full).map_err(|_| error(format!("tensor {full} is missing")))?;
        if tensor.shape() != shape {
            return Err(LoadError::Shape {
                name: full,
                given: tensor.shape().to_vec(),
                needed: shape.to_vec(),
            });
        }
        let kind = match tensor.dtype() {
            Dtype::F32 => BlockType::F32,
            Dtype::F16 => BlockType::F16,
            Dtype::BF16 => BlockType::Bf16,
            other => {
                return Err(error(format!(
                    "tensor {full} has type {other:?} (F32, F16, BF16 are supported)"
                )));
            }
        };
        if !row_is_finite(kind, tensor.data()) {
            return Err(LoadError::NotFinite { name: full });
        }
        Ok((kind, tensor.data()))
    }

    /// A tensor's values.
    pub(super) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let (kind, data) = self.get(name, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        dequantize_row(kind, data, &mut values);
        Ok(values)
    }
}

/// Whether bytes are a safetensors file whose tensors can be listed: the surface that fuzzing drives.
pub fn probe(bytes: &[u8]) -> Result<usize, LoadError> {
    let path = Path::new("memory");
    let error = |reason: String| LoadError::Safetensors { path: path.to_owned(), reason };
    let file = SafeTensors::deserialize(bytes).map_err(|e| error(e.to_string()))?;
    let mut read = 0;
    for (name, view) in file.iter() {
        let tensors = parse(path, bytes, ["", ""], name)?;
        match tensors.get(name, view.shape()) {
            Ok((_, data)) => read += data.len(),
            Err(LoadError::Safetensors { .. } | LoadError::NotFinite { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(read)
}
