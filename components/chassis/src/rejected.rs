//! Connections that failed to become any: told of one by one, unless they come in crowds, as when a port is scanned.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Told in each `SPAN`.
const MOST: u32 = 10;
const SPAN: Duration = Duration::from_secs(1);

/// Says why connections were rejected, and no more than so often.
#[derive(Default)]
pub struct Rejected(Mutex<Option<Counted>>);

struct Counted {
    since: Instant,
    count: u32,
}

impl Rejected {
    /// Whether this one is told of, and how many were not before it.
    fn count(&self, now: Instant) -> Option<u32> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, told) = match counted.take() {
            Some(Counted { since, count }) if now.duration_since(since) < SPAN => {
                (Counted { since, count: count.saturating_add(1) }, (count < MOST).then_some(0))
            }
            last => {
                let untold = last.map_or(0, |last| last.count.saturating_sub(MOST));
                (Counted { since: now, count: 1 }, Some(untold))
            }
        };
        *counted = Some(next);
        told
    }

    /// In etcd's words, which are as good as others.
    pub fn tell(&self, from: Option<std::net::SocketAddr>, error: &dyn std::fmt::Display) {
        if let Some(untold) = self.count(Instant::now()) {
            let remote_addr = from.map_or_else(String::new, |from| from.to_string());
            tracing::warn!(remote_addr, %error, untold, "rejected connection on client endpoint");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_told_of_in_a_few_lines_and_counted() {
        let rejected = Rejected::default();
        let now = Instant::now();
        let told = (0..100).filter_map(|_| rejected.count(now)).count();
        assert_eq!(told, MOST as usize);
        assert_eq!(rejected.count(now + SPAN), Some(90));
        assert_eq!(rejected.count(now + 3 * SPAN), Some(0));
    }
}
