//! GGUF files (versions 2 and 3, little endian), read through a memory map.
//!
//! The header is parsed from a byte slice with every count, length and offset checked against the bytes that are really there before
//! anything is allocated, so a truncated or lying file is an error of bounded cost. Tensor data is not copied: it is sliced on request.
//! Format: the `gguf.md` specification of the GGML project.

mod parse;

use std::collections::BTreeMap;
use std::path::Path;

use memmap2::Mmap;
use tinykernels::cpu::format::BlockType;

/// Why bytes are no usable GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be opened or mapped.
    #[error("cannot read it: {0}")]
    Io(#[from] std::io::Error),
    /// It does not begin with `GGUF`.
    #[error("not a GGUF file: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// A version that is not read.
    #[error("GGUF version {0} is not supported (2 and 3 are{hint})", hint = if .0.trailing_zeros() >= 16 { "; this one looks big endian" } else { "" })]
    Version(u32),
    /// The file ends before something it announces.
    #[error("truncated: {what} needs {needed} bytes at offset {offset}, {left} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        offset: usize,
        /// Bytes it needs (at least).
        needed: u64,
        /// Bytes there are.
        left: usize,
    },
    /// A string is not UTF-8.
    #[error("{what} at offset {offset} is not UTF-8")]
    Text {
        /// Which string.
        what: &'static str,
        /// Where.
        offset: usize,
    },
    /// A value type that the format does not define, or arrays nested too deep.
    #[error("metadata {key}: value type {id} {problem}")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        id: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The same key or tensor name twice.
    #[error("{0} appears twice")]
    Duplicate(String),
    /// A tensor's description does not hold together.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// `general.alignment` is not a power of two up to 64 KiB.
    #[error("alignment {0} is not a power of two of at most 65536")]
    Alignment(u64),
    /// A key that the reader needs is missing or has another type.
    #[error("metadata {key} is {problem}")]
    Metadata {
        /// The key.
        key: String,
        /// `missing` or `not a …`.
        problem: &'static str,
    },
    /// A tensor that the model needs is missing.
    #[error("tensor {0} is missing")]
    MissingTensor(String),
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Integers of any width.
    Integers(Vec<i64>),
    /// Floats or truth values (as 0 and 1) of any width.
    Numbers(Vec<f64>),
    /// Arrays of arrays are checked and skipped: nothing here uses them.
    Nested,
}

/// Where a tensor is and how it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions, the contiguous one first.
    pub dims: Vec<usize>,
    /// Element format.
    pub kind: BlockType,
    /// First byte in the file.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

impl TensorInfo {
    /// Values of a row: the contiguous dimension.
    pub fn columns(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Rows: the product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.dims.iter().skip(1).product()
    }
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Parses the header of a whole file.
    pub fn parse(file: &[u8]) -> Result<Self, GgufError> {
        parse::header(file)
    }

    fn missing(key: &str) -> GgufError {
        GgufError::Metadata { key: key.to_owned(), problem: "missing" }
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Ok(text),
            Some(_) => Err(GgufError::Metadata { key: key.to_owned(), problem: "not a text" }),
            None => Err(Self::missing(key)),
        }
    }

    /// A non-negative integer.
    pub fn integer(&self, key: &str) -> Result<u64, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Unsigned(n)) => Ok(*n),
            Some(Value::Signed(n)) if *n >= 0 => Ok(n.unsigned_abs()),
            Some(_) => {
                Err(GgufError::Metadata { key: key.to_owned(), problem: "not a non-negative integer" })
            }
            None => Err(Self::missing(key)),
        }
    }

    /// A float.
    pub fn float(&self, key: &str) -> Result<f64, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Float(x)) => Ok(*x),
            Some(_) => Err(GgufError::Metadata { key: key.to_owned(), problem: "not a float" }),
            None => Err(Self::missing(key)),
        }
    }

    /// A truth value, `default` when absent.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Bool(b)) => Ok(*b),
            Some(_) => Err(GgufError::Metadata { key: key.to_owned(), problem: "not a truth value" }),
            None => Ok(default),
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<&[String], GgufError> {
        match self.metadata.get(key) {
            Some(Value::Texts(texts)) => Ok(texts),
            Some(_) => Err(GgufError::Metadata { key: key.to_owned(), problem: "not a list of texts" }),
            None => Err(Self::missing(key)),
        }
    }

    /// A list of integers.
    pub fn integers(&self, key: &str) -> Result<&[i64], GgufError> {
        match self.metadata.get(key) {
            Some(Value::Integers(numbers)) => Ok(numbers),
            Some(_) => Err(GgufError::Metadata { key: key.to_owned(), problem: "not a list of integers" }),
            None => Err(Self::missing(key)),
        }
    }

    /// What a missing (but not a mistyped) value becomes.
    pub fn optional<T>(result: Result<T, GgufError>) -> Result<Option<T>, GgufError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(GgufError::Metadata { problem: "missing", .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A tensor's description.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensors.get(name).ok_or_else(|| GgufError::MissingTensor(name.to_owned()))
    }
}

/// An open file. Replacing or truncating it while it is open is the operator's mistake: model files are written once.
pub struct Gguf {
    /// Everything but the data.
    pub header: Header,
    map: Mmap,
}

impl Gguf {
    /// Maps and parses a file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let map = crate::mmap::read_only(path)?;
        let header = Header::parse(&map)?;
        Ok(Self { header, map })
    }

    /// The file's size.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// A tensor's bytes. Its range was checked when the header was parsed.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.map[tensor.offset..tensor.offset + tensor.bytes]
    }
}
