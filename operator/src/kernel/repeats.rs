//! What the log says of an object that fails in the same way turn after turn.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::key::ObjectName;

/// How long something that was said is no news.
const OLD: Duration = Duration::from_mins(2);
/// As many are remembered before those of long ago are forgotten.
const MOST: usize = 1_000;

/// What was said of each object last, and when.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<HashMap<ObjectName, (String, Instant)>>);

impl Repeats {
    /// Whether it is to be said: it was not said of this object a moment ago.
    pub fn is_news(&self, name: &ObjectName, said: String, now: Instant) -> bool {
        let mut last = self.0.lock();
        if last.get(name).is_some_and(|(before, at)| *before == said && now < *at + OLD) {
            return false;
        }
        if last.len() > MOST {
            last.retain(|_, (_, at)| now < *at + OLD);
        }
        last.insert(name.clone(), (said, now));
        true
    }

    /// It is well again, or gone.
    pub fn ended(&self, name: &ObjectName) {
        self.0.lock().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_is_said_again_after_a_while() {
        let (repeats, name, mut now) = (Repeats::default(), ObjectName::new("n", "x"), Instant::now());
        let mut said = 0;
        for _ in 0..600 {
            said += usize::from(repeats.is_news(&name, "no quota".to_owned(), now));
            now += Duration::from_secs(1);
        }
        assert_eq!(said, 5, "in ten minutes of a turn each second");
        assert!(repeats.is_news(&name, "no such kind".to_owned(), now), "another reason is news");
        assert!(
            repeats.is_news(&ObjectName::new("n", "y"), "no such kind".to_owned(), now),
            "so is another object"
        );
        repeats.ended(&name);
        assert!(repeats.is_news(&name, "no such kind".to_owned(), now), "it was well meanwhile");
    }
}
