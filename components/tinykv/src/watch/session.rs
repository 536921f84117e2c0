//! The watchers of one stream. They advance together: a response for one never says that the
//! store is at an earlier revision than a response before it said.

use super::hub::Revisioned;
use super::interest::{Bell, Interests};
use crate::mvcc::{Change, KeyValue, Span};
use crate::store::Shared;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Revisions taken from the hub at once.
const ROUND: usize = 1_000;
/// Events of one response; a revision is never split for it.
const EVENTS: usize = 1_000;
/// Bytes of one response, about; a revision is never split for it.
const BYTES: usize = 512 << 10;

/// Events that a watcher does not want.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// No writes.
    pub no_put: bool,
    /// No deletions.
    pub no_delete: bool,
}

/// What a watcher is to be.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    /// Its id; 0 to be given one.
    pub id: i64,
    /// The keys.
    pub span: Span,
    /// First revision to deliver; 0 for the next one.
    pub start: i64,
    /// Deliver the version before, too.
    pub prev_kv: bool,
    /// Report progress when nothing happens.
    pub progress: bool,
    /// Large responses may be split inside a revision.
    pub fragment: bool,
    /// What not to deliver.
    pub filter: Filter,
}

/// Why there is no such watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The span has its end before its start.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The id is taken on this stream.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
}

/// A watcher that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: i64,
    /// Where the store was.
    pub revision: i64,
}

/// Something to tell a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which watcher; −1 for all of them.
    pub id: i64,
    /// Where the store is.
    pub revision: i64,
    /// What happened; nothing when it only reports progress or an end.
    pub events: Vec<Change>,
    /// The watcher has ended, because this revision is compacted.
    pub compacted: Option<i64>,
    /// Whether the watcher allows splitting.
    pub fragment: bool,
}

struct Watcher {
    spec: WatchSpec,
    /// First revision to deliver. Of one that is not behind it stays where it was.
    next: i64,
    /// Whether anything was delivered since progress was reported last.
    busy: bool,
    /// It starts before the last compaction, and can only be told so.
    too_old: bool,
}

/// The watchers of one stream. Those that have seen all are found by the keys that change; only the others are gone through
/// one by one.
pub struct Session {
    shared: Arc<Shared>,
    watchers: BTreeMap<i64, Watcher>,
    /// Who wants which keys.
    interests: Interests<i64>,
    /// Those that are brought to where the store is by themselves.
    behind: BTreeSet<i64>,
    /// The first revision that the others have not seen and that may concern one of them.
    due: Option<i64>,
    next_id: i64,
    bell: Arc<Bell>,
    /// Where the store was when the stream advanced last.
    seen: i64,
}

impl Drop for Session {
    fn drop(&mut self) {
        for watcher in self.watchers.values() {
            self.shared.hub.leave(&watcher.spec.span, &self.bell);
        }
    }
}

impl Session {
    /// A stream without watchers.
    pub fn new(shared: Arc<Shared>) -> Self {
        let seen = shared.hub.revision();
        Self {
            shared,
            watchers: BTreeMap::new(),
            interests: Interests::default(),
            behind: BTreeSet::new(),
            due: None,
            next_id: 0,
            bell: Arc::default(),
            seen,
        }
    }

    /// Rings when there is something for one of the watchers.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// How many watchers there are.
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Adds a watcher.
    pub fn create(&mut self, mut spec: WatchSpec) -> Result<Created, SessionError> {
        if matches!(&spec.span, Span::Between(from, to) if from >= to) {
            return Err(SessionError::EmptyRange);
        }
        if spec.id == 0 {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            spec.id = self.next_id;
            self.next_id += 1;
        } else if self.watchers.contains_key(&spec.id) {
            return Err(SessionError::DuplicateId);
        }
        let revision = self.shared.hub.join(&spec.span, &self.bell);
        let next = if spec.start == 0 { revision + 1 } else { spec.start };
        let id = spec.id;
        let compacted = self.shared.with(crate::mvcc::Keyspace::compacted);
        let too_old = spec.start != 0 && spec.start < compacted;
        if too_old || next <= revision {
            self.behind.insert(id);
        }
        self.interests.add_new(&spec.span, id);
        self.watchers.insert(id, Watcher { spec, next, busy: false, too_old });
        Ok(Created { id, revision })
    }

    /// Removes a watcher; whether there was one.
    pub fn cancel(&mut self, id: i64) -> bool {
        let Some(Watcher { spec, .. }) = self.watchers.remove(&id) else { return false };
        self.behind.remove(&id);
        self.interests.remove(&spec.span, &id);
        self.shared.hub.leave(&spec.span, &self.bell);
        true
    }

