//! How long a pod that ended by itself waits before it starts again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// A pod that was ready for so long is forgiven what was before.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);

/// Doubles from half a second to half a minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more end, of a pod that had been ready for `ready_for`.
    pub fn next(&mut self, ready_for: Duration) -> Duration {
        if ready_for >= FORGIVEN_AFTER {
            self.failures = 0;
        }
        let wait = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_is_capped_and_forgives() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.next(Duration::from_secs(61)).as_millis(), 500);
        assert_eq!(backoff.next(Duration::from_secs(5)).as_millis(), 1_000);
    }
}
