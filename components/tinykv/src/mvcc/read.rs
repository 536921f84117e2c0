//! Reads at one revision.

use super::blob::Blob;
use super::history::Version;
use super::index::Index;
use super::keyspace::{Keyspace, Values, kv_of};
use super::totals::Pages;
use super::types::{KeyValue, Query, QueryAnswer, Refusal, SortBy, Span};
use bytes::Bytes;
use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

/// Ranges over no more keys than this are read where the state is locked: a clone of the index costs later writes the nodes
/// that they then have to copy.
const BRIEF: usize = 64;
/// Totals above this are noted for the pages to come.
const NOTEWORTHY: i64 = 1_000;

/// A version that a query selected.
#[derive(Debug, Clone)]
struct Found {
    key: Bytes,
    /// Its value may have to be loaded.
    version: Version,
}

/// What a query selected, before values that left memory are loaded.
#[derive(Debug, Clone)]
pub struct Selection {
    found: Vec<Found>,
    count: i64,
    revision: i64,
}

/// The state at one moment. Reading it needs no lock and holds up nobody.
pub struct View {
    pub(super) index: Index,
    pub(super) pages: Arc<Pages>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

/// A state that is read: the live one, or a view of it.
pub(super) struct Reading<'a> {
    index: &'a Index,
    pages: &'a Pages,
    compacted: i64,
    latest: i64,
}

impl View {
    /// The last compaction.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Selects what `query` asks for.
    pub fn select(&self, query: &Query) -> Result<Selection, Refusal> {
        let (index, pages) = (&self.index, &*self.pages);
        let reading = Reading { index, pages, compacted: self.compacted, latest: self.revision };
        let selection = reading.select(query)?;
        let is_page = query.limit > 0 && selection.count > NOTEWORTHY;
        if is_page && (query.revision <= 0 || pages.is_far(index, query.revision)) {
            pages.note(index, self.revision);
        }
        Ok(selection)
    }
}

/// A range that is read piece by piece, at one revision.
pub struct Pager {
    view: View,
    query: Query,
    at: i64,
    /// What is left of the span; `None` at the end.
    rest: Option<Span>,
    /// Keys that may still be told.
    left: usize,
    count: i64,
}

impl Pager {
    /// Begins to read what `query` asks for, in the order of keys; it has no bounds.
    pub fn new(view: View, query: Query) -> Result<Self, Refusal> {
        let total = view.select(&Query { count_only: true, limit: 0, ..query.clone() })?;
        let at = if query.revision <= 0 { view.revision } else { query.revision };
        let left = usize::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let rest = (!query.count_only).then(|| query.span.clone());
        Ok(Self { view, query, at, rest, left, count: total.count })
    }

    /// Reads the next keys, up to `keys` of them; none at the end.
    pub fn read(&mut self, keys: usize, values: &dyn Values) -> io::Result<Vec<KeyValue>> {
        let limit = keys.min(self.left);
        let Some(span) = self.rest.take().filter(|_| limit > 0) else { return Ok(Vec::new()) };
        let query = Query { span, revision: self.at, limit: limit as i64, ..self.query.clone() };
        let view = &self.view;
        let reading = Reading {
            index: &view.index,
            pages: &view.pages,
            compacted: view.compacted,
            latest: view.revision,
        };
        let mut found = match &query.span {
            Span::Key(key) => reading.one(&query, key, self.at).0,
            // The total is known; one key more than the limit comes along.
            span => reading.walk(&query, span, self.at, limit + 1),
        };
        if found.len() > limit {
            self.rest = found.pop().map(|next| match &query.span {
                Span::Between(_, to) => Span::Between(next.key, to.clone()),
                _ => Span::From(next.key),
            });
        }
        self.left -= found.len();
        let selection = Selection { found, count: self.count, revision: view.revision };
        Ok(selection.load(&query, values)?.kvs)
    }

    /// Keys that the span holds, told or not.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Whether the span holds more keys than the limit allows.
    pub fn more(&self) -> bool {
        self.query.limit > 0 && self.count > self.query.limit
    }

    /// Where the store was.
    pub fn revision(&self) -> i64 {
        self.view.revision
    }
}

impl Keyspace {
    /// Whether [`select`](Self::select) has little to look at, whatever the number of keys; else take a
    /// [`view`](Self::view).
    pub fn is_brief(&self, query: &Query) -> bool {
        let at = if query.revision <= 0 { self.revision } else { query.revision };
        match &query.span {
            Span::Key(_) => true,
            span if query.count_only && self.index.count(span, at).is_some() => true,
            span => self.index.breadth(span) <= BRIEF,
        }
    }

    /// Selects what `query` asks for. `revision` in the answer is that of the store.
    pub fn select(&self, query: &Query) -> Result<Selection, Refusal> {
        self.select_at(query, self.revision)
    }

    /// The same while a transaction is under way, whose own revision counts as the latest.
    pub(super) fn select_at(&self, query: &Query, latest: i64) -> Result<Selection, Refusal> {
        let (index, pages, compacted) = (&self.index, &*self.pages, self.compacted);
        Reading { index, pages, compacted, latest }.select(query)
    }

