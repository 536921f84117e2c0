//! One TCP connection to each peer, shared by all groups of the process; a [`Channel`] may encrypt it.
//!
//! ```text
//! hello   magic "RAFTPEER" | version u8 | cluster u64 | from u64 | to u64
//! welcome u8: 1 yes, 2 another cluster, 3 another member
//! frame   length u32 | CRC-32C of the rest u32 | number u64 | group u32 | kind u8 | body
//! ```
//!
//! A request's answer bears its number; kind 0 is an answer, kind 255 an error in words. Answers
//! come in any order. Who is no member yet names cluster, from and to 0: it is told the cluster
//! (u64, after the welcome), and may ask who the members are, nothing else.

mod frames;

use crate::NodeId;
use crate::channel::{Channel, Connection, Told};
use crate::members::{Members, members_of};
use crate::raft::decode_members;
use crate::traffic::{Link, Traffic};
use crate::transport::{Answering, Kind, Peer, Request, Services, Transport};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use frames::{Frame, Frames, HEAD, put_frame};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

const MAGIC: &[u8; 8] = b"RAFTPEER";
const VERSION: u8 = 1;
const HELLO: usize = 33;
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long greeting may take, with the proofs of who is there.
const GREET_LIMIT: Duration = Duration::from_secs(5);
/// How long a peer that owes answers may say nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// Frames written with one call, in bytes.
const WRITE_TARGET: usize = 256 << 10;
const ANSWER: u8 = 0;
const ERROR: u8 = 255;

/// Who this process is to its peers.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    pub cluster: u64,
    pub node: NodeId,
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<io::Result<Bytes>>>>>;

struct Outgoing {
    request: Request,
    answer: oneshot::Sender<io::Result<Bytes>>,
}

/// The connections to peers, made when they are needed.
pub struct Connections {
    runtime: Handle,
    caller: Arc<Caller>,
    open: Arc<Mutex<HashMap<Peer, mpsc::UnboundedSender<Outgoing>>>>,
}

/// What it takes to connect to a peer.
struct Caller {
    identity: Identity,
    traffic: Traffic,
    channel: Arc<dyn Channel>,
    told: Told,
}

impl Connections {
    pub fn new(runtime: Handle, identity: Identity, channel: Arc<dyn Channel>, traffic: Traffic) -> Self {
        let caller = Arc::new(Caller { identity, traffic, channel, told: Told::default() });
        Self { runtime, caller, open: Arc::default() }
    }
}

impl Transport for Connections {
    fn call(&self, to: &Peer, request: Request) -> Answering {
        let (answer, receiver) = oneshot::channel();
        let mut outgoing = Outgoing { request, answer };
        let mut open = self.open.lock();
        if let Some(connection) = open.get(to) {
            match connection.send(outgoing) {
                Ok(()) => return answering(receiver),
                Err(mpsc::error::SendError(back)) => outgoing = back,
            }
        }
        let (sender, requests) = mpsc::unbounded_channel();
        // The receiver stands two lines up.
        let _ = sender.send(outgoing);
        open.insert(to.clone(), sender);
        self.runtime.spawn(serve_connection(Arc::clone(&self.caller), to.clone(), requests));
        answering(receiver)
    }
}

fn answering(receiver: oneshot::Receiver<io::Result<Bytes>>) -> Answering {
    Box::pin(async move {
        receiver.await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection to the peer broke"))
        })
    })
}

/// Sends requests until the connection breaks; what waits for answers then hears of it.
async fn serve_connection(caller: Arc<Caller>, peer: Peer, mut requests: mpsc::UnboundedReceiver<Outgoing>) {
    let link = caller.traffic.with(peer.node);
    let failed = match connect(caller.identity, &peer, &*caller.channel).await {
        Ok(connection) => {
            let error = exchange(connection, &mut requests, &link).await;
            tracing::debug!(peer = format_args!("{:x}", peer.node), %error, "a connection has ended");
            error
        }
        Err(error) => {
            let (node, address) = (format_args!("{:x}", peer.node), &peer.address);
            if caller.told.is_news(&error.to_string()) {
                tracing::warn!(peer = node, %address, %error, "no connection; it is tried again");
            }
            error
        }
    };
    requests.close();
    while let Ok(outgoing) = requests.try_recv() {
        link.fails();
        // These were never sent. Whoever asked may have given up.
        let _ = outgoing.answer.send(Err(io::Error::new(io::ErrorKind::NotConnected, failed.to_string())));
    }
}