    /// Brings all watchers to where the store is now, or some way there: then the second answer
    /// is true, and it wants to be called again.
    pub fn advance(&mut self) -> io::Result<(Vec<Delivery>, bool)> {
        let (target, rung) = self.shared.hub.look(&self.bell);
        self.seen = target;
        self.due = self.due.into_iter().chain(rung).min();
        let mut deliveries = Vec::new();
        let mut more = self.catch_up(target, &mut deliveries)?;
        more |= self.deliver_due(target, &mut deliveries)?;
        more |= self.deliver_behind(target, &mut deliveries)?;
        Ok((deliveries, more))
    }

    /// Delivers what those who had seen all have not seen yet. Answers whether something is left.
    fn deliver_due(&mut self, target: i64, deliveries: &mut Vec<Delivery>) -> io::Result<bool> {
        let Some(from) = self.due.take() else { return Ok(false) };
        let Some(recent) = self.shared.hub.since(from, ROUND) else {
            // The hub has let go of it: each reads it from the store.
            for (id, watcher) in &mut self.watchers {
                if self.behind.insert(*id) {
                    watcher.next = watcher.next.max(from);
                }
            }
            return Ok(true);
        };
        let mut concerned: Vec<i64> = Vec::new();
        for change in recent.iter().flat_map(|revisioned| &revisioned.changes) {
            concerned.extend(self.interests.of(&change.kv.key).filter(|id| !self.behind.contains(id)));
        }
        concerned.sort_unstable();
        concerned.dedup();
        let covered = covered(&recent, target);
        self.deliver(&concerned, (from, &recent), target, deliveries)?;
        if covered < target {
            self.due = Some(covered + 1);
        }
        Ok(covered < target)
    }

    /// Those behind that are not far behind read from the hub. Answers whether some are left behind.
    fn deliver_behind(&mut self, target: i64, deliveries: &mut Vec<Delivery>) -> io::Result<bool> {
        let ids: Vec<i64> = self.behind.iter().copied().collect();
        let next = |id: &i64| self.watchers.get(id).map(|watcher| watcher.next);
        let Some(from) = ids.iter().filter_map(next).filter(|next| *next <= target).min() else {
            self.behind.clear();
            return Ok(false);
        };
        // One that is still too far behind for the hub has its turn again.
        let Some(recent) = self.shared.hub.since(from, ROUND) else { return Ok(true) };
        let covered = covered(&recent, target);
        self.deliver(&ids, (from, &recent), target, deliveries)?;
        for id in ids {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.next = watcher.next.max(covered + 1);
                if watcher.next > target {
                    self.behind.remove(&id);
                }
            }
        }
        Ok(covered < target)
    }

    /// Delivers to each of some watchers what it wants of the changes from a revision on.
    fn deliver(
        &mut self,
        ids: &[i64],
        (from, recent): (i64, &[Arc<Revisioned>]),
        target: i64,
        deliveries: &mut Vec<Delivery>,
    ) -> io::Result<()> {
        let compacted = self.shared.with(crate::mvcc::Keyspace::compacted);
        for id in ids {
            let Some(watcher) = self.watchers.get_mut(id) else { continue };
            let next = watcher.next.max(from);
            let mut pending = Pending::default();
            let is_new = |revisioned: &&Arc<Revisioned>| (next..=target).contains(&revisioned.revision);
            for revisioned in recent.iter().filter(is_new) {
                for change in revisioned.changes.iter().filter(|change| wanted(&watcher.spec, change)) {
                    pending.add(event(&self.shared, &watcher.spec, change, compacted)?);
                }
                pending.split(deliveries, *id, target, watcher.spec.fragment);
            }
            watcher.busy |= pending.delivered || !pending.events.is_empty();
            pending.flush(deliveries, *id, target, watcher.spec.fragment);
        }
        Ok(())
    }

    /// Watchers that start in the past read it from the store, a piece at a time.
    fn catch_up(&mut self, target: i64, deliveries: &mut Vec<Delivery>) -> io::Result<bool> {
        let mut more = false;
        let mut ended = Vec::new();
        for id in &self.behind {
            let Some(watcher) = self.watchers.get_mut(id) else { continue };
            let floor = self.shared.hub.floor().min(target);
            if watcher.next > floor && !watcher.too_old {
                continue;
            }
            let changes = match watcher.next {
                _ if watcher.too_old => None,
                next if next < self.shared.with(crate::mvcc::Keyspace::compacted) => None,
                next => Some(self.shared.db().changes(next, floor, EVENTS)?),
            };
            // What was compacted while it was read may be missing from it.
            let compacted = self.shared.with(crate::mvcc::Keyspace::compacted);
            let Some((changes, covered)) = changes.filter(|_| watcher.next >= compacted) else {
                ended.push(*id);
                deliveries.push(Delivery {
                    id: *id,
                    revision: target,
                    events: Vec::new(),
                    compacted: Some(compacted),
                    fragment: false,
                });
                continue;
            };
            let mut pending = Pending::default();
            let mut at = watcher.next;
            for change in changes.iter().filter(|change| wanted(&watcher.spec, change)) {
                if change.kv.mod_revision != at {
                    pending.split(deliveries, *id, target, watcher.spec.fragment);
                    at = change.kv.mod_revision;
                }
                pending.add(event(&self.shared, &watcher.spec, change, compacted)?);
            }
            watcher.busy |= pending.delivered || !pending.events.is_empty();
            pending.flush(deliveries, *id, target, watcher.spec.fragment);
            watcher.next = covered + 1;
            more |= watcher.next <= floor;
        }
        for id in ended {
            self.cancel(id);
        }
        Ok(more)
    }

    /// Reports, for all watchers at once, where the stream is; `None` when that would not be
    /// true for one of them. Call it after [`Session::advance`] has nothing more.
    pub fn progress(&self) -> Option<Delivery> {
        let revision = self.seen;
        let has_begun = |watcher: &Watcher| watcher.spec.start <= revision;
        let is_true = self.behind.is_empty() && self.due.is_none() && self.watchers.values().all(has_begun);
        (is_true && !self.watchers.is_empty()).then(|| progress_of(-1, revision))
    }

    /// Reports for each watcher that asked for it and heard nothing since the last time. Call it after
    /// [`Session::advance`], too.
    pub fn idle_progress(&mut self) -> Vec<Delivery> {
        let revision = self.seen;
        let mut deliveries = Vec::new();
        for (id, watcher) in &mut self.watchers {
            let is_synced = self.due.is_none() && !self.behind.contains(id) && watcher.spec.start <= revision;
            if watcher.spec.progress && !watcher.busy && is_synced {
                deliveries.push(progress_of(*id, revision));
            }
            watcher.busy = false;
        }
        deliveries
    }
}

