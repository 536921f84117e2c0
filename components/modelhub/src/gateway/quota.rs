//! Limits of one API key: requests and tokens a minute (token buckets) and requests at a time. Time is an argument.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a key may do; absent = no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyLimits {
    /// Requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens, read and written, in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

/// Why a request must wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which limit.
    pub limit: &'static str,
    /// Its value.
    pub value: u32,
    /// Seconds until it may pass.
    pub retry_after: u64,
}

/// Holds a key's limits.
#[derive(Debug)]
pub struct Gate {
    limits: KeyLimits,
    requests: Bucket,
    tokens: Bucket,
    running: u32,
}

impl Gate {
    /// A gate with full buckets.
    pub fn new(limits: KeyLimits, now: Duration) -> Self {
        let bucket = |limit: Option<u32>| Bucket::per_minute(limit.unwrap_or(0), now);
        Self {
            requests: bucket(limits.requests_per_minute),
            tokens: bucket(limits.tokens_per_minute),
            limits,
            running: 0,
        }
    }

    /// Lets a request in that will need about `tokens`, or says when. A request larger than the whole allowance passes when
    /// the bucket is full, and the debt is paid off afterwards.
    pub fn enter(&mut self, tokens: u64, now: Duration) -> Result<(), Refusal> {
        if let Some(value) = self.limits.concurrency
            && self.running >= value
        {
            return Err(Refusal { limit: "requests at a time", value, retry_after: 1 });
        }
        let refuse = |limit, value, wait: Duration| Refusal { limit, value, retry_after: wait.as_secs() + 1 };
        if let Some(value) = self.limits.requests_per_minute {
            self.requests.check(1.0, now).map_err(|wait| refuse("requests a minute", value, wait))?;
        }
        if let Some(value) = self.limits.tokens_per_minute {
            self.tokens.check(tokens as f64, now).map_err(|wait| refuse("tokens a minute", value, wait))?;
        }
        self.requests.level -= 1.0;
        self.tokens.level -= tokens as f64;
        self.running += 1;
        Ok(())
    }

    /// Lets a request out: what was reserved is replaced by what was used.
    pub fn leave(&mut self, reserved: u64, used: u64) {
        self.running = self.running.saturating_sub(1);
        self.tokens.level = (self.tokens.level + reserved as f64 - used as f64).min(self.tokens.capacity);
    }
}

#[derive(Debug)]
struct Bucket {
    capacity: f64,
    level: f64,
    updated: Duration,
}

impl Bucket {
    fn per_minute(limit: u32, now: Duration) -> Self {
        Self { capacity: f64::from(limit), level: f64::from(limit), updated: now }
    }

    /// Whether `amount` may be taken, else how long to wait.
    fn check(&mut self, amount: f64, now: Duration) -> Result<(), Duration> {
        let per_second = self.capacity / 60.0;
        let passed = now.saturating_sub(self.updated).as_secs_f64();
        self.updated = now;
        self.level = (self.level + passed * per_second).min(self.capacity);
        let needed = amount.min(self.capacity);
        if self.capacity > 0.0 && self.level >= needed {
            return Ok(());
        }
        let missing = needed - self.level;
        Err(Duration::from_secs_f64(if per_second > 0.0 { missing / per_second } else { 3600.0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(requests: Option<u32>, tokens: Option<u32>, concurrency: Option<u32>) -> Gate {
        let limits = KeyLimits { requests_per_minute: requests, tokens_per_minute: tokens, concurrency };
        Gate::new(limits, Duration::ZERO)
    }

    fn refused(result: Result<(), Refusal>) -> (&'static str, u64) {
        result.map_err(|r| (r.limit, r.retry_after)).expect_err("refused")
    }

    #[test]
    fn requests_refill_with_time() {
        let mut gate = gate(Some(2), None, None);
        let at = Duration::from_secs;
        assert!(gate.enter(0, at(0)).is_ok());
        assert!(gate.enter(0, at(0)).is_ok());
        assert_eq!(refused(gate.enter(0, at(0))), ("requests a minute", 31));
        assert!(gate.enter(0, at(30)).is_ok());
        assert!(gate.enter(0, at(30)).is_err());
    }

    #[test]
    fn tokens_are_reserved_and_settled() {
        let mut gate = gate(None, Some(600), None);
        let now = Duration::ZERO;
        assert!(gate.enter(500, now).is_ok());
        assert_eq!(refused(gate.enter(200, now)), ("tokens a minute", 11));
        gate.leave(500, 100);
        assert!(gate.enter(200, now).is_ok(), "the 400 that were not used came back");
        gate.leave(200, 900);
        assert!(gate.enter(1, now).is_err(), "what was used beyond the reservation is owed");
        assert!(
            gate.enter(5_000, Duration::from_mins(2)).is_ok(),
            "more than the allowance passes when it is full"
        );
    }

    #[test]
    fn requests_at_a_time_are_counted() {
        let mut gate = gate(None, None, Some(1));
        assert!(gate.enter(0, Duration::ZERO).is_ok());
        assert_eq!(refused(gate.enter(0, Duration::ZERO)).0, "requests at a time");
        gate.leave(0, 0);
        assert!(gate.enter(0, Duration::ZERO).is_ok());
    }
}
