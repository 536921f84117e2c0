//! One write for all that a connection has to say at a time.
//!
//! HTTP/2 answers many requests of a connection at once, each from a task of its own, and hyper writes and flushes whenever one of
//! them has something: for small answers the system calls cost more than all else. Here what is written is held back until the
//! connection's turn ends; and before its turn begins it steps back once behind the tasks that are ready to run, so that the
//! answers of these go along.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held back at most; more is written at once.
const MOST: usize = 64 << 10;
/// Memory that a connection keeps for what it holds back while it has nothing to say.
const KEPT: usize = 4 << 10;

/// A stream, shared by a connection and its [`Turns`].
pub struct Held<S>(Arc<Mutex<Pending<S>>>);

struct Pending<S> {
    stream: S,
    /// Whether the connection's turn is on: then nothing is written before its end.
    holds: bool,
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// What ended the writing, for the connection's next turn.
    failed: Option<io::Error>,
}

impl<S> Clone for Held<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Held<S> {
    pub fn new(stream: S) -> Self {
        let (bytes, written, failed) = (Vec::new(), 0, None);
        Self(Arc::new(Mutex::new(Pending { stream, holds: false, bytes, written, failed })))
    }
}

impl<S: AsyncWrite + Unpin> Pending<S> {
    /// Whether `more` bytes can be held back.
    fn has_room(&self, more: usize) -> bool {
        self.holds && self.bytes.len() + more <= MOST
    }

    /// Writes what is held back.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        while self.written < self.bytes.len() {
            let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes[self.written..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += wrote;
        }
        self.written = 0;
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pending = self.0.lock();
        if pending.holds && pending.failed.is_none() {
            return Poll::Ready(Ok(()));
        }
        pending.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pending = self.0.lock();
        ready!(pending.poll_empty(cx))?;
        Pin::new(&mut pending.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut pending = self.0.lock();
        let more = slices.iter().map(|slice| slice.len()).sum();
        if !pending.has_room(more) || pending.failed.is_some() {
            ready!(pending.poll_empty(cx))?;
        }
        if !pending.has_room(more) {
            return Pin::new(&mut pending.stream).poll_write_vectored(cx, slices);
        }
        for slice in slices {
            pending.bytes.extend_from_slice(slice);
        }
        Poll::Ready(Ok(more))
    }
}

/// Runs what a connection is asked, and counts what has not been answered.
#[derive(Clone, Default)]
pub struct Answering(Arc<AtomicUsize>);

impl<F> hyper::rt::Executor<F> for Answering
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, answer: F) {
        let open = Open::new(self);
        tokio::spawn(async move {
            answer.await;
            drop(open);
        });
    }
}

struct Open(Answering);

impl Open {
    fn new(answering: &Answering) -> Self {
        answering.0.fetch_add(1, Ordering::Relaxed);
        Self(answering.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that writes once a turn.
pub struct Turns<C: Future, S> {
    connection: Pin<Box<C>>,
    stream: Held<S>,
    answering: Answering,
    stepped_back: bool,
}

impl<C: Future, S> Turns<C, S> {
    /// `connection` works on `stream`, and runs what it is asked by `answering`.
    pub fn new(connection: C, stream: Held<S>, answering: Answering) -> Self {
        Self { connection: Box::pin(connection), stream, answering, stepped_back: false }
    }
}

impl<C: Future, S> Unpin for Turns<C, S> {}

impl<C: Future, S: AsyncWrite + Unpin> Future for Turns<C, S> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        if !this.stepped_back && this.answering.0.load(Ordering::Relaxed) > 0 {
            this.stepped_back = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.stepped_back = false;
        this.stream.0.lock().holds = true;
        let output = this.connection.as_mut().poll(cx);
        let mut pending = this.stream.0.lock();
        pending.holds = false;
        // One that has ended well has shut the stream down, and all is written; one that has failed waits for nobody.
        if pending.failed.is_none()
            && let Poll::Ready(Err(error)) = pending.poll_flush(cx)
        {
            pending.failed = Some(error);
            cx.waker().wake_by_ref();
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    /// Counts writes.
    struct Counting(tokio::io::DuplexStream, Arc<AtomicUsize>);

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let wrote = Pin::new(&mut self.0).poll_write(cx, bytes);
            self.1.fetch_add(usize::from(wrote.is_ready()), Ordering::Relaxed);
            wrote
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_said_in_a_turn_is_written_once_and_all_of_it_arrives() {
        // Pieces of so many bytes; the other side takes in 1,000 at a time.
        for (pieces, size, writes) in
            [(10, 9, Some(1)), (3, 300, Some(1)), (40, 10_000, None), (2, 90_000, None)]
        {
            let (near, mut far) = duplex(1_000);
            let count = Arc::new(AtomicUsize::new(0));
            let held = Held::new(Counting(near, Arc::clone(&count)));
            let mut writer = held.clone();
            let connection = async move {
                for number in 0..pieces {
                    writer.write_all(&vec![number as u8; size]).await.unwrap();
                    writer.flush().await.unwrap();
                }
                // The turn ends here once: what was said leaves before the end is.
                tokio::task::yield_now().await;
                writer.shutdown().await.unwrap();
                pieces
            };
            let turns = tokio::spawn(Turns::new(connection, held, Answering::default()));
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            assert_eq!(turns.await.unwrap(), pieces);
            let expected: Vec<u8> = (0..pieces).flat_map(|number| vec![number as u8; size]).collect();
            assert!(all == expected, "{pieces} pieces of {size}");
            if let Some(writes) = writes {
                assert_eq!(count.load(Ordering::Relaxed), writes, "{pieces} pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn a_turn_waits_for_answers_that_are_ready() {
        use hyper::rt::Executor as _;
        let (near, mut far) = duplex(1_000);
        let count = Arc::new(AtomicUsize::new(0));
        let held = Held::new(Counting(near, Arc::clone(&count)));
        let (answers, mut said) = tokio::sync::mpsc::unbounded_channel();
        let answering = Answering::default();
        for number in 0..20_u8 {
            let answers = answers.clone();
            answering.execute(async move { answers.send(number).unwrap() });
        }
        drop(answers);
        let mut writer = held.clone();
        let connection = async move {
            while let Some(number) = said.recv().await {
                writer.write_all(&[number]).await.unwrap();
                writer.flush().await.unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        tokio::spawn(Turns::new(connection, held, answering)).await.unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!((all.len(), count.load(Ordering::Relaxed)), (20, 1));
    }
}