/// The last revision that these changes, which follow one another, tell of.
fn covered(recent: &[Arc<Revisioned>], target: i64) -> i64 {
    match recent.last() {
        Some(last) if recent.len() == ROUND => last.revision.min(target),
        _ => target,
    }
}

fn progress_of(id: i64, revision: i64) -> Delivery {
    Delivery { id, revision, events: Vec::new(), compacted: None, fragment: false }
}

fn wanted(spec: &WatchSpec, change: &Change) -> bool {
    let filtered = if change.is_deletion { spec.filter.no_delete } else { spec.filter.no_put };
    !filtered && spec.span.contains(&change.kv.key)
}

/// The event as this watcher gets it.
fn event(shared: &Shared, spec: &WatchSpec, change: &Change, compacted: i64) -> io::Result<Change> {
    let created = !change.is_deletion && change.kv.create_revision == change.kv.mod_revision;
    let prev = match &change.prev {
        _ if !spec.prev_kv || created => None,
        // A version that nobody can read any more is not shown here either.
        _ if change.kv.mod_revision <= compacted => None,
        Some(prev) => Some(prev.clone()),
        None => version_before(shared, &change.kv)?,
    };
    Ok(Change { kv: change.kv.clone(), is_deletion: change.is_deletion, prev })
}

/// The version that a change replaced, unless it is compacted.
fn version_before(shared: &Shared, kv: &KeyValue) -> io::Result<Option<KeyValue>> {
    let before = shared.with(|keyspace| {
        keyspace.version_at(&kv.key, kv.mod_revision - 1).map(|version| version.mod_revision)
    });
    match before {
        Some(revision) => Ok(shared.db().version(&kv.key, revision)?.map(|(kv, _)| kv)),
        None => Ok(None),
    }
}

#[derive(Default)]
struct Pending {
    events: Vec<Change>,
    bytes: usize,
    delivered: bool,
}

impl Pending {
    fn add(&mut self, change: Change) {
        let prev = change.prev.as_ref().map_or(0, |prev| prev.key.len() + prev.value.len());
        self.bytes += change.kv.key.len() + change.kv.value.len() + prev + 64;
        self.events.push(change);
    }

    /// Between two revisions: delivers what is enough for a response.
    fn split(&mut self, deliveries: &mut Vec<Delivery>, id: i64, revision: i64, fragment: bool) {
        if self.events.len() >= EVENTS || self.bytes >= BYTES {
            self.flush(deliveries, id, revision, fragment);
        }
    }

    fn flush(&mut self, deliveries: &mut Vec<Delivery>, id: i64, revision: i64, fragment: bool) {
        if self.events.is_empty() {
            return;
        }
        self.bytes = 0;
        self.delivered = true;
        let events = std::mem::take(&mut self.events);
        deliveries.push(Delivery { id, revision, events, compacted: None, fragment });
    }
}
