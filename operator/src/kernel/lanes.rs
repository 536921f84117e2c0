//! Who waits, in order. Each namespace has a lane; only the heads of lanes stand in line, so that a namespace that may have nothing more
//! for now costs the others one look, however many of its keys wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::key::Key;
use super::queue::Priority;

/// A key's place: the more urgent first, and of equals the one that came first.
type Place = (Reverse<Priority>, u64);

/// What waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub priority: Priority,
    /// Since when.
    pub since: Instant,
    number: u64,
}

/// The keys of one namespace that wait.
#[derive(Debug, Default)]
struct Lane {
    by_priority: BTreeMap<Place, Key>,
    by_age: BTreeMap<u64, Key>,
}

impl Lane {
    fn heads(&self) -> Option<(Place, u64)> {
        Some((*self.by_priority.first_key_value()?.0, *self.by_age.first_key_value()?.0))
    }
}

/// All keys that wait.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    waiting: HashMap<Key, Waiting>,
    by_namespace: HashMap<Arc<str>, Lane>,
    most_urgent: BTreeSet<(Place, Arc<str>)>,
    oldest: BTreeSet<(u64, Arc<str>)>,
    numbers: u64,
}

impl Lanes {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether this one waits.
    pub(super) fn contain(&self, key: &Key) -> bool {
        self.waiting.contains_key(key)
    }

    /// The priority of whoever is first in line.
    pub(super) fn highest(&self) -> Option<Priority> {
        self.most_urgent.first().map(|((priority, _), _)| priority.0)
    }

    /// Has a key wait. One that does keeps its place among those of the higher of both priorities.
    pub(super) fn add(&mut self, key: Key, priority: Priority, now: Instant) {
        let before = self.waiting.get(&key).copied();
        if before.is_some_and(|before| before.priority >= priority) {
            return;
        }
        self.numbers += u64::from(before.is_none());
        let number = before.map_or(self.numbers, |before| before.number);
        let since = before.map_or(now, |before| before.since);
        self.waiting.insert(key.clone(), Waiting { priority, since, number });
        self.change(&key.object.namespace.clone(), |lane| {
            if let Some(before) = before {
                lane.by_priority.remove(&(Reverse(before.priority), number));
            }
            lane.by_age.insert(number, key.clone());
            lane.by_priority.insert((Reverse(priority), number), key);
        });
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Waiting> {
        let waiting = self.waiting.remove(key)?;
        self.change(&key.object.namespace, |lane| {
            lane.by_priority.remove(&(Reverse(waiting.priority), waiting.number));
            lane.by_age.remove(&waiting.number);
        });
        Some(waiting)
    }

    /// The most urgent key of the namespaces that have room, if it is of this priority or above.
    pub(super) fn most_urgent(&self, least: Priority, has_room: impl Fn(&str) -> bool) -> Option<&Key> {
        let mut in_line = self.most_urgent.iter().take_while(|((priority, _), _)| priority.0 >= least);
        let (place, namespace) = in_line.find(|(_, namespace)| has_room(namespace))?;
        self.by_namespace.get(namespace)?.by_priority.get(place)
    }

    /// The key of the namespaces that have room that waits longest.
    pub(super) fn oldest(&self, has_room: impl Fn(&str) -> bool) -> Option<&Key> {
        let (number, namespace) = self.oldest.iter().find(|(_, namespace)| has_room(namespace))?;
        self.by_namespace.get(namespace)?.by_age.get(number)
    }

    /// Changes a lane, and has its new heads stand in line for the old.
    fn change(&mut self, namespace: &str, change: impl FnOnce(&mut Lane)) {
        let lane = self.by_namespace.remove_entry(namespace);
        let (name, mut lane) = lane.unwrap_or_else(|| (Arc::from(namespace), Lane::default()));
        if let Some((place, number)) = lane.heads() {
            self.most_urgent.remove(&(place, name.clone()));
            self.oldest.remove(&(number, name.clone()));
        }
        change(&mut lane);
        if let Some((place, number)) = lane.heads() {
            self.most_urgent.insert((place, name.clone()));
            self.oldest.insert((number, name.clone()));
            self.by_namespace.insert(name, lane);
        }
    }
}
