//! Clients that write and read back, and forgive a server one failure an operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use e2e::Bed;
use e2e::hollow::Live;
use etcd_client::{Certificate, Client, ConnectOptions, TlsOptions};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::task::JoinSet;

/// How long one try may take: longer than a member lets it wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Within this much a process that was killed is gone.
const DYING: Duration = Duration::from_millis(300);
/// Between two operations of a client: it is the steps that are tried, not the store's speed.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    retried: AtomicU64,
    /// Tries after the second that an election was the reason for.
    forgiven: AtomicU64,
    /// The same, where a fault befell the member that the retry went to.
    met_again: AtomicU64,
    /// Milliseconds that the longest operation took, with all of its tries.
    longest_ms: AtomicU64,
    /// Operations whose retry failed: of all where nothing happens but planned steps, else of those whose member stayed as it was.
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// Whether faults of the test's own happen: an election may meet both tries, and a kill any of them.
    is_beside_faults: bool,
    /// The authority of the members' certificates, where they talk by TLS.
    authority: Option<String>,
}

impl Counts {
    /// Whether a retry's failure is no step's of ours.
    fn forgives(&self, error: &anyhow::Error) -> bool {
        let said = format!("{error:#}");
        self.is_beside_faults && (said.contains("leader changed") || said.contains("no leader"))
    }

    async fn connect(&self, member: &Live) -> Result<Client> {
        let mut options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
        let mut scheme = "http";
        if let Some(authority) = &self.authority {
            let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(authority)).domain_name("kv");
            (options, scheme) = (options.with_tls(tls), "https");
        }
        Ok(Client::connect([format!("{scheme}://{}:2379", member.address)], Some(options)).await?)
    }

    /// An operation was acknowledged.
    fn note(&self, began: Instant) {
        self.done.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.longest_ms.fetch_max(took, Ordering::Relaxed);
    }

    /// Whether a client is to connect anew after so many operations.
    fn parts_after(&self, number: u64) -> bool {
        self.authority.is_some() && number.is_multiple_of(RECONNECT)
    }
}

/// Operations of a client over TLS between two connections.
const RECONNECT: u64 = 10;

/// Clients at work.
pub struct Writers {
    counts: Arc<Counts>,
    tasks: JoinSet<Result<(String, u64)>>,
}

/// What they saw.
#[derive(Debug)]
pub struct Seen {
    /// Operations that were acknowledged.
    pub done: u64,
    /// Those that took a second try.
    pub retried: u64,
    /// Tries after the second, while a fault's election was not over.
    pub forgiven: u64,
    /// Tries after the second, since a fault befell the member of the one before.
    pub met_again: u64,
    /// What the longest operation took, with all of its tries.
    pub longest: Duration,
}

impl Writers {
    /// Has so many begin, where nothing but planned steps happens.
    pub fn begin(bed: &'static Bed, namespace: &str, count: usize) -> Self {
        Self::begin_with(bed, namespace, count, Counts::default())
    }

    /// The same beside faults: whom a fault takes the leader from may ask twice before there is another.
    pub fn begin_beside_faults(bed: &'static Bed, namespace: &str, count: usize) -> Self {
        Self::begin_with(bed, namespace, count, Counts { is_beside_faults: true, ..Counts::default() })
    }

    /// As where nothing happens but planned steps, of a cluster whose certificates that authority signed. They connect anew now and then.
    pub fn begin_over_tls(bed: &'static Bed, namespace: &str, count: usize, authority: String) -> Self {
        Self::begin_with(bed, namespace, count, Counts { authority: Some(authority), ..Counts::default() })
    }

