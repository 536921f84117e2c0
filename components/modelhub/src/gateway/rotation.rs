//! Whether an engine is in rotation, and for how long it has not been.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where one engine stands.
#[derive(Debug)]
pub struct Rotation {
    made: Instant,
    /// Milliseconds from `made` on, and one more; 0 while it is in rotation.
    away_since: AtomicU64,
}

impl Rotation {
    /// Nobody has looked yet: it is out.
    pub fn new() -> Self {
        Self { made: Instant::now(), away_since: AtomicU64::new(1) }
    }

    /// Whether it is in.
    pub fn is_in(&self) -> bool {
        self.away_since.load(Ordering::Relaxed) == 0
    }

    /// For how long it has been out.
    pub fn away(&self) -> Option<Duration> {
        let since = self.away_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.made.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    /// Puts it in; says whether it was out.
    pub fn enter(&self) -> bool {
        self.away_since.swap(0, Ordering::Relaxed) != 0
    }

    /// Takes it out; says whether it was in.
    pub fn leave(&self) -> bool {
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        self.away_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_away_from_the_first_time_that_it_left() {
        let rotation = Rotation::new();
        assert!(!rotation.is_in() && rotation.away().is_some() && !rotation.leave());
        assert!(rotation.enter() && !rotation.enter());
        assert!(rotation.is_in() && rotation.away().is_none());
        assert!(rotation.leave() && !rotation.leave());
        assert!(!rotation.is_in() && rotation.away().is_some_and(|away| away < Duration::from_mins(1)));
    }
}
