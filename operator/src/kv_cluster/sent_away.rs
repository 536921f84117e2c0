//! Pods that went by our hand a moment ago: what was planned is no fault. Kept in memory alone, since who forgets it is told of a voter that
//! is away, which is true.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A pod that is not back by then does not come by itself.
const LONG: Duration = Duration::from_mins(5);

/// The last pod of each group, by the object's uid.
#[derive(Debug, Default)]
pub(super) struct SentAway(Mutex<HashMap<String, (u16, Instant)>>);

impl SentAway {
    /// That pod is made anew.
    pub(super) fn note(&self, uid: String, ordinal: u16, now: Instant) {
        let mut sent = self.0.lock();
        sent.retain(|_, (_, at)| now.duration_since(*at) < LONG);
        sent.insert(uid, (ordinal, now));
    }

    /// The pod that went, if it was a moment ago.
    pub(super) fn of(&self, uid: &str, now: Instant) -> Option<u16> {
        let sent = self.0.lock();
        sent.get(uid).filter(|(_, at)| now.duration_since(*at) < LONG).map(|(ordinal, _)| *ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_long_ago_is_forgotten() {
        let (sent, began) = (SentAway::default(), Instant::now());
        sent.note("a".to_owned(), 2, began);
        assert_eq!((sent.of("a", began), sent.of("b", began)), (Some(2), None));
        assert_eq!(sent.of("a", began + LONG), None);
        sent.note("b".to_owned(), 0, began + LONG);
        assert_eq!(sent.0.lock().len(), 1);
    }
}
