//! The header's grammar over a checked cursor.

use std::collections::BTreeMap;

use tinykernels::cpu::format::BlockType;

use super::{GgufError, Header, TensorInfo, Value};

/// Arrays may hold arrays, to this depth.
const DEPTH: u32 = 3;
/// Longest key or tensor name, the specification's limit for keys.
const NAME_BYTES: u64 = 65_535;
/// The least bytes that a metadata entry can take: key length, type, a one-byte value.
const ENTRY_BYTES: u64 = 8 + 4 + 1;
/// The least bytes of a tensor's description: name length, dimensions, one dimension, type, offset.
const TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn truncated(&self, what: &'static str, needed: u64) -> GgufError {
        GgufError::Truncated { what, offset: self.at, needed, left: self.left() }
    }

    /// Fails unless `count` things of at least `each` bytes can follow.
    fn expect(&self, what: &'static str, count: u64, each: u64) -> Result<usize, GgufError> {
        let needed = count.saturating_mul(each);
        if needed > self.left() as u64 {
            return Err(self.truncated(what, needed));
        }
        Ok(count as usize)
    }

    fn take(&mut self, what: &'static str, n: u64) -> Result<&'a [u8], GgufError> {
        let n = self.expect(what, n, 1)?;
        let slice = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let slice = self.take(what, N as u64)?;
        Ok(slice.try_into().expect("take returned N bytes"))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &'static str, longest: u64) -> Result<String, GgufError> {
        let offset = self.at;
        let length = self.u64(what)?;
        if length > longest {
            return Err(GgufError::Truncated { what, offset, needed: length, left: longest as usize });
        }
        let bytes = self.take(what, length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| GgufError::Text { what, offset })
    }
}

