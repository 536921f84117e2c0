//! What one group's log looks like from memory: every entry's place, the recent payloads.

use super::Place;
use super::record::{EntryId, EntryKind, Vote};
use bytes::Bytes;
use std::collections::VecDeque;

/// One entry, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position.
    pub id: EntryId,
    /// What the payload is.
    pub kind: EntryKind,
    /// Opaque to the log.
    pub payload: Bytes,
}

/// An entry to be read, and from where.
pub enum LogRange {
    /// Still in memory.
    Memory(Entry),
    /// To be read from its segment.
    #[allow(private_interfaces)]
    Disk {
        /// Position.
        id: EntryId,
        /// What the payload is.
        kind: EntryKind,
        /// Where it lies.
        place: Place,
    },
}

struct Slot {
    id: EntryId,
    kind: EntryKind,
    size: u32,
    /// `None` until the writer has put it on disk; such a slot keeps its payload.
    place: Option<Place>,
    payload: Option<Bytes>,
}

/// The state of one group.
#[derive(Default)]
pub struct Group {
    pub(super) vote: Option<Vote>,
    pub(super) appended_bytes: u64,
    purged: Option<EntryId>,
    slots: VecDeque<Slot>,
    cached_bytes: usize,
    /// Slots before this one have no payload in memory.
    cold: usize,
}

impl Group {
    pub(super) fn purged(&self) -> Option<EntryId> {
        self.purged
    }

    pub(super) fn last(&self) -> Option<EntryId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    pub(super) fn entries(&self) -> usize {
        self.slots.len()
    }

    /// First entry kept.
    pub(super) fn first(&self) -> Option<EntryId> {
        self.slots.front().map(|slot| slot.id)
    }

    /// Index that the next entry must have; `None` when any will do.
    pub(super) fn next(&self) -> Option<u64> {
        self.last().map(|id| id.index + 1)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let size = entry.payload.len();
        self.cached_bytes += size;
        self.appended_bytes += size as u64;
        let Entry { id, kind, payload } = entry;
        self.slots.push_back(Slot { id, kind, size: size as u32, place: None, payload: Some(payload) });
    }

    /// Adds an entry that recovery found on disk.
    pub(super) fn found(&mut self, id: EntryId, kind: EntryKind, size: usize, place: Place) {
        self.slots.push_back(Slot { id, kind, size: size as u32, place: Some(place), payload: None });
        self.cold = self.slots.len();
    }

    /// The writer has put the entry on disk.
    pub(super) fn placed(&mut self, id: EntryId, place: Place) {
        let Some(first) = self.first() else { return };
        let Some(at) = id.index.checked_sub(first.index) else { return };
        // The entry may have been withdrawn, and its index taken again, in the meantime.
        if let Some(slot) = self.slots.get_mut(at as usize).filter(|slot| slot.id == id) {
            slot.place = Some(place);
        }
    }

    pub(super) fn truncate(&mut self, keep: Option<u64>) {
        while self.slots.back().is_some_and(|slot| keep.is_none_or(|keep| slot.id.index > keep)) {
            if let Some(slot) = self.slots.pop_back() {
                self.cached_bytes -= slot.payload.map_or(0, |payload| payload.len());
            }
        }
        self.cold = self.cold.min(self.slots.len());
    }

    pub(super) fn purge(&mut self, id: EntryId) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= id.index) {
            if let Some(slot) = self.slots.pop_front() {
                self.cached_bytes -= slot.payload.map_or(0, |payload| payload.len());
                self.cold = self.cold.saturating_sub(1);
            }
        }
        self.purged = self.purged.max(Some(id));
    }

    /// Lets go of the oldest payloads past `budget`; they can be read from disk.
    pub(super) fn shrink_cache(&mut self, budget: usize) {
        while self.cached_bytes > budget {
            let Some(slot) = self.slots.get_mut(self.cold).filter(|slot| slot.place.is_some()) else {
                return;
            };
            self.cached_bytes -= slot.payload.take().map_or(0, |payload| payload.len());
            self.cold += 1;
        }
    }

    pub(super) fn range(&self, start: u64, end: u64, budget: usize) -> Vec<LogRange> {
        let Some(first) = self.first().map(|id| id.index) else { return Vec::new() };
        let from = start.max(first);
        let to = end.min(first + self.slots.len() as u64);
        if from >= to {
            return Vec::new();
        }
        let mut size = 0;
        self.slots
            .range((from - first) as usize..(to - first) as usize)
            .take_while(|slot| {
                let fits = size == 0 || size + slot.size as usize <= budget;
                size += slot.size as usize + 1;
                fits
            })
            .map(|slot| match (&slot.payload, slot.place) {
                (Some(payload), _) => {
                    LogRange::Memory(Entry { id: slot.id, kind: slot.kind, payload: payload.clone() })
                }
                (None, Some(place)) => LogRange::Disk { id: slot.id, kind: slot.kind, place },
                (None, None) => unreachable!("a payload leaves memory only after its place is known"),
            })
            .collect()
    }
}