    fn begin_with(bed: &'static Bed, namespace: &str, count: usize, counts: Counts) -> Self {
        let counts = Arc::new(counts);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let namespace = namespace.to_owned();
            tasks.spawn(write(bed, namespace, format!("writer-{number}"), counts.clone()));
        }
        Self { counts, tasks }
    }

    /// Operations that were acknowledged so far.
    pub fn done(&self) -> u64 {
        self.counts.done.load(Ordering::Relaxed)
    }

    /// Has them end, and holds the store to what it acknowledged.
    pub async fn end(mut self, bed: &'static Bed, namespace: &str) -> Result<Seen> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let mut last = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            last.push(ended??);
        }
        let mut client = self.counts.connect(&pick(bed, namespace, None).await).await?;
        for (key, value) in last {
            let found = client.get(key.as_str(), None).await?;
            let found = found.kvs().first().and_then(|pair| pair.value_str().ok()?.parse::<u64>().ok());
            ensure!(found == Some(value), "{key}: {value} was acknowledged last, and {found:?} is there");
        }
        let failed = self.counts.failed.lock().clone();
        ensure!(failed.is_empty(), "{} operations failed twice: {failed:?}", failed.len());
        let retried = self.counts.retried.load(Ordering::Relaxed);
        let forgiven = self.counts.forgiven.load(Ordering::Relaxed);
        let met_again = self.counts.met_again.load(Ordering::Relaxed);
        let longest = Duration::from_millis(self.counts.longest_ms.load(Ordering::Relaxed));
        Ok(Seen { done: self.done(), retried, forgiven, met_again, longest })
    }
}

/// A member that is ready, another than that one if there is another: as a Service leads to it.
async fn pick(bed: &Bed, namespace: &str, not: Option<&Live>) -> Live {
    loop {
        let live = bed.hollow.live(namespace);
        let not = not.filter(|_| live.len() > 1);
        let may = |live: &Live| live.is_ready && not.is_none_or(|not| not.uid != live.uid);
        let ready: Vec<Live> = live.into_iter().filter(may).collect();
        if !ready.is_empty() {
            return ready[rand::rng().random_range(0..ready.len())].clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Puts the next number, and reads it back linearizably from where it was put.
async fn operate(client: &mut Client, key: &str, number: u64) -> Result<()> {
    client.put(key, number.to_string(), None).await?;
    let found = client.get(key, None).await?;
    let found = found.kvs().first().and_then(|pair| pair.value_str().ok()?.parse::<u64>().ok());
    if found != Some(number) {
        bail!("{key}: {number} was put, and {found:?} is read");
    }
    Ok(())
}

/// Whether a member still runs as it did. One that was killed just now may be told to be ready for a moment, but nobody listens there.
async fn is_as_it_was(bed: &Bed, namespace: &str, member: &Live) -> bool {
    let listens = tokio::net::TcpStream::connect((member.address.as_str(), 2379)).await.is_ok();
    listens && bed.hollow.live(namespace).contains(member)
}

async fn write(
    bed: &'static Bed,
    namespace: String,
    key: String,
    counts: Arc<Counts>,
) -> Result<(String, u64)> {
    let mut number = 0;
    let mut at: Option<(Live, Client)> = None;
    while !counts.stop.load(Ordering::Relaxed) {
        number += 1;
        let began = Instant::now();
        if at.is_none() {
            let member = pick(bed, &namespace, None).await;
            at = counts.connect(&member).await.ok().map(|client| (member, client));
        }
        let mut tried = None;
        if let Some((member, mut client)) = at.take() {
            match operate(&mut client, &key, number).await {
                Ok(()) => {
                    counts.note(began);
                    at = Some((member, client)).filter(|_| !counts.parts_after(number));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(_) => tried = Some(member),
            }
        }
        // The one retry, at another member. What befalls that one meanwhile is a second fault, and none of ours: where there are none, a third
        // try is one too many.
        counts.retried.fetch_add(1, Ordering::Relaxed);
        loop {
            let member = pick(bed, &namespace, tried.as_ref()).await;
            let again = async {
                let mut client = counts.connect(&member).await?;
                operate(&mut client, &key, number).await?;
                anyhow::Ok(client)
            };
            match again.await {
                Ok(client) => {
                    counts.note(began);
                    at = Some((member, client));
                    break;
                }
                Err(error) if counts.forgives(&error) => {
                    counts.forgiven.fetch_add(1, Ordering::Relaxed);
                    tried = Some(member);
                }
                Err(error) => {
                    if counts.is_beside_faults {
                        // A process that is killed closes its sockets one after the other.
                        tokio::time::sleep(DYING).await;
                    }
                    if !counts.is_beside_faults || is_as_it_was(bed, &namespace, &member).await {
                        counts.failed.lock().push(format!("{key} at {}: {error:#}", member.name));
                    } else {
                        counts.met_again.fetch_add(1, Ordering::Relaxed);
                    }
                    tried = Some(member);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok((key, number))
}