    /// Selects and loads at once.
    pub fn query(&self, query: &Query, values: &dyn Values) -> io::Result<Result<QueryAnswer, Refusal>> {
        match self.select(query) {
            Ok(selection) => selection.load(query, values).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }
}

impl Reading<'_> {
    fn select(&self, query: &Query) -> Result<Selection, Refusal> {
        let at = if query.revision <= 0 { self.latest } else { query.revision };
        if at > self.latest {
            return Err(Refusal::FutureRevision);
        }
        if at < self.compacted {
            return Err(Refusal::Compacted);
        }
        let (found, count) = match &query.span {
            Span::Key(key) => self.one(query, key, at),
            span => self.many(query, span, at),
        };
        Ok(Selection { found, count: count as i64, revision: self.latest })
    }

    fn one(&self, query: &Query, key: &Bytes, at: i64) -> (Vec<Found>, usize) {
        let standing = self.index.get(key).and_then(|history| history.at(at));
        let Some(version) = standing.filter(|version| !version.is_deletion()) else {
            return (Vec::new(), 0);
        };
        let wanted = !query.count_only && within(query, version);
        (wanted.then(|| Found { key: key.clone(), version: version.clone() }).into_iter().collect(), 1)
    }

    fn many(&self, query: &Query, span: &Span, at: i64) -> (Vec<Found>, usize) {
        let known = self.index.count(span, at).or_else(|| self.pages.count(self.index, span, at));
        // Sorting and bounds have to see everything before the limit cuts.
        let cuts = (query.sort.is_none() || query.limit_first) && !query.has_bounds();
        let limit = match usize::try_from(query.limit) {
            _ if query.count_only => 0,
            Ok(limit) if limit > 0 && cuts => limit.saturating_add(1),
            _ => usize::MAX,
        };
        if let Some(count) = known {
            return (self.walk(query, span, at, limit), count);
        }
        let mut found = Vec::new();
        let mut count = 0;
        for (key, version) in self.existing(span, at) {
            count += 1;
            if found.len() < limit && within(query, version) {
                found.push(Found { key: key.copied(), version: version.clone() });
            }
        }
        (found, count)
    }

    /// The first versions of a span, up to `limit`.
    fn walk(&self, query: &Query, span: &Span, at: i64, limit: usize) -> Vec<Found> {
        self.existing(span, at)
            .filter(|(_, version)| within(query, version))
            .take(limit)
            .map(|(key, version)| Found { key: key.copied(), version: version.clone() })
            .collect()
    }

    fn existing(&self, span: &Span, at: i64) -> impl Iterator<Item = (&Blob, &Version)> {
        self.index.histories(span).filter_map(move |(key, history)| {
            Some((key, history.at(at).filter(|version| !version.is_deletion())?))
        })
    }
}

fn within(query: &Query, version: &Version) -> bool {
    let fits =
        |(min, max): (i64, i64), revision| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    fits(query.mod_bounds, version.mod_revision) && fits(query.create_bounds, version.create_revision)
}

impl Selection {
    /// Keys of the span, selected or not.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Keys that were selected, the one over the limit included.
    #[cfg(test)]
    pub(super) fn selected(&self) -> usize {
        self.found.len()
    }

    /// Loads, sorts and cuts.
    pub fn load(self, query: &Query, values: &dyn Values) -> io::Result<QueryAnswer> {
        let limit = usize::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut kvs = Vec::with_capacity(self.found.len());
        let absent: Vec<_> = self
            .found
            .iter()
            .filter(|found| wants_values(query) && found.version.value.is_none())
            .map(|found| (&*found.key, found.version.mod_revision))
            .collect();
        let mut loaded = values.values(&absent)?.into_iter();
        for Found { key, version } in self.found {
            let value = match &version.value {
                _ if !wants_values(query) => Bytes::new(),
                Some(value) => value.shared(),
                None => loaded.next().unwrap_or_default(),
            };
            let mut kv = kv_of(key, &version, value);
            // etcd answers such queries from its index, which knows no leases.
            if !wants_values(query) {
                kv.lease = 0;
            }
            kvs.push(kv);
        }
        if let Some((by, descending)) = query.sort {
            kvs.sort_by(|a, b| if descending { order(by, b, a) } else { order(by, a, b) });
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if query.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
            }
        }
        Ok(QueryAnswer { kvs, count: self.count, more, revision: self.revision })
    }
}

fn wants_values(query: &Query) -> bool {
    !query.keys_only || matches!(query.sort, Some((SortBy::Value, _)))
}

fn order(by: SortBy, a: &KeyValue, b: &KeyValue) -> Ordering {
    match by {
        SortBy::Key => a.key.cmp(&b.key),
        SortBy::Version => a.version.cmp(&b.version),
        SortBy::Create => a.create_revision.cmp(&b.create_revision),
        SortBy::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortBy::Value => a.value.cmp(&b.value),
    }
}