async fn connect(identity: Identity, peer: &Peer, channel: &dyn Channel) -> io::Result<Connection> {
    let address = &peer.address;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer"));
    let about = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await.map_err(late)?;
    let stream = stream.map_err(about)?;
    let greet = async {
        stream.set_nodelay(true)?;
        let mut connection = channel.connected(stream, address).await?;
        let mut hello = Vec::with_capacity(HELLO);
        hello.put_slice(MAGIC);
        hello.put_u8(VERSION);
        hello.put_u64_le(identity.cluster);
        hello.put_u64_le(identity.node);
        hello.put_u64_le(peer.node);
        connection.writer.write_all(&hello).await?;
        connection.writer.flush().await?;
        let hung_up = |error: io::Error| {
            let reason =
                format!("{address} did not greet ({error}); its log says why, or it expects encryption");
            io::Error::new(error.kind(), reason)
        };
        match connection.reader.read_u8().await.map_err(hung_up)? {
            1 => Ok(connection),
            2 => Err(io::Error::other(format!("{address} belongs to another cluster"))),
            3 => Err(io::Error::other(format!("{address} is another member"))),
            other => Err(io::Error::other(format!("{address} is no peer (it said {other})"))),
        }
    };
    tokio::time::timeout(GREET_LIMIT, greet).await.map_err(late)?
}

async fn exchange(
    connection: Connection,
    requests: &mut mpsc::UnboundedReceiver<Outgoing>,
    link: &Link,
) -> io::Error {
    let Connection { reader, writer } = connection;
    let pending = Pending::default();
    let failed = tokio::select! {
        error = send(writer, requests, &pending, link) => error,
        error = receive(reader, &pending, link) => error,
    };
    for (_, answer) in pending.lock().drain() {
        link.fails();
        // Whoever asked may have given up.
        let _ = answer.send(Err(io::Error::new(failed.kind(), failed.to_string())));
    }
    failed
}

async fn send(
    mut writer: Writer,
    requests: &mut mpsc::UnboundedReceiver<Outgoing>,
    pending: &Pending,
    link: &Link,
) -> io::Error {
    let mut number = 0;
    let mut buffer = BytesMut::new();
    while let Some(first) = requests.recv().await {
        let mut next = Some(first);
        while let Some(Outgoing { request, answer }) = next {
            number += 1;
            pending.lock().insert(number, answer);
            put_frame(&mut buffer, number, request.group, request.kind as u8, &request.body);
            next = if buffer.len() < WRITE_TARGET { requests.try_recv().ok() } else { None };
        }
        if let Err(error) = write_out(&mut writer, &buffer).await {
            return error;
        }
        link.sends(buffer.len());
        buffer.clear();
    }
    io::Error::other("the process is stopping")
}

async fn write_out(writer: &mut Writer, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

async fn receive(reader: Reader, pending: &Pending, link: &Link) -> io::Error {
    let mut frames = Frames::new(reader);
    loop {
        let frame = match tokio::time::timeout(SILENCE_LIMIT, frames.next()).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => return error,
            Err(_) if pending.lock().is_empty() => continue,
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "the peer has fallen silent"),
        };
        link.receives(HEAD + frame.body.len());
        let Some(answer) = pending.lock().remove(&frame.number) else { continue };
        let outcome = match frame.kind {
            ANSWER => Ok(frame.body),
            _ => Err(io::Error::other(String::from_utf8_lossy(&frame.body).into_owned())),
        };
        // Whoever asked may have given up.
        let _ = answer.send(outcome);
    }
}

/// This process, to those that connect.
pub struct Here {
    pub identity: Identity,
    pub services: Services,
    pub traffic: Traffic,
}

/// What it takes to serve those that connect.
struct Door {
    here: Here,
    channel: Arc<dyn Channel>,
    told: Told,
}

/// Serves peers that connect to one of `listeners`, for as long as the runtime lives.
pub fn listen(
    runtime: &Handle,
    listeners: Vec<StdListener>,
    here: Here,
    channel: Arc<dyn Channel>,
) -> io::Result<()> {
    let door = Arc::new(Door { here, channel, told: Told::default() });
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(accept(listener, Arc::clone(&door)));
    }
    Ok(())
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve_peer(stream, Arc::clone(&door)));
            }
            Err(error) => {
                // Mostly too many open files: some must close first.
                tracing::warn!(%error, "a peer could not connect");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_peer(stream: TcpStream, door: Arc<Door>) {
    let greeted = tokio::time::timeout(GREET_LIMIT, welcome(stream, &door)).await;
    let (connection, from) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => {
            if door.told.is_news(&error.to_string()) {
                tracing::warn!(%error, "rejected connection on peer endpoint");
            }
            return;
        }
        Err(_) => return,
    };
    let (answers, queue) = mpsc::unbounded_channel();
    // Who is no member yet has no number.
    let link = if from == 0 { Arc::default() } else { door.here.traffic.with(from) };
    let error = tokio::select! {
        error = answer_requests(connection.reader, (from, &link), &door.here.services, &answers) => error,
        error = send_answers(connection.writer, queue, &link) => error,
    };
    tracing::debug!(peer = format_args!("{from:x}"), %error, "a peer's connection ended");
}

