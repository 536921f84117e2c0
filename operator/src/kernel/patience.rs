//! Patience with a single child: one that is refused, or that somebody else changes back each time, is not written at every turn of its object.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kube::core::Status as ApiStatus;
use parking_lot::Mutex;

use super::absent::is_unknown;
use super::backoff::Backoff;
use super::child::ChildKey;

/// Between tries of a child that was refused.
const BETWEEN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_mins(2) };
/// Between tries of a child that somebody else changes back: each may cost a pod on both sides, and only the other's end helps.
const AGAINST_ANOTHER: Backoff = Backoff { first: Duration::from_mins(5), most: Duration::from_hours(6) };
/// Writes of the same to the same child, each soon after the one before, until somebody else is at work on it.
const MANY: u32 = 5;
/// What soon is.
const SOON: Duration = Duration::from_mins(1);
/// As many are remembered before those of long ago are forgotten.
const MOST: usize = 1_000;

/// Why a child is not written now.
#[derive(Clone, Debug)]
pub(super) enum Hold {
    /// The API server refused just that, with these words.
    Refused(Box<ApiStatus>),
    /// It was written so again and again, and was something else each time after.
    Contested,
}

struct Tried {
    /// What was to be written, and at which edit of its object.
    attempt: String,
    /// How often in a row it was refused, or written.
    times: u32,
    next: Instant,
    hold: Option<Hold>,
}

/// What was tried, by child.
#[derive(Default)]
pub struct Patience {
    tried: Mutex<HashMap<ChildKey, Tried>>,
}

impl Patience {
    /// Why it is not to be tried at the moment, if it is not.
    pub(super) fn hold(&self, key: &ChildKey, attempt: &str, now: Instant) -> Option<Hold> {
        let tried = self.tried.lock();
        let last = tried.get(key).filter(|last| last.attempt == attempt && now < last.next)?;
        last.hold.clone()
    }

    /// The API server refused it. What it may take at the next try, such as a name that is still being deleted, is not remembered.
    pub(super) fn refused(&self, key: &ChildKey, attempt: &str, status: &ApiStatus, now: Instant) {
        if matches!(status.code, 400 | 403 | 422) || is_unknown(status) {
            self.note(key, attempt, now, |_| Some(Hold::Refused(Box::new(status.clone()))));
        }
    }

    /// It was written.
    pub(super) fn wrote(&self, key: &ChildKey, attempt: &str, now: Instant) {
        self.note(key, attempt, now, |times| (times >= MANY).then_some(Hold::Contested));
    }

    fn note(&self, key: &ChildKey, attempt: &str, now: Instant, hold: impl Fn(u32) -> Option<Hold>) {
        let mut tried = self.tried.lock();
        if tried.len() > MOST {
            tried.retain(|_, last| now < last.next + SOON);
        }
        let before = tried.get(key).filter(|last| last.attempt == attempt && now < last.next + SOON);
        let times = before.map_or(1, |last| last.times.saturating_add(1));
        let hold = hold(times);
        let wait = match &hold {
            None => Duration::ZERO,
            Some(Hold::Refused(_)) => BETWEEN.wait(times, rand::random()),
            Some(Hold::Contested) => AGAINST_ANOTHER.wait(times - MANY + 1, rand::random()),
        };
        tried.insert(key.clone(), Tried { attempt: attempt.to_owned(), times, next: now + wait, hold });
    }
}

#[cfg(test)]
mod tests {
    use super::super::child::ChildKind;
    use super::super::key::ObjectName;
    use super::*;

    fn key() -> ChildKey {
        ChildKey { kind: ChildKind::Service, object: ObjectName::new("n", "x") }
    }

    #[test]
    fn what_is_refused_is_tried_less_and_less_often_and_something_else_at_once() {
        let (patience, key, mut now) = (Patience::default(), key(), Instant::now());
        let mut tries = 0;
        for _ in 0..600 {
            if patience.hold(&key, "a", now).is_none() {
                tries += 1;
                patience.refused(&key, "a", &ApiStatus::failure("no", "Invalid").with_code(422), now);
            }
            now += Duration::from_secs(1);
        }
        assert!((8..=16).contains(&tries), "{tries} tries in ten minutes");
        assert!(patience.hold(&key, "b", now).is_none());
        patience.refused(&key, "b", &ApiStatus::failure("no", "Conflict").with_code(409), now);
        assert!(patience.hold(&key, "b", now).is_none(), "what may pass is tried again");
        patience.refused(&key, "c", &ApiStatus::failure("page not found", "NotFound").with_code(404), now);
        assert!(
            patience.hold(&key, "c", now).is_some(),
            "a kind that is not there is not asked for each second"
        );
    }

    #[test]
    fn who_writes_against_somebody_else_gives_way() {
        let (patience, key, mut now) = (Patience::default(), key(), Instant::now());
        let mut writes = 0;
        let mut in_ten_minutes = 0;
        for second in 0..24 * 3_600 {
            if patience.hold(&key, "a", now).is_none() {
                writes += 1;
                patience.wrote(&key, "a", now);
            }
            now += Duration::from_secs(1);
            if second == 600 {
                in_ten_minutes = writes;
            }
        }
        assert!((MANY..=MANY + 2).contains(&in_ten_minutes), "{in_ten_minutes} writes in ten minutes");
        assert!((10..=18).contains(&writes), "{writes} writes in a day");
        assert!(patience.hold(&key, "b", now).is_none(), "what is wanted anew is written at once");
        now += Duration::from_hours(12);
        for _ in 1..MANY {
            patience.wrote(&key, "a", now);
            assert!(patience.hold(&key, "a", now).is_none(), "long after, it is no quarrel");
        }
    }
}
