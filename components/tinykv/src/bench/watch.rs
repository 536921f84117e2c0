//! A key that many watch.

use super::drive::{Work, drive, latencies};
use super::report::{Report, Spread};
use super::work::Crew;
use super::{BenchError, KeyArgs, LoadArgs};
use bytes::Bytes;
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::kv_client::KvClient;
use wire::etcd::etcdserverpb::watch_client::WatchClient;

/// How long no event may come while some are missing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Puts of the watched key; each value says when it was sent.
struct Puts {
    crew: Crew,
    key: Bytes,
    filling: Bytes,
    began: Instant,
}

impl Work for Puts {
    type Client = KvClient<Channel>;

    async fn client(&self, number: usize) -> Result<Self::Client, BenchError> {
        Ok(KvClient::new(self.crew.channel(number)))
    }

    async fn once(&self, client: &mut Self::Client, _request: u64) -> Result<u64, Status> {
        let mut value = (self.began.elapsed().as_micros() as u64).to_le_bytes().to_vec();
        value.extend_from_slice(self.filling.get(value.len()..).unwrap_or_default());
        let put = pb::PutRequest { key: self.key.clone(), value: value.into(), ..Default::default() };
        client.put(self.crew.signed(put)).await?;
        Ok(1)
    }
}

/// Puts a key that `watchers` watchers on `streams` streams watch.
pub async fn watch(
    crew: &Crew,
    load: &LoadArgs,
    keys: &KeyArgs,
    (watchers, streams): (u32, u32),
) -> Result<Report, BenchError> {
    let (key, began) = (keys.key(0), Instant::now());
    let came = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut reading = JoinSet::new();
    for number in 0..streams.min(watchers) {
        let share = watchers / streams.min(watchers) + u32::from(number < watchers % streams.min(watchers));
        let events = open(crew, &key, number as usize, share).await;
        let events =
            events.map_err(|status| BenchError::Keys { what: "watching", status: Box::new(status) })?;
        reading.spawn(read(events, began, Arc::clone(&came), stopped.clone()));
    }
    let started = Instant::now();
    let puts = Puts { crew: crew.clone(), key, filling: keys.value(), began };
    let driven = drive(load, puts).await?;
    let expected = driven.latency.len() * u64::from(watchers);
    let mut waits = (came.load(Ordering::Relaxed), Instant::now());
    while waits.0 < expected && waits.1.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = came.load(Ordering::Relaxed);
        if now > waits.0 {
            waits = (now, Instant::now());
        }
    }
    let took = started.elapsed();
    // They may all have ended.
    let _ = stop.send(true);
    let mut latency = latencies();
    while let Some(read) = reading.join_next().await {
        // A reader that panics has told why.
        if let Ok(read) = read {
            latency.add(&read).expect("all have the same bounds");
        }
    }
    let mut report = Report::of("watch", load, &driven);
    report.events = Some(Spread::of(&latency, took));
    if latency.len() < expected {
        report.errors.insert("events did not come".to_owned(), expected - latency.len());
    }
    Ok(report)
}

/// A stream of `count` watchers that are all there.
async fn open(
    crew: &Crew,
    key: &Bytes,
    number: usize,
    count: u32,
) -> Result<Streaming<pb::WatchResponse>, Status> {
    let create = pb::WatchCreateRequest { key: key.clone(), ..Default::default() };
    let create =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let asks = futures::stream::repeat(create).take(count as usize).chain(futures::stream::pending());
    let mut client = WatchClient::new(crew.channel(number)).max_decoding_message_size(usize::MAX);
    let mut events = client.watch(crew.signed(asks)).await?.into_inner();
    let mut there = 0;
    while there < count {
        let answer = events.message().await?.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        if answer.canceled {
            return Err(Status::unknown(answer.cancel_reason));
        }
        there += u32::from(answer.created);
    }
    Ok(events)
}

async fn read(
    mut events: Streaming<pb::WatchResponse>,
    began: Instant,
    came: Arc<AtomicU64>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> Histogram<u64> {
    let mut latency = latencies();
    loop {
        let answer = tokio::select! {
            answer = events.message() => answer,
            _ = stopped.wait_for(|stopped| *stopped) => return latency,
        };
        // What did not come is counted by whoever waits for it.
        let Ok(Some(answer)) = answer else { return latency };
        let now = began.elapsed().as_micros() as u64;
        for event in &answer.events {
            let sent = event.kv.as_ref().and_then(|kv| kv.value.first_chunk::<8>());
            if let Some(sent) = sent {
                latency.saturating_record(now.saturating_sub(u64::from_le_bytes(*sent)));
            }
        }
        came.fetch_add(answer.events.len() as u64, Ordering::Relaxed);
    }
}
