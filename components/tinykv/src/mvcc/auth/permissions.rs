//! What a user's roles permit, as ranges of keys that do not touch one another.

use super::{Access, Permission, Role};
use crate::mvcc::Span;
use bytes::Bytes;

/// Sorted ranges of keys: the first one, and the first one after it (`None` where there is no end).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(Vec<(Bytes, Option<Bytes>)>);

impl Ranges {
    fn of<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Self {
        let mut ranges: Vec<(Bytes, Option<Bytes>)> = permissions.map(range_of).collect();
        ranges.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::new();
        for (start, end) in ranges {
            match merged.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| *last >= start) => {
                    if last.is_some() && end.as_ref().is_none_or(|end| Some(end) > last.as_ref()) {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    fn covers(&self, span: &Span) -> bool {
        let start = span.start();
        let after = self.0.partition_point(|(first, _)| first <= start);
        let Some((_, end)) = after.checked_sub(1).map(|at| &self.0[at]) else { return false };
        match (span, end) {
            (_, None) => true,
            (Span::Key(key), Some(end)) => key < end,
            (Span::Between(from, to), Some(end)) => from < end && to <= end,
            (Span::From(_), Some(_)) => false,
        }
    }
}

fn range_of(permission: &Permission) -> (Bytes, Option<Bytes>) {
    let end = match &permission.range_end[..] {
        [] => Some([&permission.key[..], &[0]].concat().into()),
        [0] => None,
        _ => Some(permission.range_end.clone()),
    };
    (permission.key.clone(), end)
}

/// What one user may read and write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Permitted {
    read: Ranges,
    write: Ranges,
}

impl Permitted {
    /// What these roles permit together.
    pub fn by<'a>(roles: impl Iterator<Item = &'a Role>) -> Self {
        let all: Vec<&Permission> = roles.flat_map(|role| &role.permissions).collect();
        let of = |other: Access| Ranges::of(all.iter().copied().filter(|one| one.access != other));
        Self { read: of(Access::Write), write: of(Access::Read) }
    }

    pub fn reads(&self, span: &Span) -> bool {
        self.read.covers(span)
    }

    pub fn writes(&self, span: &Span) -> bool {
        self.write.covers(span)
    }
}
