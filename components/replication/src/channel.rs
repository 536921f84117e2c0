//! What a connection between peers goes through: nothing, or what encrypts it and proves who is there.

use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection on which peers may talk.
pub struct Connection {
    /// What the peer says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What it hears.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Connection {
    /// The two halves of a stream.
    pub fn of(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        // Locked for one call at a time; nobody waits on it.
        Self { reader: Box::new(reader), writer: Box::new(writer) }
    }
}

/// A connection that is being opened.
pub type Opening = BoxFuture<'static, io::Result<Connection>>;

/// Makes connections fit to talk on. Certificates, if there are any, are its affair; its errors say
/// what to do.
pub trait Channel: Send + Sync + 'static {
    /// This process has connected to `address` (host and port).
    fn connected(&self, stream: TcpStream, address: &str) -> Opening;
    /// Somebody has connected to this process.
    fn accepted(&self, stream: TcpStream) -> Opening;
}

/// Peers talk in the clear, and believe one another.
pub struct Clear;

impl Clear {
    fn open(stream: TcpStream) -> Opening {
        let (reader, writer) = stream.into_split();
        let connection = Connection { reader: Box::new(reader), writer: Box::new(writer) };
        Box::pin(std::future::ready(Ok(connection)))
    }
}

impl Channel for Clear {
    fn connected(&self, stream: TcpStream, _address: &str) -> Opening {
        Self::open(stream)
    }

    fn accepted(&self, stream: TcpStream) -> Opening {
        Self::open(stream)
    }
}

/// How long a sentence is not said again.
const QUIET: Duration = Duration::from_secs(30);
/// Sentences remembered.
const REMEMBERED: usize = 64;

/// What the operator was told already: peers try again many times a second.
#[derive(Default)]
pub struct Told(Mutex<HashMap<String, Instant>>);

impl Told {
    /// Whether a sentence is new, or was said long ago.
    pub fn is_news(&self, sentence: &str) -> bool {
        let mut told = self.0.lock();
        let now = Instant::now();
        if told.get(sentence).is_some_and(|said| now - *said < QUIET) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(sentence.to_owned(), now);
        true
    }
}
