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
    /// `None` until the writer has put it on disk; the payload of such a slot stays in memory.
    place: Option<Place>,
}

/// The state of one group.
#[derive(Default)]
pub struct Group {
    pub(super) vote: Option<Vote>,
    pub(super) appended_bytes: u64,
    purged: Option<EntryId>,
    slots: VecDeque<Slot>,
    /// The payloads of the last slots: those that are in memory.
    payloads: VecDeque<Bytes>,
    cached_bytes: usize,
}

/// Slots that a list may have room for, and not use.
const SPARE: usize = 4_096;

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
        self.slots.push_back(Slot { id, kind, size: size as u32, place: None });
        self.payloads.push_back(payload);
    }

    /// Adds an entry that recovery found on disk.
    pub(super) fn found(&mut self, id: EntryId, kind: EntryKind, size: usize, place: Place) {
        debug_assert!(self.payloads.is_empty(), "nothing is appended before the log is recovered");
        self.slots.push_back(Slot { id, kind, size: size as u32, place: Some(place) });
    }

    /// Slots before this one have no payload in memory.
    fn cold(&self) -> usize {
        self.slots.len() - self.payloads.len()
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
            self.slots.pop_back();
            self.cached_bytes -= self.payloads.pop_back().map_or(0, |payload| payload.len());
        }
    }

    pub(super) fn purge(&mut self, id: EntryId) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= id.index) {
            if self.cold() == 0 {
                self.cached_bytes -= self.payloads.pop_front().map_or(0, |payload| payload.len());
            }
            self.slots.pop_front();
        }
        if self.slots.capacity() > 4 * self.slots.len() + SPARE {
            self.slots.shrink_to(2 * self.slots.len());
        }
        self.purged = self.purged.max(Some(id));
    }

    /// Lets go of the oldest payloads past `budget`; they can be read from disk.
    pub(super) fn shrink_cache(&mut self, budget: usize) {
        while self.cached_bytes > budget {
            if self.slots.get(self.cold()).is_none_or(|slot| slot.place.is_none()) {
                return;
            }
            self.cached_bytes -= self.payloads.pop_front().map_or(0, |payload| payload.len());
        }
    }

    pub(super) fn range(&self, start: u64, end: u64, budget: usize) -> Vec<LogRange> {
        let Some(first) = self.first().map(|id| id.index) else { return Vec::new() };
        let from = start.max(first);
        let to = end.min(first + self.slots.len() as u64);
        if from >= to {
            return Vec::new();
        }
        let (from, to) = ((from - first) as usize, (to - first) as usize);
        let in_memory = |at: usize| at.checked_sub(self.cold()).and_then(|at| self.payloads.get(at));
        let mut size = 0;
        self.slots
            .range(from..to)
            .zip(from..)
            .take_while(|(slot, _)| {
                let fits = size == 0 || size + slot.size as usize <= budget;
                size += slot.size as usize + 1;
                fits
            })
            .map(|(slot, at)| match (in_memory(at), slot.place) {
                (Some(payload), _) => {
                    LogRange::Memory(Entry { id: slot.id, kind: slot.kind, payload: payload.clone() })
                }
                (None, Some(place)) => LogRange::Disk { id: slot.id, kind: slot.kind, place },
                (None, None) => unreachable!("a payload leaves memory only after its place is known"),
            })
            .collect()
    }
}
