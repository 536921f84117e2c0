//! Who wants to hear of which keys. A change rings those alone: thousands of idle streams cost a write nothing.

use crate::mvcc::{Change, Span};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;

/// What a stream sleeps by.
#[derive(Debug, Default)]
pub struct Bell {
    /// The first revision that concerns the stream and that it has not looked at; 0 for none.
    first: AtomicI64,
    notify: Notify,
}

impl Bell {
    /// Returns when something has happened since the last time that concerns the owner; at times when nothing has.
    pub async fn rung(&self) {
        self.notify.notified().await;
    }

    /// The first revision that rang, if any did since the last call.
    pub(super) fn answer(&self) -> Option<i64> {
        Some(self.first.swap(0, Ordering::AcqRel)).filter(|first| *first != 0)
    }

    pub(super) fn ring(&self, revision: i64) {
        if self.first.compare_exchange(0, revision, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.notify.notify_one();
        }
    }
}

/// Bells at one place, and how often each was hung up there.
type Bells = Vec<(Arc<Bell>, usize)>;

/// The bells by what they are rung for.
///
/// Nearly every range that anybody watches is a prefix. A key's prefixes of the lengths in use are looked up, so that a
/// change costs as many look-ups as there are lengths, however many streams there are. Other ranges are tried one by one.
#[derive(Default)]
pub(super) struct Interests {
    keys: HashMap<Box<[u8]>, Bells>,
    prefixes: BTreeMap<usize, HashMap<Box<[u8]>, Bells>>,
    ranges: Vec<(Span, Bells)>,
    every: Bells,
}

