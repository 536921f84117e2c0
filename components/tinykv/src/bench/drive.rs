//! Many clients that send requests until there are enough.

use super::{BenchError, LoadArgs};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

/// What clients do.
pub trait Work: Send + Sync + 'static {
    /// What a client keeps from one request to the next.
    type Client: Send;
    /// The client of a number.
    fn client(&self, number: usize) -> impl Future<Output = Result<Self::Client, BenchError>> + Send;
    /// One request; how many keys, or whatever is counted, its answer held.
    fn once(
        &self,
        client: &mut Self::Client,
        request: u64,
    ) -> impl Future<Output = Result<u64, Status>> + Send;
}

/// What came of it.
pub struct Drive {
    /// Of the requests that were answered, in microseconds.
    pub latency: Histogram<u64>,
    /// What their answers held.
    pub items: u64,
    /// What the others met with, and how many of them.
    pub errors: BTreeMap<String, u64>,
    /// From the first request to the last answer.
    pub time: Duration,
}

/// Microseconds up to an hour, to three digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order")
}

impl Drive {
    fn new() -> Self {
        Self { latency: latencies(), items: 0, errors: BTreeMap::new(), time: Duration::ZERO }
    }

    fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.items += other.items;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }
}

/// When the next request is due, and whether there is one.
struct Turns {
    next: AtomicU64,
    total: Option<u64>,
    began: Instant,
    ends: Option<Instant>,
    /// Between two requests.
    pause: Option<f64>,
}

impl Turns {
    async fn next(&self) -> Option<(u64, Instant)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = match self.pause {
            None => Instant::now(),
            Some(pause) => self.began + Duration::from_secs_f64(pause * number as f64),
        };
        if self.total.is_some_and(|total| number >= total) || self.ends.is_some_and(|ends| due >= ends) {
            return None;
        }
        if self.pause.is_some() {
            tokio::time::sleep_until(due).await;
        }
        Some((number, due))
    }
}

/// Has every client send requests; Ctrl-C ends it early.
pub async fn drive<W: Work>(load: &LoadArgs, work: W) -> Result<Drive, BenchError> {
    let work = Arc::new(work);
    let mut clients = Vec::new();
    for number in 0..load.clients.get() {
        clients.push(work.client(number).await?);
    }
    let began = Instant::now();
    let turns = Arc::new(Turns {
        next: AtomicU64::new(0),
        total: load.seconds.is_none().then_some(load.total.get()),
        began,
        // Beyond what a clock can say is never.
        ends: load.seconds.and_then(|seconds| began.checked_add(Duration::from_secs(seconds.get()))),
        pause: load.rate.map(|rate| 1.0 / rate.get() as f64),
    });
    let bar = bar(load);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let limit = Duration::from_secs(load.timeout.get());
    let mut working = JoinSet::new();
    for client in clients {
        let (work, turns, bar) = (Arc::clone(&work), Arc::clone(&turns), bar.clone());
        working.spawn(requests(work, client, turns, (bar, stopped.clone()), limit));
    }
    let mut all = Drive::new();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut listens = true;
    while !working.is_empty() {
        tokio::select! {
            // A client that panics has told why.
            Some(done) = working.join_next() => if let Ok(done) = done { all.add(&done) },
            pressed = &mut interrupted, if listens => {
                pressed.map_err(BenchError::Signal)?;
                listens = false;
                // They may all have ended.
                let _ = stop.send(true);
            }
        }
    }
    all.time = began.elapsed();
    bar.finish_and_clear();
    Ok(all)
}

async fn requests<W: Work>(
    work: Arc<W>,
    mut client: W::Client,
    turns: Arc<Turns>,
    (bar, mut stopped): (ProgressBar, tokio::sync::watch::Receiver<bool>),
    limit: Duration,
) -> Drive {
    let mut own = Drive::new();
    loop {
        let turn = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            turn = turns.next() => turn,
        };
        let Some((number, due)) = turn else { return own };
        let late = || Err(Status::deadline_exceeded(format!("no answer within {limit:?}")));
        match tokio::time::timeout(limit, work.once(&mut client, number)).await.unwrap_or_else(|_| late()) {
            Ok(items) => {
                own.items += items;
                own.latency.saturating_record(due.elapsed().as_micros() as u64);
            }
            Err(status) => {
                let error = format!("{:?}: {}", status.code(), status.message());
                *own.errors.entry(error).or_default() += 1;
                if matches!(status.code(), tonic::Code::Unavailable) {
                    // Whoever is not there answers at once, and would be asked a million times.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        bar.inc(1);
    }
}

/// On a terminal; silent elsewhere.
fn bar(load: &LoadArgs) -> ProgressBar {
    let terminal = io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let (length, template) = match load.seconds {
        None => (Some(load.total.get()), "  {elapsed} [{bar:30}] {human_pos} of {human_len}, {per_sec}"),
        Some(_) => (None, "  {elapsed} {spinner} {human_pos}, {per_sec}"),
    };
    let bar = ProgressBar::with_draw_target(length, target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
