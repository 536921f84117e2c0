//! When leases run out. Only the leader's clock counts, and only to decide when to propose the
//! end of a lease; the end itself goes through Raft. After a start every lease gets its full
//! time again, so that no client loses a key to a pause of ours.

use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What a renewal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It lives on for so many seconds.
    Renewed(i64),
    /// There is no such lease.
    Unknown,
    /// It has run out and its end is on the way: wait for that.
    Ending,
}

struct Clock {
    ttl: Duration,
    deadline: Instant,
}

#[derive(Default)]
struct Clocks {
    leases: HashMap<i64, Clock>,
    deadlines: BTreeSet<(Instant, i64)>,
}

/// The clocks of all leases.
pub struct Lessor {
    clocks: Mutex<Clocks>,
    /// Counts ends, for those who wait for one.
    ended: watch::Sender<u64>,
}

impl Lessor {
    /// Starts a full time for each lease: id and seconds.
    pub fn new(leases: impl Iterator<Item = (i64, i64)>) -> Self {
        let lessor = Self { clocks: Mutex::default(), ended: watch::Sender::new(0) };
        for (id, ttl) in leases {
            lessor.granted(id, ttl);
        }
        lessor
    }

    /// A lease came to be.
    pub fn granted(&self, id: i64, ttl: i64) {
        let ttl = Duration::from_secs(ttl.max(0) as u64);
        let deadline = Instant::now() + ttl;
        let mut clocks = self.clocks.lock();
        clocks.leases.insert(id, Clock { ttl, deadline });
        clocks.deadlines.insert((deadline, id));
    }

    /// A lease ended.
    pub fn revoked(&self, id: i64) {
        let mut clocks = self.clocks.lock();
        if let Some(clock) = clocks.leases.remove(&id) {
            clocks.deadlines.remove(&(clock.deadline, id));
        }
        drop(clocks);
        self.ended.send_modify(|count| *count += 1);
    }

    /// Gives a lease its full time again.
    pub fn renew(&self, id: i64) -> Renewal {
        let now = Instant::now();
        let mut clocks = self.clocks.lock();
        let clocks = &mut *clocks;
        let Some(clock) = clocks.leases.get_mut(&id) else { return Renewal::Unknown };
        if clock.deadline <= now {
            return Renewal::Ending;
        }
        clocks.deadlines.remove(&(clock.deadline, id));
        clock.deadline = now + clock.ttl;
        clocks.deadlines.insert((clock.deadline, id));
        Renewal::Renewed(clock.ttl.as_secs() as i64)
    }

    /// Gives every lease its full time again: whoever begins to lead knows of no renewals.
    pub fn restart(&self) {
        let now = Instant::now();
        let mut clocks = self.clocks.lock();
        let clocks = &mut *clocks;
        clocks.deadlines.clear();
        for (id, clock) in &mut clocks.leases {
            clock.deadline = now + clock.ttl;
            clocks.deadlines.insert((clock.deadline, *id));
        }
    }

    /// Forgets all leases for these.
    pub fn replace(&self, leases: impl Iterator<Item = (i64, i64)>) {
        *self.clocks.lock() = Clocks::default();
        for (id, ttl) in leases {
            self.granted(id, ttl);
        }
        self.ended.send_modify(|count| *count += 1);
    }

    /// Time left; `None` when the lease is unknown or has run out.
    pub fn remaining(&self, id: i64) -> Option<Duration> {
        let clocks = self.clocks.lock();
        let left = clocks.leases.get(&id)?.deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Lease ids, the next one to run out first.
    pub fn by_deadline(&self) -> Vec<i64> {
        self.clocks.lock().deadlines.iter().map(|(_, id)| *id).collect()
    }

    /// How long until the next lease runs out; `None` when there is no lease.
    pub fn next_end(&self) -> Option<Duration> {
        let clocks = self.clocks.lock();
        let (deadline, _) = clocks.deadlines.first()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Up to `limit` leases that have run out.
    pub fn expired(&self, limit: usize) -> Vec<i64> {
        let now = Instant::now();
        let clocks = self.clocks.lock();
        clocks
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .take(limit)
            .map(|(_, id)| *id)
            .collect()
    }

    /// Wakes when leases end.
    pub fn endings(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_start_renew_run_out_and_end() {
        let lessor = Lessor::new([(7, 3600)].into_iter());
        lessor.granted(8, 0);
        assert_eq!(lessor.expired(10), [8]);
        assert_eq!(lessor.next_end(), Some(Duration::ZERO));
        assert_eq!(lessor.renew(8), Renewal::Ending);
        assert_eq!(lessor.remaining(8), None);
        assert_eq!(lessor.renew(7), Renewal::Renewed(3600));
        assert_eq!(lessor.by_deadline(), [8, 7]);
        lessor.revoked(8);
        assert_eq!(lessor.renew(8), Renewal::Unknown);
        assert!(lessor.expired(10).is_empty());
        assert!(lessor.next_end().is_some_and(|left| left > Duration::from_secs(3500)));
        assert!(lessor.remaining(7).is_some_and(|left| left > Duration::from_secs(3500)));
    }
}
