//! When an engine was last heard: the clock that tells one at work from one that hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The clock of one engine.
#[derive(Debug)]
pub struct Heard {
    made: Instant,
    /// Milliseconds from `made` on.
    last: AtomicU64,
}

impl Heard {
    /// The clock begins now.
    pub fn new() -> Self {
        Self { made: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Something came from it: the head of a reply, to a check too, or a piece of its body.
    pub fn note(&self) {
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// For how long nothing has come.
    pub fn silence(&self) -> Duration {
        self.made.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_what_came_last() {
        let long = Duration::from_mins(10);
        let made = Instant::now().checked_sub(long).expect("an instant may lie before the machine's start");
        let heard = Heard { made, last: AtomicU64::new(0) };
        assert!(heard.silence() >= long);
        heard.note();
        assert!(heard.silence() < Duration::from_mins(1));
    }
}
