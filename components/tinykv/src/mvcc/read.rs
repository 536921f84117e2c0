//! Reads at one revision.

use super::keyspace::{Keyspace, Values, Version, kv_of};
use super::types::{KeyValue, Query, QueryAnswer, Refusal, SortBy};
use bytes::Bytes;
use std::cmp::Ordering;
use std::io;

/// A version that a query selected.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its key.
    pub key: Bytes,
    /// The version; its value may have to be loaded.
    pub version: Version,
}

/// What a query selected, before values that left memory are loaded.
#[derive(Debug, Clone)]
pub struct Selection {
    found: Vec<Found>,
    count: i64,
    revision: i64,
}

impl Keyspace {
    /// Selects what `query` asks for. `revision` in the answer is that of the store.
    pub fn select(&self, query: &Query) -> Result<Selection, Refusal> {
        self.select_at(query, self.revision)
    }

    /// The same while a transaction is under way, whose own revision counts as the latest.
    pub(super) fn select_at(&self, query: &Query, latest: i64) -> Result<Selection, Refusal> {
        let at = if query.revision <= 0 { latest } else { query.revision };
        if at > latest {
            return Err(Refusal::FutureRevision);
        }
        if at < self.compacted {
            return Err(Refusal::Compacted);
        }
        // Sorting and bounds have to see everything before the limit cuts.
        let limit = match usize::try_from(query.limit) {
            Ok(limit) if limit > 0 && query.sort.is_none() && !query.has_bounds() => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let mut found = Vec::new();
        let mut count = 0;
        for (key, history) in self.histories(&query.span) {
            let Some(version) = history.at(at).filter(|version| !version.is_deletion()) else { continue };
            count += 1;
            if !query.count_only && found.len() < limit && within(query, version) {
                found.push(Found { key: key.clone(), version: version.clone() });
            }
        }
        Ok(Selection { found, count, revision: latest })
    }

    /// Selects and loads at once.
    pub fn query(&self, query: &Query, values: &dyn Values) -> io::Result<Result<QueryAnswer, Refusal>> {
        match self.select(query) {
            Ok(selection) => selection.load(query, values).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }
}

fn within(query: &Query, version: &Version) -> bool {
    let fits =
        |(min, max): (i64, i64), revision| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    fits(query.mod_bounds, version.mod_revision) && fits(query.create_bounds, version.create_revision)
}

impl Selection {
    /// Whether a value has to be loaded for `query`.
    pub fn needs_values(&self, query: &Query) -> bool {
        wants_values(query) && self.found.iter().any(|found| found.version.value.is_none())
    }

    /// Loads, sorts and cuts.
    pub fn load(self, query: &Query, values: &dyn Values) -> io::Result<QueryAnswer> {
        let limit = usize::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut kvs = Vec::with_capacity(self.found.len());
        for Found { key, version } in self.found {
            let value = match &version.value {
                Some(value) => value.clone(),
                None if wants_values(query) => values.value(&key, version.mod_revision)?,
                None => Bytes::new(),
            };
            let mut kv = kv_of(&key, &version, value);
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
