use std::sync::Arc;

use bytes::Bytes;

/// How keys and values become bytes, for content hashes and for the disk.
///
/// The bytes of a value tell where they end, equal values have equal bytes, and unequal ones have not.
pub trait Codec: Sized {
    /// Appends the bytes of this value.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value off the front of `input`; `None` where the bytes are not one.
    fn decode(input: &mut &[u8]) -> Option<Self>;
}

/// Takes `len` bytes off the front.
pub(crate) fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(taken)
}

/// Takes an array off the front.
pub(crate) fn take_array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*taken)
}

/// A count or a length: seven bits a byte, lowest first.
pub(crate) fn put_len(mut len: usize, out: &mut Vec<u8>) {
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

pub(crate) fn take_len(input: &mut &[u8]) -> Option<usize> {
    let mut len = 0_u64;
    for shift in (0..63).step_by(7) {
        let [byte] = take_array(input)?;
        len |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // One length has one form: a last byte of zero would be another.
            return if byte == 0 && shift > 0 { None } else { usize::try_from(len).ok() };
        }
    }
    None
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Codec for $number {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(input: &mut &[u8]) -> Option<Self> {
                take_array(input).map(Self::from_le_bytes)
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

macro_rules! byte_strings {
    ($($string:ty),*) => {$(
        impl Codec for $string {
            fn encode(&self, out: &mut Vec<u8>) {
                let bytes: &[u8] = self.as_ref();
                put_len(bytes.len(), out);
                out.extend_from_slice(bytes);
            }

            fn decode(input: &mut &[u8]) -> Option<Self> {
                let len = take_len(input)?;
                Some(take(input, len)?.to_vec().into())
            }
        }
    )*};
}

byte_strings!(Vec<u8>, Box<[u8]>, Arc<[u8]>, Bytes);

impl Codec for String {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Vec::decode(input)?).ok()
    }
}

impl<const N: usize> Codec for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        take_array(input)
    }
}

impl Codec for () {
    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Codec for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        match u8::decode(input)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Codec> Codec for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        if bool::decode(input)? { T::decode(input).map(Some) } else { Some(None) }
    }
}

impl<A: Codec, B: Codec> Codec for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        Some((A::decode(input)?, B::decode(input)?))
    }
}