/// What a span is watched as.
enum Kind<'a> {
    Key(&'a [u8]),
    Prefix(&'a [u8]),
    Range(&'a Span),
    Every,
}

fn kind_of(span: &Span) -> Kind<'_> {
    match span {
        Span::Key(key) => Kind::Key(key),
        Span::From(from) if from.is_empty() || **from == [0] => Kind::Every,
        Span::From(_) => Kind::Range(span),
        Span::Between(from, to) => match from.split_last() {
            Some((last, start)) if *last < u8::MAX && from.len() == to.len() => {
                if to.starts_with(start) && to[start.len()] == last + 1 {
                    Kind::Prefix(from)
                } else {
                    Kind::Range(span)
                }
            }
            _ => Kind::Range(span),
        },
    }
}

impl Interests {
    pub fn add(&mut self, span: &Span, bell: &Arc<Bell>) {
        let bells = match kind_of(span) {
            Kind::Key(key) => self.keys.entry(key.into()).or_default(),
            Kind::Prefix(prefix) => {
                self.prefixes.entry(prefix.len()).or_default().entry(prefix.into()).or_default()
            }
            Kind::Every => &mut self.every,
            Kind::Range(range) => {
                let at = self.ranges.iter().position(|(known, _)| known == range).unwrap_or_else(|| {
                    self.ranges.push((own(range), Vec::new()));
                    self.ranges.len() - 1
                });
                &mut self.ranges[at].1
            }
        };
        match bells.iter_mut().find(|(known, _)| Arc::ptr_eq(known, bell)) {
            Some((_, count)) => *count += 1,
            None => bells.push((Arc::clone(bell), 1)),
        }
    }

    pub fn remove(&mut self, span: &Span, bell: &Arc<Bell>) {
        match kind_of(span) {
            Kind::Key(key) => {
                if self.keys.get_mut(key).is_some_and(|bells| take(bells, bell)) {
                    self.keys.remove(key);
                }
            }
            Kind::Prefix(prefix) => {
                let Some(all) = self.prefixes.get_mut(&prefix.len()) else { return };
                if all.get_mut(prefix).is_some_and(|bells| take(bells, bell)) {
                    all.remove(prefix);
                }
                if all.is_empty() {
                    self.prefixes.remove(&prefix.len());
                }
            }
            Kind::Every => {
                take(&mut self.every, bell);
            }
            Kind::Range(range) => {
                if let Some(at) = self.ranges.iter().position(|(known, _)| known == range)
                    && take(&mut self.ranges[at].1, bell)
                {
                    self.ranges.swap_remove(at);
                }
            }
        }
    }

    /// Rings for a change.
    pub fn ring(&self, change: &Change) {
        let key = &change.kv.key[..];
        let ring = |bells: &Bells| {
            for (bell, _) in bells {
                bell.ring(change.kv.mod_revision);
            }
        };
        ring(&self.every);
        if let Some(bells) = self.keys.get(key) {
            ring(bells);
        }
        for (length, all) in self.prefixes.range(..=key.len()) {
            if let Some(bells) = all.get(&key[..*length]) {
                ring(bells);
            }
        }
        for (range, bells) in &self.ranges {
            if range.contains(key) {
                ring(bells);
            }
        }
    }

    /// Rings all, as if everything had changed from `revision` on.
    pub fn ring_all(&self, revision: i64) {
        let prefixes = self.prefixes.values().flat_map(HashMap::values);
        let ranges = self.ranges.iter().map(|(_, bells)| bells);
        for bells in self.keys.values().chain(prefixes).chain(ranges).chain([&self.every]) {
            for (bell, _) in bells {
                bell.ring(revision);
            }
        }
    }
}

/// Takes a bell down once; whether none is left.
fn take(bells: &mut Bells, bell: &Arc<Bell>) -> bool {
    if let Some(at) = bells.iter().position(|(known, _)| Arc::ptr_eq(known, bell)) {
        bells[at].1 -= 1;
        if bells[at].1 == 0 {
            bells.swap_remove(at);
        }
    }
    bells.is_empty()
}

/// A copy that keeps no message of a client in memory.
fn own(span: &Span) -> Span {
    let copy = |bytes: &bytes::Bytes| bytes::Bytes::copy_from_slice(bytes);
    match span {
        Span::Key(key) => Span::Key(copy(key)),
        Span::Between(from, to) => Span::Between(copy(from), copy(to)),
        Span::From(from) => Span::From(copy(from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::KeyValue;
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    fn change(key: Bytes, revision: i64) -> Change {
        let kv = KeyValue { key, mod_revision: revision, ..KeyValue::default() };
        Change { kv, is_deletion: false, prev: None }
    }

    #[test]
    fn a_change_rings_whoever_wants_its_key_and_nobody_else() {
        let mut rng = StdRng::seed_from_u64(11);
        let mut word = move || {
            let letters = [b'a', b'b', 0, 0xFF];
            let length = rng.random_range(0..4);
            (0..length).map(|_| letters[rng.random_range(0..letters.len())]).collect::<Bytes>()
        };
        let mut interests = Interests::default();
        let mut hung: Vec<(Span, Arc<Bell>)> = Vec::new();
        for round in 1..2_000_i64 {
            let span = match round % 4 {
                0 => Span::Key(word()),
                1 => Span::From(word()),
                2 => Span::Between(word(), word()),
                _ => {
                    let from = [&word()[..], b"a"].concat();
                    let to = [&from[..from.len() - 1], b"b"].concat();
                    Span::Between(from.into(), to.into())
                }
            };
            let bell = match hung.last() {
                Some((_, bell)) if round % 3 == 0 => Arc::clone(bell),
                _ => Arc::default(),
            };
            interests.add(&span, &bell);
            hung.push((span, bell));
            if hung.len() > 20 {
                let (span, bell) = hung.remove(round as usize % 20);
                interests.remove(&span, &bell);
            }
            // No key is empty.
            let key = Bytes::from([&word()[..], &word()[..], b"a"].concat()).slice(round as usize % 2..);
            let key = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
            interests.ring(&change(key.clone(), round));
            for (_, bell) in &hung {
                let mine = |(_, other): &&(Span, Arc<Bell>)| Arc::ptr_eq(other, bell);
                let wants = hung.iter().filter(mine).any(|(span, _)| span.contains(&key));
                assert_eq!(bell.first.load(Ordering::Acquire) == round, wants, "{key:?}");
            }
            for (_, bell) in &hung {
                bell.answer();
            }
        }
        for (span, bell) in hung {
            interests.remove(&span, &bell);
        }
        assert!(interests.keys.is_empty() && interests.prefixes.is_empty());
        assert!(interests.ranges.is_empty() && interests.every.is_empty());
    }
}