async fn welcome(stream: TcpStream, door: &Door) -> io::Result<(Connection, NodeId)> {
    /// How TLS begins.
    const ENCRYPTED: u8 = 22;
    let identity = door.here.identity;
    stream.set_nodelay(true)?;
    let mut connection = door.channel.accepted(stream).await?;
    let mut hello = [0; HELLO];
    connection.reader.read_exact(&mut hello).await?;
    let mut hello = &hello[..];
    if hello[0] == ENCRYPTED {
        return Err(io::Error::other("it encrypts, and this process does not: set both to the same"));
    }
    if !hello.starts_with(MAGIC) || hello[8] != VERSION {
        return Err(io::Error::other("it speaks another protocol, or another version of this one"));
    }
    hello.advance(9);
    let (cluster, from, to) = (hello.get_u64_le(), hello.get_u64_le(), hello.get_u64_le());
    let (answer, refusal) = match (cluster, from, to) {
        (0, 0, 0) => (1, None),
        _ if cluster != identity.cluster => {
            (2, Some(format!("member {from:x} belongs to cluster {cluster:x}")))
        }
        _ if to != identity.node => (3, Some(format!("member {from:x} looked for member {to:x} here"))),
        _ => (1, None),
    };
    let mut said = vec![answer];
    if cluster == 0 && refusal.is_none() {
        said.put_u64_le(identity.cluster);
    }
    write_out(&mut connection.writer, &said).await?;
    refusal.map_or(Ok((connection, from)), |reason| Err(io::Error::other(reason)))
}

/// A cluster as one of its members tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The cluster.
    pub cluster: u64,
    /// Its members, as far as the one who was asked knows.
    pub members: Members,
}

async fn greeted(address: &str, channel: &dyn Channel) -> io::Result<(Connection, u64)> {
    let nobody = Identity { cluster: 0, node: 0 };
    let peer = Peer { node: 0, address: address.to_owned() };
    let mut connection = connect(nobody, &peer, channel).await?;
    let cluster = connection.reader.read_u64_le().await?;
    Ok((connection, cluster))
}

async fn in_time<T>(address: &str, ask: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer"));
    tokio::time::timeout(SILENCE_LIMIT, ask).await.map_err(|_| late())?
}

/// Asks whoever listens at `address` for its cluster; it need not have started any group yet.
pub async fn greet(address: &str, channel: &dyn Channel) -> io::Result<u64> {
    in_time(address, async { Ok(greeted(address, channel).await?.1) }).await
}

/// Asks whoever listens at `address` for its cluster, and for the members of `group`.
pub async fn introduce(address: &str, group: u32, channel: &dyn Channel) -> io::Result<Introduction> {
    let ask = async {
        let (Connection { reader, mut writer }, cluster) = greeted(address, channel).await?;
        let mut request = BytesMut::new();
        put_frame(&mut request, 1, group, Kind::Introduce as u8, &[]);
        write_out(&mut writer, &request).await?;
        let mut answer = Frames::new(reader).next().await?;
        if answer.kind != ANSWER {
            return Err(io::Error::other(String::from_utf8_lossy(&answer.body).into_owned()));
        }
        let members = decode_members(&mut answer.body)
            .ok_or_else(|| io::Error::other(format!("{address} told of its members in no known form")))?;
        Ok(Introduction { cluster, members: members_of(&members) })
    };
    in_time(address, ask).await
}

type Answers = mpsc::UnboundedSender<(u64, io::Result<Bytes>)>;

async fn answer_requests(
    reader: Reader,
    (from, link): (NodeId, &Link),
    services: &Services,
    answers: &Answers,
) -> io::Error {
    let mut frames = Frames::new(reader);
    loop {
        let Frame { number, group, kind, body } = match frames.next().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        link.receives(HEAD + body.len());
        let Some(kind) = Kind::of(kind).filter(|kind| from != 0 || *kind == Kind::Introduce) else {
            // The other end of the queue lives as long as this.
            let _ = answers.send((number, Err(io::Error::other("a request of no known kind"))));
            continue;
        };
        let mut answering = services.answer(from, Request { group, kind, body });
        // The first poll happens here, so that requests begin in the order in which they came.
        match futures::poll!(&mut answering) {
            std::task::Poll::Ready(answer) => {
                let _ = answers.send((number, answer));
            }
            std::task::Poll::Pending => {
                let answers = answers.clone();
                tokio::spawn(async move {
                    // The connection may have broken meanwhile.
                    let _ = answers.send((number, answering.await));
                });
            }
        }
    }
}

async fn send_answers(
    mut writer: Writer,
    mut queue: mpsc::UnboundedReceiver<(u64, io::Result<Bytes>)>,
    link: &Link,
) -> io::Error {
    let mut buffer = BytesMut::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some((number, answer)) = next {
            match answer {
                Ok(body) => put_frame(&mut buffer, number, 0, ANSWER, &body),
                Err(error) => put_frame(&mut buffer, number, 0, ERROR, error.to_string().as_bytes()),
            }
            next = if buffer.len() < WRITE_TARGET { queue.try_recv().ok() } else { None };
        }
        if let Err(error) = write_out(&mut writer, &buffer).await {
            return error;
        }
        link.sends(buffer.len());
        buffer.clear();
    }
    io::Error::other("the process is stopping")
}
