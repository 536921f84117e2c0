//! A stream whose bytes are counted.

use prometheus_client::metrics::counter::Counter;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of all connections, as they are before encryption.
#[derive(Debug, Clone, Default)]
pub struct ByteCounts {
    /// From clients.
    pub received: Counter,
    /// To clients.
    pub sent: Counter,
}

/// A stream that adds to the bytes of all.
pub struct Counted<S> {
    stream: S,
    bytes: ByteCounts,
}

impl<S> Counted<S> {
    pub fn new(stream: S, bytes: ByteCounts) -> Self {
        Self { stream, bytes }
    }

    fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &written {
            self.bytes.sent.inc_by(*count as u64);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.bytes.received.inc_by((buffer.filled().len() - before) as u64);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.sent(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn both_directions_are_counted() {
        let (near, mut far) = tokio::io::duplex(64);
        let bytes = ByteCounts::default();
        let mut counted = Counted::new(near, bytes.clone());
        counted.write_all(b"hello").await.unwrap();
        far.write_all(b"good day").await.unwrap();
        drop(far);
        let mut said = Vec::new();
        counted.read_to_end(&mut said).await.unwrap();
        assert_eq!((bytes.sent.get(), bytes.received.get()), (5, 8));
    }
}
