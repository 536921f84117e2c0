//! Frames on a connection.

use super::Reader;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncReadExt as _, BufReader};

/// Bytes of a frame before its body.
pub const HEAD: usize = 21;
/// The largest frame that is read.
const FRAME_LIMIT: usize = 64 << 20;

/// A request or an answer.
pub struct Frame {
    pub number: u64,
    pub group: u32,
    pub kind: u8,
    pub body: Bytes,
}

/// Appends a frame to `out`.
pub fn put_frame(out: &mut BytesMut, number: u64, group: u32, kind: u8, body: &[u8]) {
    let start = out.len();
    out.put_bytes(0, 8);
    out.put_u64_le(number);
    out.put_u32_le(group);
    out.put_u8(kind);
    out.put_slice(body);
    let length = (out.len() - start - 8) as u32;
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads frames. A read that is given up halfway goes on where it was.
pub struct Frames {
    reader: BufReader<Reader>,
    buffer: BytesMut,
}

impl Frames {
    pub fn new(reader: Reader) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, reader), buffer: BytesMut::new() }
    }

    async fn fill(&mut self, size: usize) -> io::Result<()> {
        while self.buffer.len() < size {
            self.buffer.reserve(size - self.buffer.len());
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The next one.
    pub async fn next(&mut self) -> io::Result<Frame> {
        self.fill(HEAD).await?;
        let mut head = &self.buffer[..8];
        let (length, stored) = (head.get_u32_le() as usize, head.get_u32_le());
        if !(HEAD - 8..=FRAME_LIMIT).contains(&length) {
            return Err(io::Error::other(format!("a peer announced a frame of {length} bytes")));
        }
        self.fill(8 + length).await?;
        let mut frame = self.buffer.split_to(8 + length).freeze();
        frame.advance(8);
        if crc32c::crc32c(&frame) != stored {
            return Err(io::Error::other("a frame of a peer was damaged on its way"));
        }
        let (number, group, kind) = (frame.get_u64_le(), frame.get_u32_le(), frame.get_u8());
        Ok(Frame { number, group, kind, body: frame })
    }
}
