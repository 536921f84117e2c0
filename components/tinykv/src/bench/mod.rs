//! `tinykv bench`: load on a running cluster, this program's or etcd's, and what it answered.

mod drive;
mod report;
mod watch;
mod work;

use crate::client::{ClientArgs, ClientError};
use bytes::Bytes;
use drive::drive;
use report::Report;
use std::io::Write as _;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use tonic::Status;
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::kv_client::KvClient;
use work::{KeepAlives, Puts, Ranges, Txns};

/// What is measured.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Workload {
    /// Write keys.
    Put {
        /// How much load.
        #[command(flatten)]
        load: LoadArgs,
        /// Which keys.
        #[command(flatten)]
        keys: KeyArgs,
    },
    /// Read keys, or pages of them.
    Range {
        /// How much load.
        #[command(flatten)]
        load: LoadArgs,
        /// Which keys.
        #[command(flatten)]
        keys: KeyArgs,
        /// Write all keys first.
        #[arg(long)]
        fill: bool,
        /// Keys of an answer: more than one reads pages, each from a key on.
        #[arg(long, value_name = "KEYS", default_value = "1")]
        limit: NonZeroU32,
        /// Be content with what the member that is asked knows.
        #[arg(long)]
        serializable: bool,
    },
    /// Write several keys in a transaction.
    Txn {
        /// How much load.
        #[command(flatten)]
        load: LoadArgs,
        /// Which keys.
        #[command(flatten)]
        keys: KeyArgs,
        /// Puts in a transaction.
        #[arg(long, value_name = "PUTS", default_value = "4")]
        operations: NonZeroU32,
    },
    /// Keep leases alive, one for each client.
    Lease {
        /// How much load.
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Write a key that many watch; how long until they hear of it.
    Watch {
        /// How much load.
        #[command(flatten)]
        load: LoadArgs,
        /// Which keys.
        #[command(flatten)]
        keys: KeyArgs,
        /// Watchers.
        #[arg(long, value_name = "N", default_value = "1000")]
        watchers: NonZeroU32,
        /// Streams that they share.
        #[arg(long, value_name = "N", default_value = "10")]
        streams: NonZeroU32,
    },
}

/// How much load, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    #[command(flatten)]
    cluster: ClientArgs,
    /// Clients, each with one request at a time.
    #[arg(long, value_name = "N", default_value = "50")]
    clients: NonZeroUsize,
    /// Connections that they share, spread over the endpoints [default: 10, or as many as clients]
    #[arg(long, value_name = "N")]
    connections: Option<NonZeroUsize>,
    /// Requests, all clients together.
    #[arg(long, value_name = "REQUESTS", default_value = "10000")]
    total: NonZeroU64,
    /// Go on for so long, however many requests that makes.
    #[arg(long, value_name = "SECONDS", conflicts_with = "total")]
    seconds: Option<NonZeroU64>,
    /// Requests a second, all clients together. Latency is then counted from the moment at which a request was due, so that
    /// one that had to wait for a slow one before it counts as slow.
    #[arg(long, value_name = "PER SECOND")]
    rate: Option<NonZeroU64>,
    /// How long a request may take.
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    timeout: NonZeroU64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which keys and values.
#[derive(Debug, Clone, clap::Args)]
pub struct KeyArgs {
    /// How the keys begin.
    #[arg(long, value_name = "TEXT", default_value = "bench/")]
    prefix: String,
    /// Length of a key, the prefix included; longer where that is too short for its number.
    #[arg(long, value_name = "BYTES", default_value = "32")]
    key_size: usize,
    /// Length of a value.
    #[arg(long, value_name = "BYTES", default_value = "256")]
    value_size: usize,
    /// Number of keys, of which each request takes one at random.
    #[arg(long, value_name = "N", default_value = "10000")]
    keys: NonZeroU64,
    /// Take them in order.
    #[arg(long)]
    sequential: bool,
    /// What chance begins with.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Delete all keys with the prefix at the end.
    #[arg(long)]
    clean: bool,
}

/// The longest key and value that are sent.
const SIZE_LIMIT: usize = 64 << 20;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The cluster.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A size that no server takes.
    #[error("{option} {size}: at most {SIZE_LIMIT} bytes")]
    Size {
        /// The option.
        option: &'static str,
        /// What it said.
        size: usize,
    },
    /// An empty prefix, which `--clean` would take for every key there is.
    #[error("--clean with an empty --prefix would delete every key of the cluster")]
    CleansAll,
    /// Keys could not be written before, or deleted after; or leases ended.
    #[error("{what}: {}", status.message())]
    Keys {
        /// What was done.
        what: &'static str,
        /// What the cluster said.
        status: Box<Status>,
    },
    /// The signal by which a user stops.
    #[error("waiting for Ctrl-C: {0}")]
    Signal(std::io::Error),
}

impl KeyArgs {
    fn check(&self) -> Result<(), BenchError> {
        for (option, size) in [("--key-size", self.key_size), ("--value-size", self.value_size)] {
            if size > SIZE_LIMIT {
                return Err(BenchError::Size { option, size });
            }
        }
        if self.clean && self.prefix.is_empty() {
            return Err(BenchError::CleansAll);
        }
        Ok(())
    }

    /// The key of a number.
    fn key(&self, number: u64) -> Bytes {
        let number = number.to_string();
        let zeros = self.key_size.saturating_sub(self.prefix.len() + number.len());
        format!("{}{}{number}", self.prefix, "0".repeat(zeros)).into()
    }

