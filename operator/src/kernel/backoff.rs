//! How long an object that failed waits.

use std::time::Duration;

/// Twice as long after each failure, up to a limit, and never quite the same: objects that failed together do not come back
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// After many.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), most: Duration::from_mins(2) }
    }
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row, for a `random` in 0..1: between four fifths and six fifths of the
    /// nominal time.
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let nominal = self.first.saturating_mul(1 << doublings).min(self.most);
        nominal.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_limit_and_spreads_by_a_fifth() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };
        let table = [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (40, 1000), (u32::MAX, 1000)];
        for (failures, millis) in table {
            let nominal = Duration::from_millis(millis);
            assert_eq!(backoff.wait(failures, 0.5), nominal, "{failures}");
            assert_eq!(backoff.wait(failures, 0.0), nominal.mul_f64(0.8), "{failures}");
            assert_eq!(backoff.wait(failures, 1.0), nominal.mul_f64(1.2), "{failures}");
        }
    }
}
