//! Who wants to hear of which keys. A change rings those alone: thousands of idle streams cost a write nothing.

use crate::mvcc::{Change, Span};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;

/// What a stream sleeps by. No two are the same one.
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

impl PartialEq for Bell {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// Those at one place, and how often each was put there.
type Place<T> = Vec<(T, usize)>;

/// Bells, or whatever else stands for those who watch, by what they are to hear of.
///
/// Nearly every range that anybody watches is a prefix. A key's prefixes of the lengths in use are looked up, so that a
/// change costs as many look-ups as there are lengths, however many streams there are. Other ranges are tried one by one.
pub(super) struct Interests<T> {
    keys: HashMap<Box<[u8]>, Place<T>>,
    prefixes: BTreeMap<usize, HashMap<Box<[u8]>, Place<T>>>,
    ranges: Vec<(Span, Place<T>)>,
    every: Place<T>,
}

impl<T> Default for Interests<T> {
    fn default() -> Self {
        Self { keys: HashMap::new(), prefixes: BTreeMap::new(), ranges: Vec::new(), every: Vec::new() }
    }
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

impl<T: PartialEq> Interests<T> {
    fn place(&mut self, span: &Span) -> &mut Place<T> {
        match kind_of(span) {
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
        }
    }

    /// Adds one that may be there already: it is to be removed as often as it was added.
    pub fn add(&mut self, span: &Span, one: T) {
        let place = self.place(span);
        match place.iter_mut().find(|(known, _)| *known == one) {
            Some((_, count)) => *count += 1,
            None => place.push((one, 1)),
        }
    }

    /// Adds one that is not there.
    pub fn add_new(&mut self, span: &Span, one: T) {
        self.place(span).push((one, 1));
    }

    pub fn remove(&mut self, span: &Span, one: &T) {
        match kind_of(span) {
            Kind::Key(key) => {
                if self.keys.get_mut(key).is_some_and(|place| take(place, one)) {
                    self.keys.remove(key);
                }
            }
            Kind::Prefix(prefix) => {
                let Some(all) = self.prefixes.get_mut(&prefix.len()) else { return };
                if all.get_mut(prefix).is_some_and(|place| take(place, one)) {
                    all.remove(prefix);
                }
                if all.is_empty() {
                    self.prefixes.remove(&prefix.len());
                }
            }
            Kind::Every => {
                take(&mut self.every, one);
            }
            Kind::Range(range) => {
                if let Some(at) = self.ranges.iter().position(|(known, _)| known == range)
                    && take(&mut self.ranges[at].1, one)
                {
                    self.ranges.swap_remove(at);
                }
            }
        }
    }

    /// Those that are to hear of a key.
    pub fn of(&self, key: &[u8]) -> impl Iterator<Item = &T> {
        let prefixes = self.prefixes.range(..=key.len());
        let prefixes = prefixes.filter_map(|(length, all)| all.get(&key[..*length]));
        let ranges = self.ranges.iter().filter(|(range, _)| range.contains(key)).map(|(_, place)| place);
        let places = std::iter::once(&self.every).chain(self.keys.get(key)).chain(prefixes).chain(ranges);
        places.flatten().map(|(one, _)| one)
    }
}

impl Interests<Arc<Bell>> {
    /// Rings for a change.
    pub fn ring(&self, change: &Change) {
        for bell in self.of(&change.kv.key) {
            bell.ring(change.kv.mod_revision);
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

/// Takes one away once; whether none is left.
fn take<T: PartialEq>(place: &mut Place<T>, one: &T) -> bool {
    if let Some(at) = place.iter().position(|(known, _)| known == one) {
        place[at].1 -= 1;
        if place[at].1 == 0 {
            place.swap_remove(at);
        }
    }
    place.is_empty()
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
            interests.add(&span, Arc::clone(&bell));
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