    /// The key that a request takes.
    fn drawn(&self, request: u64) -> Bytes {
        let number = if self.sequential { request } else { mixed(self.seed, request) };
        self.key(number % self.keys)
    }

    /// A value that does not compress.
    fn value(&self) -> Bytes {
        (0..self.value_size as u64).map(|byte| mixed(self.seed, byte) as u8).collect()
    }

    /// The end of the keys with the prefix.
    fn end(&self) -> Bytes {
        let mut end = self.prefix.clone().into_bytes();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return end.into();
            }
        }
        Bytes::from_static(&[0])
    }
}

/// Chance that can be asked again. Source: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
fn mixed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Measures, prints what came of it; whether every request was answered.
pub async fn bench(workload: &Workload) -> Result<bool, BenchError> {
    let (load, keys) = match workload {
        Workload::Put { load, keys }
        | Workload::Range { load, keys, .. }
        | Workload::Txn { load, keys, .. }
        | Workload::Watch { load, keys, .. } => (load, Some(keys)),
        Workload::Lease { load } => (load, None),
    };
    keys.map_or(Ok(()), KeyArgs::check)?;
    let crew = work::Crew::reach(load).await?;
    let report = match workload {
        Workload::Put { load, keys } => {
            let puts = Puts::new(crew.clone(), keys.clone());
            Report::of("put", load, &drive(load, puts).await?)
        }
        Workload::Range { load, keys, fill, limit, serializable } => {
            if *fill {
                work::fill(&crew, keys).await?;
            }
            let ranges = Ranges::new(crew.clone(), keys.clone(), limit.get().into(), *serializable);
            let driven = drive(load, ranges).await?;
            let mut report = Report::of("range", load, &driven);
            report.keys_an_answer = Some(driven.items as f64 / driven.latency.len().max(1) as f64);
            report
        }
        Workload::Txn { load, keys, operations } => {
            let txns = Txns { puts: Puts::new(crew.clone(), keys.clone()), operations: operations.get() };
            Report::of("txn", load, &drive(load, txns).await?)
        }
        Workload::Lease { load } => {
            let (keep_alives, granted) = KeepAlives::new(crew.clone());
            let driven = drive(load, keep_alives).await;
            granted.revoke(&crew).await?;
            Report::of("lease", load, &driven?)
        }
        Workload::Watch { load, keys, watchers, streams } => {
            watch::watch(&crew, load, keys, (watchers.get(), streams.get())).await?
        }
    };
    if let Some(keys) = keys.filter(|keys| keys.clean) {
        clean(&crew, keys).await?;
    }
    let text = if load.json {
        serde_json::to_string_pretty(&report).expect("numbers and words") + "\n"
    } else {
        report.to_string()
    };
    // Whoever reads may have seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(report.errors.is_empty())
}

async fn clean(crew: &work::Crew, keys: &KeyArgs) -> Result<(), BenchError> {
    let all = pb::DeleteRangeRequest {
        key: keys.prefix.clone().into(),
        range_end: keys.end(),
        ..Default::default()
    };
    let deleted = KvClient::new(crew.channel(0)).delete_range(crew.signed(all)).await;
    deleted.map_err(|status| BenchError::Keys { what: "deleting the keys", status: Box::new(status) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(subcommand)]
        workload: Workload,
    }

    fn keys(arguments: &[&str]) -> KeyArgs {
        let arguments = ["bench", "put"].iter().chain(arguments);
        match Cli::try_parse_from(arguments).expect("they fit").workload {
            Workload::Put { keys, .. } => keys,
            _ => unreachable!("it is a put"),
        }
    }

    #[test]
    fn keys_have_their_length_and_stay_among_those_that_there_are() {
        let few = keys(&["--keys", "7", "--key-size", "12"]);
        let drawn: std::collections::BTreeSet<_> = (0..1_000).map(|request| few.drawn(request)).collect();
        assert_eq!(drawn.len(), 7);
        assert!(drawn.iter().all(|key| key.len() == 12 && key.starts_with(b"bench/")));
        assert_eq!(few.drawn(3), few.drawn(3));
        assert_eq!(keys(&["--key-size", "100000"]).drawn(3).len(), 100_000);
        let in_order = keys(&["--sequential", "--keys", "3", "--prefix", "ключ/", "--key-size", "0"]);
        let drawn: Vec<_> = (0..4).map(|request| in_order.drawn(request)).collect();
        assert_eq!(drawn, ["ключ/0", "ключ/1", "ключ/2", "ключ/0"]);
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_of_its_keys() {
        assert_eq!(&keys(&["--prefix", "a/"]).end()[..], b"a0");
        assert_eq!(&keys(&["--prefix", ""]).end()[..], [0]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(matches!(keys(&["--clean", "--prefix", ""]).check(), Err(BenchError::CleansAll)));
        let huge = keys(&["--value-size", "99999999999"]).check().expect_err("too large");
        assert_eq!(huge.to_string(), "--value-size 99999999999: at most 67108864 bytes");
        for refused in [["--clients", "0"], ["--total", "0"], ["--rate", "-1"], ["--keys", "0"]] {
            assert!(Cli::try_parse_from(["bench", "put"].iter().chain(&refused)).is_err(), "{refused:?}");
        }
    }
}
