//! A deadline for the first bytes of a connection.
//!
//! hyper tells HTTP/1 from HTTP/2 by the first 24 bytes and sets no limit on the time they take, so a client could hold a
//! connection for ever by sending nothing, or half a preface. Behind them hyper's own header timeout applies.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// RFC 9113, section 3.4.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that fails with `TimedOut` unless the protocol can be told in time.
pub struct PrefaceDeadline<S> {
    stream: S,
    /// `None` once the protocol is known.
    waiting: Option<Waiting>,
}

struct Waiting {
    matched: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> PrefaceDeadline<S> {
    pub fn new(stream: S, limit: Duration) -> Self {
        let waiting = Waiting { matched: 0, deadline: Box::pin(tokio::time::sleep(limit)) };
        Self { stream, waiting: Some(waiting) }
    }
}

impl Waiting {
    /// Takes bytes as they come; true once they cannot be a longer piece of the preface.
    fn is_told_by(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if HTTP2_PREFACE.get(self.matched) != Some(byte) {
                return true;
            }
            self.matched += 1;
        }
        self.matched == HTTP2_PREFACE.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefaceDeadline<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Some(waiting) = &mut this.waiting {
            match &poll {
                Poll::Pending => {
                    if waiting.deadline.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
                Poll::Ready(_) => {
                    if waiting.is_told_by(&buffer.filled()[before..]) {
                        this.waiting = None;
                    }
                }
            }
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefaceDeadline<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn half_a_preface_times_out_and_a_request_does_not() {
        let table: [(&[u8], bool); 4] =
            [(b"", true), (b"PRI * HT", true), (b"GET /", false), (HTTP2_PREFACE, false)];
        for (bytes, times_out) in table {
            let (mut client, server) = duplex(64);
            client.write_all(bytes).await.unwrap();
            let mut server = PrefaceDeadline::new(server, Duration::from_millis(50));
            let mut read = vec![0; bytes.len()];
            server.read_exact(&mut read).await.unwrap();
            let next = tokio::time::timeout(Duration::from_millis(500), server.read(&mut [0; 8])).await;
            assert_eq!(matches!(next, Ok(Err(_))), times_out, "{bytes:?}");
        }
    }
}
