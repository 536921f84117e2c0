//! Requests: checked as etcd checks them, turned into the engine's own.

use crate::mvcc::{Compare, Delete, Op, Put, Query, Relation, SortBy, Span, Target, Txn};
use bytes::Bytes;
use std::collections::HashSet;
use tonic::Status;
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use wire::etcd::etcdserverpb::range_request::{SortOrder, SortTarget};
use wire::etcd::etcdserverpb::request_op::Request;

fn invalid(text: &str) -> Status {
    Status::invalid_argument(text)
}

fn empty_key() -> Status {
    invalid("etcdserver: key is not provided")
}

fn duplicate_key() -> Status {
    invalid("etcdserver: duplicate key given in txn request")
}

/// The keys that a request means: no end is one key, an end of one zero byte is "from here on".
pub fn span(key: Bytes, range_end: Bytes) -> Span {
    match &range_end[..] {
        [] => Span::Key(key),
        [0] => Span::From(key),
        _ => Span::Between(key, range_end),
    }
}

pub fn query(request: pb::RangeRequest) -> Result<Query, Status> {
    if request.key.is_empty() {
        return Err(empty_key());
    }
    let unknown = |_| invalid("etcdserver: invalid sort option");
    let order = SortOrder::try_from(request.sort_order).map_err(unknown)?;
    let by = match SortTarget::try_from(request.sort_target).map_err(unknown)? {
        SortTarget::Key => SortBy::Key,
        SortTarget::Version => SortBy::Version,
        SortTarget::Create => SortBy::Create,
        SortTarget::Mod => SortBy::Mod,
        SortTarget::Value => SortBy::Value,
    };
    let sort = match (by, order) {
        (SortBy::Key, SortOrder::None | SortOrder::Ascend) => None,
        (by, order) => Some((by, order == SortOrder::Descend)),
    };
    Ok(Query {
        span: span(request.key, request.range_end),
        revision: request.revision,
        limit: request.limit,
        sort,
        limit_first: order == SortOrder::None && sort.is_some(),
        keys_only: request.keys_only,
        count_only: request.count_only,
        mod_bounds: (request.min_mod_revision, request.max_mod_revision),
        create_bounds: (request.min_create_revision, request.max_create_revision),
    })
}

pub fn put(request: pb::PutRequest) -> Result<Put, Status> {
    if request.key.is_empty() {
        return Err(empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(invalid("etcdserver: value is provided"));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(invalid("etcdserver: lease is provided"));
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        keep_value: request.ignore_value,
        keep_lease: request.ignore_lease,
    })
}

pub fn delete(request: pb::DeleteRangeRequest) -> Result<Delete, Status> {
    if request.key.is_empty() {
        return Err(empty_key());
    }
    Ok(Delete { span: span(request.key, request.range_end), prev_kv: request.prev_kv })
}

/// A transaction; `max_ops` bounds the conditions or steps along one path through it.
pub fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, Status> {
    let txn = unchecked_txn(request, max_ops)?;
    check_overlaps(&txn.success)?;
    check_overlaps(&txn.failure)?;
    Ok(txn)
}

