//! The engine's answers as etcd's messages.

use crate::mvcc::{Answer, Change, KeyValue, QueryAnswer, TxnAnswer};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::response_op::Response;
use wire::etcd::mvccpb;
use wire::etcd::mvccpb::event::EventType;

pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

pub fn range(answer: QueryAnswer, header: Option<pb::ResponseHeader>) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: answer.kvs.into_iter().map(key_value).collect(),
        more: answer.more,
        count: answer.count,
    }
}

pub fn txn(answer: TxnAnswer, header: Option<pb::ResponseHeader>) -> pb::TxnResponse {
    let responses =
        answer.answers.into_iter().map(|answer| pb::ResponseOp { response: step(answer) }).collect();
    pb::TxnResponse { header, succeeded: answer.succeeded, responses }
}

/// Inside a transaction a header carries the revision and nothing else.
#[expect(clippy::unnecessary_wraps, reason = "a header is optional on the wire")]
fn inner(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}

fn step(answer: Answer) -> Option<Response> {
    Some(match answer {
        Answer::Query(answer) => {
            let header = inner(answer.revision);
            Response::ResponseRange(range(answer, header))
        }
        Answer::Put { revision, prev } => {
            Response::ResponsePut(pb::PutResponse { header: inner(revision), prev_kv: prev.map(key_value) })
        }
        Answer::Delete { revision, deleted, prev } => {
            Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                header: inner(revision),
                deleted,
                prev_kvs: prev.into_iter().map(key_value).collect(),
            })
        }
        Answer::Txn(answer) => {
            let header = inner(answer.revision);
            Response::ResponseTxn(txn(answer, header))
        }
        Answer::Done { .. } | Answer::Granted { .. } | Answer::Auth(_) => return None,
    })
}

pub fn event(change: Change) -> mvccpb::Event {
    let kind = if change.is_deletion { EventType::Delete } else { EventType::Put };
    mvccpb::Event { r#type: kind.into(), kv: Some(key_value(change.kv)), prev_kv: change.prev.map(key_value) }
}
