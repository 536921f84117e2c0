//! `etcd gateway`: clients of one machine connect here, and each of their connections goes on to a member that answers. It
//! looks into nothing, so TLS is between the client and the member.

use aistack_api::tinykv::duration;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// How long connecting to a member may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Where the gateway listens, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewayArgs {
    /// Where clients connect.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:23790")]
    pub listen_addr: SocketAddr,
    /// Members: URLs, or host and port.
    #[arg(
        long,
        global = true,
        value_name = "URL,…",
        default_value = "127.0.0.1:2379",
        value_delimiter = ','
    )]
    pub endpoints: Vec<String>,
    /// How long a member that did not answer is left alone, while another does.
    #[arg(long, global = true, value_name = "DURATION", default_value = "1m", value_parser = delay)]
    pub retry_delay: Duration,
    /// What the gateway does.
    #[command(subcommand)]
    pub command: GatewayCommand,
}

/// What the gateway does.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum GatewayCommand {
    /// Pass connections on until the process is ended.
    Start,
}

fn delay(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "write a duration like 1m or 1.5s".to_owned())
}

/// A member, and until when it is left alone.
struct Member {
    address: String,
    alone_until: parking_lot::Mutex<Option<Instant>>,
}

/// The members in turn.
struct Members {
    all: Vec<Member>,
    next: AtomicUsize,
    retry_delay: Duration,
}

impl Members {
    fn new(endpoints: &[String], retry_delay: Duration) -> Self {
        let bare = |endpoint: &String| {
            let address = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address);
            Member {
                address: address.trim_end_matches('/').to_owned(),
                alone_until: parking_lot::Mutex::default(),
            }
        };
        Self { all: endpoints.iter().map(bare).collect(), next: AtomicUsize::new(0), retry_delay }
    }

    /// A connection to the next member that answers. Those that did not lately are asked only when no other does.
    async fn connect(&self) -> io::Result<TcpStream> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.all.len()).map(|nth| &self.all[(first + nth) % self.all.len()]);
        let now = Instant::now();
        let is_left_alone = |member: &&Member| member.alone_until.lock().is_some_and(|until| now < until);
        let (later, sooner): (Vec<_>, Vec<_>) = in_turn.partition(is_left_alone);
        let mut last = io::Error::other("no member is named");
        for member in sooner.into_iter().chain(later) {
            let connecting = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(&member.address));
            match connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    *member.alone_until.lock() = None;
                    return Ok(stream);
                }
                Err(error) => {
                    let until = Instant::now() + self.retry_delay;
                    if member.alone_until.lock().replace(until).is_none() {
                        tracing::warn!(endpoint = member.address, %error, "deactivated endpoint");
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }
}

/// Passes connections on for as long as the future lives.
pub async fn pass_on(listener: TcpListener, endpoints: &[String], retry_delay: Duration) {
    let members = Arc::new(Members::new(endpoints, retry_delay));
    loop {
        let (mut client, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly too many open files: some must close first.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let members = Arc::clone(&members);
        tokio::spawn(async move {
            match members.connect().await {
                Ok(mut member) => {
                    let _ = (client.set_nodelay(true), member.set_nodelay(true));
                    // Either end may break it off.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut member).await;
                }
                Err(error) => tracing::warn!(remote_addr = %from, %error, "no member answers"),
            }
        });
    }
}

/// Runs the gateway.
pub async fn run(args: &GatewayArgs) -> io::Result<()> {
    let listener = TcpListener::bind(args.listen_addr).await?;
    // etcd's words, which scripts wait for.
    tracing::info!(listen = %args.listen_addr, endpoints = ?args.endpoints, "ready to proxy client requests");
    tokio::select! {
        () = pass_on(listener, &args.endpoints, args.retry_delay) => {}
        ended = tokio::signal::ctrl_c() => ended?,
        () = terminated() => {}
    }
    Ok(())
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut asked) => {
            asked.recv().await;
        }
        // Then the signal ends the process by itself.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A member that answers every byte with its own.
    async fn member(own: u8) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while stream.read_u8().await.is_ok() && stream.write_u8(own).await.is_ok() {}
                });
            }
        });
        (format!("http://{address}"), serving)
    }

    #[tokio::test]
    async fn connections_take_turns_and_pass_over_who_does_not_answer() {
        let ((one, _first), (two, second)) = (member(1).await, member(2).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let endpoints = [one, two];
        tokio::spawn(async move { pass_on(listener, &endpoints, Duration::from_hours(1)).await });
        let ask = async || {
            let mut stream = TcpStream::connect(address).await.expect("the gateway");
            stream.write_u8(0).await.expect("written");
            stream.read_u8().await.expect("an answer")
        };
        assert_eq!((ask().await, ask().await, ask().await), (1, 2, 1));
        second.abort();
        let _ = second.await;
        for _ in 0..4 {
            assert_eq!(ask().await, 1);
        }
    }
}