fn unchecked_txn(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, Status> {
    let here = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left =
        max_ops.checked_sub(here).ok_or_else(|| invalid("etcdserver: too many operations in txn request"))?;
    let compares = request.compare.into_iter().map(compare).collect::<Result<_, _>>()?;
    let ops = |ops: Vec<pb::RequestOp>| ops.into_iter().map(|step| op(step, left)).collect::<Result<_, _>>();
    Ok(Txn { compares, success: ops(request.success)?, failure: ops(request.failure)? })
}

fn op(request: pb::RequestOp, max_ops: usize) -> Result<Op, Status> {
    Ok(match request.request {
        Some(Request::RequestRange(request)) => Op::Query(query(request)?),
        Some(Request::RequestPut(request)) => Op::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => Op::Delete(delete(request)?),
        Some(Request::RequestTxn(request)) => Op::Txn(unchecked_txn(request, max_ops)?),
        None => return Err(invalid("etcdserver: key not found")),
    })
}

fn compare(request: pb::Compare) -> Result<Compare, Status> {
    if request.key.is_empty() {
        return Err(empty_key());
    }
    let unknown = |_| invalid("etcdserver: unknown comparison in txn request");
    let relation = match CompareResult::try_from(request.result).map_err(unknown)? {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    // A union of another kind than the target counts as absent.
    let union = request.target_union;
    let target = match CompareTarget::try_from(request.target).map_err(unknown)? {
        CompareTarget::Version => Target::Version(match union {
            Some(TargetUnion::Version(number)) => number,
            _ => 0,
        }),
        CompareTarget::Create => Target::Create(match union {
            Some(TargetUnion::CreateRevision(number)) => number,
            _ => 0,
        }),
        CompareTarget::Mod => Target::Mod(match union {
            Some(TargetUnion::ModRevision(number)) => number,
            _ => 0,
        }),
        CompareTarget::Lease => Target::Lease(match union {
            Some(TargetUnion::Lease(number)) => number,
            _ => 0,
        }),
        CompareTarget::Value => Target::Value(match union {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
    };
    Ok(Compare { span: span(request.key, request.range_end), target, relation })
}

type Writes<'a> = (HashSet<&'a Bytes>, Vec<&'a Span>);

/// No key may be written twice, or written and deleted, on one path. Two branches of one nested
/// transaction never both run, so they may write the same key.
fn check_overlaps(ops: &[Op]) -> Result<Writes<'_>, Status> {
    let mut deleted: Vec<&Span> = Vec::new();
    let mut written: HashSet<&Bytes> = HashSet::new();
    for op in ops {
        if let Op::Delete(delete) = op {
            deleted.push(&delete.span);
        }
    }
    for op in ops {
        let Op::Txn(txn) = op else { continue };
        let (then_written, then_deleted) = check_overlaps(&txn.success)?;
        let (else_written, else_deleted) = check_overlaps(&txn.failure)?;
        for key in &then_written {
            if written.contains(key) || covers(&deleted, key) {
                return Err(duplicate_key());
            }
        }
        for key in &else_written {
            if (written.contains(key) && !then_written.contains(key)) || covers(&deleted, key) {
                return Err(duplicate_key());
            }
        }
        // etcd lets a later nested transaction delete what an earlier one wrote; here a revision
        // holds one change of a key, so that is refused as well.
        if written.iter().any(|key| covers(&then_deleted, key) || covers(&else_deleted, key)) {
            return Err(duplicate_key());
        }
        written.extend(then_written);
        written.extend(else_written);
        deleted.extend(then_deleted);
        deleted.extend(else_deleted);
    }
    for op in ops {
        if let Op::Put(put) = op
            && (covers(&deleted, &put.key) || !written.insert(&put.key))
        {
            return Err(duplicate_key());
        }
    }
    Ok((written, deleted))
}

fn covers(spans: &[&Span], key: &Bytes) -> bool {
    spans.iter().any(|span| span.contains(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str) -> pb::RequestOp {
        let put = pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..pb::PutRequest::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn erase(key: &str, end: &str) -> pb::RequestOp {
        let of = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let delete = pb::DeleteRangeRequest { key: of(key), range_end: of(end), prev_kv: false };
        pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn either(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    #[test]
    fn a_path_changes_a_key_once() {
        let table = [
            (vec![write("a"), write("b")], true),
            (vec![write("a"), write("a")], false),
            (vec![write("a"), erase("a", "")], false),
            (vec![erase("a", "c"), write("b")], false),
            (vec![erase("a", "c"), write("c")], true),
            (vec![erase("a", "\0"), write("z")], false),
            (vec![erase("a", "c"), erase("b", "d")], true),
            (vec![write("a"), either(vec![write("a")], vec![])], false),
            (vec![either(vec![write("a")], vec![write("a")])], true),
            (vec![either(vec![write("a")], vec![erase("a", "")])], true),
            (vec![either(vec![write("a")], vec![]), either(vec![], vec![write("a")])], false),
            (vec![either(vec![write("a")], vec![]), either(vec![], vec![erase("a", "")])], false),
            (vec![either(vec![erase("a", "")], vec![]), either(vec![write("a")], vec![])], false),
        ];
        for (success, fine) in table {
            let request = pb::TxnRequest { success: success.clone(), ..pb::TxnRequest::default() };
            assert_eq!(txn(request, 128).is_ok(), fine, "{success:?}");
        }
    }

    #[test]
    fn deep_nesting_is_checked_in_no_time_and_bounded() {
        let mut op = either(vec![write("a")], vec![erase("a", "")]);
        for _ in 0..90 {
            op = either(vec![op], vec![]);
        }
        let request = pb::TxnRequest { success: vec![op], ..pb::TxnRequest::default() };
        assert!(txn(request.clone(), 128).is_ok());
        assert!(txn(request, 64).is_err_and(|status| status.message().contains("too many operations")));
    }

    #[test]
    fn an_end_of_one_zero_byte_means_from_here_on() {
        let of = |end: &'static [u8]| span(Bytes::from_static(b"k"), Bytes::from_static(end));
        assert_eq!(of(b""), Span::Key("k".into()));
        assert_eq!(of(b"\0"), Span::From("k".into()));
        assert_eq!(of(b"l"), Span::Between("k".into(), "l".into()));
    }
}
