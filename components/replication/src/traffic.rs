//! What goes between this process and its peers, counted.

use crate::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the classes of round trips, in seconds: 0.1 ms, and twice as much from one to the next.
pub const ROUND_TRIP_BOUNDS: [f64; 15] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096,
    0.8192, 1.6384,
];

/// The counters of one peer.
#[derive(Debug, Default)]
pub struct Link {
    /// Bytes sent to it, frames' heads included, as they were before encryption.
    pub sent: AtomicU64,
    /// Bytes that came from it, likewise.
    pub received: AtomicU64,
    /// Requests that got no answer: no connection, or one that broke.
    pub failed: AtomicU64,
    round_trips: Mutex<RoundTrips>,
}

/// How long a peer took to answer that it heard of its leader: the way there and back, nothing written in between.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoundTrips {
    /// How many were no longer than each of [`ROUND_TRIP_BOUNDS`] and longer than the one before; the last counts those
    /// beyond all of them.
    pub classes: [u64; ROUND_TRIP_BOUNDS.len() + 1],
    /// All of them together, in seconds.
    pub seconds: f64,
}

impl Link {
    /// Round trips so far.
    pub fn round_trips(&self) -> RoundTrips {
        self.round_trips.lock().clone()
    }

    pub(crate) fn took(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let class = ROUND_TRIP_BOUNDS.partition_point(|bound| *bound < seconds);
        let mut trips = self.round_trips.lock();
        trips.classes[class] += 1;
        trips.seconds += seconds;
    }

    pub(crate) fn sends(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn receives(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn fails(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Peers that are counted, at most: who connects says who it is, and may make names up.
const MOST: usize = 64;

/// The counters of all peers that this process has had to do with.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<Mutex<BTreeMap<NodeId, Arc<Link>>>>);

impl Traffic {
    /// Those of one peer; some that nobody sees, if there are too many.
    pub fn with(&self, peer: NodeId) -> Arc<Link> {
        let mut links = self.0.lock();
        if links.len() >= MOST && !links.contains_key(&peer) {
            return Arc::default();
        }
        Arc::clone(links.entry(peer).or_default())
    }

    /// Forgets peers that are no members.
    pub fn keep(&self, is_member: impl Fn(NodeId) -> bool) {
        self.0.lock().retain(|node, _| is_member(*node));
    }

    /// Those of every peer.
    pub fn links(&self) -> Vec<(NodeId, Arc<Link>)> {
        self.0.lock().iter().map(|(node, link)| (*node, Arc::clone(link))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_falls_into_the_first_class_that_is_long_enough() {
        let link = Link::default();
        for micros in [1, 100, 101, 1_600, 10_000_000] {
            link.took(Duration::from_micros(micros));
        }
        let trips = link.round_trips();
        let filled: Vec<_> = trips.classes.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &2), (1, &1), (4, &1), (15, &1)]);
        assert!((trips.seconds - 10.001_802).abs() < 1e-6);
    }
}