pub(super) fn header(file: &[u8]) -> Result<Header, GgufError> {
    let mut cursor = Cursor { bytes: file, at: 0 };
    let magic = cursor.array("magic")?;
    if &magic != b"GGUF" {
        return Err(GgufError::Magic(magic));
    }
    let version = cursor.u32("version")?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensor_count = cursor.u64("tensor count")?;
    let entry_count = cursor.u64("metadata count")?;
    let entry_count = cursor.expect("metadata", entry_count, ENTRY_BYTES)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..entry_count {
        let key = cursor.text("metadata key", NAME_BYTES)?;
        let id = cursor.u32("value type")?;
        let value = value(&mut cursor, &key, id)?;
        if metadata.contains_key(&key) {
            return Err(GgufError::Duplicate(key));
        }
        metadata.insert(key, value);
    }
    let tensor_count = cursor.expect("tensor descriptions", tensor_count, TENSOR_BYTES)?;
    let described = (0..tensor_count).map(|_| describe(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
    let alignment = alignment(&metadata)?;
    let data = cursor.at.next_multiple_of(alignment);
    let tensors = place(described, data, alignment, file.len())?;
    Ok(Header { version, metadata, tensors })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, GgufError> {
    match metadata.get("general.alignment") {
        None => Ok(32),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 65_536 => Ok(*n as usize),
        Some(Value::Unsigned(n)) => Err(GgufError::Alignment(*n)),
        Some(_) => {
            Err(GgufError::Metadata { key: "general.alignment".to_owned(), problem: "not an integer" })
        }
    }
}

fn value(c: &mut Cursor<'_>, key: &str, id: u32) -> Result<Value, GgufError> {
    const WHAT: &str = "metadata value";
    Ok(match id {
        0 => Value::Unsigned(u64::from(c.array::<1>(WHAT)?[0])),
        1 => Value::Signed(i64::from(i8::from_le_bytes(c.array(WHAT)?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(c.array(WHAT)?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(c.array(WHAT)?))),
        4 => Value::Unsigned(u64::from(c.u32(WHAT)?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(c.array(WHAT)?))),
        6 => Value::Float(f64::from(f32::from_le_bytes(c.array(WHAT)?))),
        7 => Value::Bool(c.array::<1>(WHAT)?[0] != 0),
        8 => Value::Text(c.text(WHAT, u64::MAX)?),
        9 => array(c, key, DEPTH)?,
        10 => Value::Unsigned(c.u64(WHAT)?),
        11 => Value::Signed(i64::from_le_bytes(c.array(WHAT)?)),
        12 => Value::Float(f64::from_le_bytes(c.array(WHAT)?)),
        _ => return Err(GgufError::ValueType { key: key.to_owned(), id, problem: "is unknown" }),
    })
}

fn array(c: &mut Cursor<'_>, key: &str, depth: u32) -> Result<Value, GgufError> {
    const WHAT: &str = "array";
    let id = c.u32(WHAT)?;
    let count = c.u64(WHAT)?;
    let each = match id {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        _ => return Err(GgufError::ValueType { key: key.to_owned(), id, problem: "is unknown" }),
    };
    let count = c.expect(WHAT, count, each)?;
    match id {
        8 => Ok(Value::Texts((0..count).map(|_| c.text(WHAT, u64::MAX)).collect::<Result<_, _>>()?)),
        9 => {
            if depth == 0 {
                return Err(GgufError::ValueType { key: key.to_owned(), id, problem: "is nested too deep" });
            }
            for _ in 0..count {
                array(c, key, depth - 1)?;
            }
            Ok(Value::Nested)
        }
        6 | 7 | 12 => {
            let number = |v| match v {
                Value::Float(x) => x,
                Value::Bool(b) => f64::from(u8::from(b)),
                _ => f64::NAN,
            };
            Ok(Value::Numbers((0..count).map(|_| value(c, key, id).map(number)).collect::<Result<_, _>>()?))
        }
        _ => {
            let number = |v| match v {
                Value::Unsigned(n) => i64::try_from(n).unwrap_or(i64::MAX),
                Value::Signed(n) => n,
                _ => 0,
            };
            Ok(Value::Integers((0..count).map(|_| value(c, key, id).map(number)).collect::<Result<_, _>>()?))
        }
    }
}

/// A tensor's description before it is placed: `offset` counts from the data section.
struct Described {
    name: String,
    dims: Vec<usize>,
    kind: BlockType,
    offset: u64,
}

fn describe(c: &mut Cursor<'_>) -> Result<Described, GgufError> {
    let name = c.text("tensor name", NAME_BYTES)?;
    let error = |problem: String| GgufError::Tensor { name: name.clone(), problem };
    let n_dims = c.u32("tensor dimensions")?;
    if !(1..=4).contains(&n_dims) {
        return Err(error(format!("{n_dims} dimensions (1 to 4 are allowed)")));
    }
    let mut dims = Vec::with_capacity(4);
    for _ in 0..n_dims {
        let dim = c.u64("tensor dimensions")?;
        let dim = usize::try_from(dim).ok().filter(|&d| d > 0 && isize::try_from(d).is_ok());
        dims.push(dim.ok_or_else(|| error("a dimension of 0 or beyond memory".to_owned()))?);
    }
    let id = c.u32("tensor type")?;
    let kind = block_type(id).map_err(|known| {
        let named = known.map_or_else(|| format!("type {id}"), |name| format!("type {name}"));
        error(format!("{named} is not supported (F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K are)"))
    })?;
    let offset = c.u64("tensor offset")?;
    Ok(Described { name, dims, kind, offset })
}

/// Turns descriptions into ranges of the file, none out of it, none overlapping.
fn place(
    described: Vec<Described>,
    data: usize,
    alignment: usize,
    file: usize,
) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::with_capacity(described.len());
    for Described { name, dims, kind, offset } in described {
        let error = |problem: String| GgufError::Tensor { name: name.clone(), problem };
        let row = kind.row_bytes(dims[0]).ok_or_else(|| {
            error(format!("rows of {} values are no whole number of {} blocks", dims[0], kind.name()))
        })?;
        let bytes = dims[1..].iter().try_fold(row, |n, &d| n.checked_mul(d));
        let bytes = bytes.ok_or_else(|| error(format!("{dims:?} overflow a size")))?;
        let start = usize::try_from(offset).ok().and_then(|o| o.checked_add(data));
        let end = start.and_then(|s| s.checked_add(bytes));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(error(format!("offset {offset} overflows")));
        };
        if end > file {
            return Err(error(format!("needs bytes {start}..{end} of a file of {file}")));
        }
        if !start.is_multiple_of(alignment) {
            return Err(error(format!("offset {offset} is not aligned to {alignment}")));
        }
        ranges.push((start, end, name.clone()));
        if tensors.contains_key(&name) {
            return Err(GgufError::Duplicate(name));
        }
        tensors.insert(name, TensorInfo { dims, kind, offset: start, bytes });
    }
    ranges.sort();
    for pair in ranges.windows(2) {
        if pair[0].1 > pair[1].0 {
            let problem = format!("overlaps tensor {}", pair[0].2);
            return Err(GgufError::Tensor { name: pair[1].2.clone(), problem });
        }
    }
    Ok(tensors)
}

/// The element format of a type number, or its name when it is known but not read.
fn block_type(id: u32) -> Result<BlockType, Option<&'static str>> {
    Ok(match id {
        0 => BlockType::F32,
        1 => BlockType::F16,
        2 => BlockType::Q4_0,
        3 => BlockType::Q4_1,
        8 => BlockType::Q8_0,
        12 => BlockType::Q4K,
        14 => BlockType::Q6K,
        30 => BlockType::Bf16,
        6 => return Err(Some("Q5_0")),
        7 => return Err(Some("Q5_1")),
        9 => return Err(Some("Q8_1")),
        10 => return Err(Some("Q2_K")),
        11 => return Err(Some("Q3_K")),
        13 => return Err(Some("Q5_K")),
        15 => return Err(Some("Q8_K")),
        16..=23 | 29 => return Err(Some("IQ")),
        24..=28 => return Err(Some("integer or F64")),
        34 | 35 => return Err(Some("TQ")),
        39 => return Err(Some("MXFP4")),
        _ => return Err(None),
    })
}
