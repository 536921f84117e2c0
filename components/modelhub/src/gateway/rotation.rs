//! Whether an engine is in rotation, and since when.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where one engine stands.
#[derive(Debug)]
pub struct Rotation {
    made: Instant,
    /// When it came or went last: milliseconds from `made` on, doubled, and one more while it is in.
    turned: AtomicU64,
}

impl Rotation {
    /// Nobody has looked yet: it is out.
    pub fn new() -> Self {
        Self { made: Instant::now(), turned: AtomicU64::new(0) }
    }

    /// Whether it is in.
    pub fn is_in(&self) -> bool {
        is_in(self.turned.load(Ordering::Relaxed))
    }

    /// For how long it has been out.
    pub fn away(&self) -> Option<Duration> {
        self.since(false)
    }

    /// For how long it has been in.
    pub fn present(&self) -> Option<Duration> {
        self.since(true)
    }

    fn since(&self, wanted: bool) -> Option<Duration> {
        let turned = self.turned.load(Ordering::Relaxed);
        let since = Duration::from_millis(turned / 2);
        (is_in(turned) == wanted).then(|| self.made.elapsed().saturating_sub(since))
    }

    /// Puts it in; says whether it was out.
    pub fn enter(&self) -> bool {
        self.turn(true)
    }

    /// Takes it out; says whether it was in.
    pub fn leave(&self) -> bool {
        self.turn(false)
    }

    fn turn(&self, wanted: bool) -> bool {
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX / 4);
        let next = now * 2 + u64::from(wanted);
        let turn = |turned| (is_in(turned) != wanted).then_some(next);
        self.turned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, turn).is_ok()
    }
}

fn is_in(turned: u64) -> bool {
    turned % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_or_out_from_the_first_time_that_it_came_or_left() {
        let rotation = Rotation::new();
        assert!(!rotation.is_in() && rotation.away().is_some() && !rotation.leave());
        assert!(rotation.enter() && !rotation.enter());
        assert!(rotation.is_in() && rotation.away().is_none() && rotation.present().is_some());
        assert!(rotation.leave() && !rotation.leave());
        assert!(!rotation.is_in() && rotation.away().is_some_and(|away| away < Duration::from_mins(1)));
        assert_eq!(rotation.present(), None);
    }
}
