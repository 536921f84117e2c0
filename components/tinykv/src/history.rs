//! `tinykv log`: what the Raft log still holds, as JSON lines, so that a history can be judged from outside.

use crate::identity::{self, IdentityError};
use crate::mvcc::{
    self, Command, CommandError, Compare, Op, Origin, Put, Query, Relation, Span, Target, Txn,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use replication::log::{Entry, EntryKind, Log, LogError};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;

/// The one group of a member.
pub const GROUP: u32 = 0;
/// Bytes before a command that another member handed in: who waits for it.
const ORIGIN: usize = 16;

/// Why a log cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A member runs.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An entry of a form that this version does not know.
    #[error("entry {index} of the log is no command: {source}")]
    Command {
        /// Its index.
        index: u64,
        /// What is wrong with it.
        #[source]
        source: CommandError,
    },
    /// Nobody reads it.
    #[error("cannot write the log's entries: {0}")]
    Write(#[source] io::Error),
}

/// Writes a line for every entry that the segments below `data_dir` still hold, oldest first: purged ones too, withdrawn
/// ones not. The last ones may not be committed. Keys and values are in base64. The member must not run.
pub fn tell(data_dir: &Path, out: &mut impl Write) -> Result<(), HistoryError> {
    let _lock = identity::hold(data_dir)?;
    for entry in Log::history(&data_dir.join("log"), GROUP)?.into_values() {
        writeln!(out, "{}", line(&entry)?).map_err(HistoryError::Write)?;
    }
    out.flush().map_err(HistoryError::Write)
}

fn line(entry: &Entry) -> Result<Value, HistoryError> {
    let command = match (entry.kind, command(entry)?) {
        (_, Some((_, command))) => told(&command),
        (EntryKind::Membership, None) => json!("membership"),
        (_, None) => json!("blank"),
    };
    Ok(json!({"index": entry.id.index, "term": entry.id.term, "command": command}))
}

/// The command of an entry, and who gave it; none in an entry that is about the group itself.
pub fn command(entry: &Entry) -> Result<Option<(Origin, Command)>, HistoryError> {
    let start = match entry.kind {
        EntryKind::Blank | EntryKind::Membership => return Ok(None),
        EntryKind::Command => 0,
        EntryKind::Forwarded => ORIGIN.min(entry.payload.len()),
    };
    let read = mvcc::decode(&entry.payload.slice(start..));
    read.map(Some).map_err(|source| HistoryError::Command { index: entry.id.index, source })
}

fn told(command: &Command) -> Value {
    match command {
        Command::Put(put) => json!({"put": told_put(put)}),
        Command::Delete(delete) => json!({"delete": told_span(&delete.span)}),
        Command::Txn(txn) => json!({"txn": told_txn(txn)}),
        Command::Compact(revision) => json!({"compact": revision}),
        Command::LeaseGrant { id, ttl } => json!({"lease_grant": {"id": id, "ttl": ttl}}),
        Command::LeaseRevoke(id) => json!({"lease_revoke": id}),
        Command::AlarmRaise(member, alarm) => json!({"alarm_raise": [member, format!("{alarm:?}")]}),
        Command::AlarmClear(member, alarm) => json!({"alarm_clear": [member, format!("{alarm:?}")]}),
        Command::Downgrade(target) => json!({"downgrade": target.map(|target| target.to_string())}),
        // Hashes of passwords stay where they are.
        Command::Auth(_) => json!("auth"),
    }
}

fn told_put(put: &Put) -> Value {
    let mut told = json!({"key": text(&put.key), "value": text(&put.value), "lease": put.lease});
    for (name, set) in [("keep_value", put.keep_value), ("keep_lease", put.keep_lease)] {
        if set {
            told[name] = true.into();
        }
    }
    told
}

fn told_span(span: &Span) -> Value {
    match span {
        Span::Key(key) => json!({"key": text(key)}),
        Span::Between(from, to) => json!({"key": text(from), "end": text(to)}),
        Span::From(from) => json!({"key": text(from), "end": text(b"\0")}),
    }
}

fn told_query(query: &Query) -> Value {
    let mut told = told_span(&query.span);
    told["revision"] = query.revision.into();
    told["limit"] = query.limit.into();
    told["keys_only"] = query.keys_only.into();
    told
}

fn told_txn(txn: &Txn) -> Value {
    let steps = |ops: &[Op]| -> Vec<Value> { ops.iter().map(told_step).collect() };
    json!({
        "compare": txn.compares.iter().map(told_compare).collect::<Vec<_>>(),
        "success": steps(&txn.success),
        "failure": steps(&txn.failure),
    })
}

fn told_step(op: &Op) -> Value {
    match op {
        Op::Query(query) => json!({"range": told_query(query)}),
        Op::Put(put) => json!({"put": told_put(put)}),
        Op::Delete(delete) => json!({"delete": told_span(&delete.span)}),
        Op::Txn(txn) => json!({"txn": told_txn(txn)}),
    }
}

fn told_compare(compare: &Compare) -> Value {
    let mut told = told_span(&compare.span);
    told["is"] = match compare.relation {
        Relation::Equal => "=",
        Relation::Greater => ">",
        Relation::Less => "<",
        Relation::NotEqual => "!=",
    }
    .into();
    let (name, number) = match &compare.target {
        Target::Version(number) => ("version", json!(number)),
        Target::Create(number) => ("create", json!(number)),
        Target::Mod(number) => ("mod", json!(number)),
        Target::Value(value) => ("value", text(value)),
        Target::Lease(number) => ("lease", json!(number)),
    };
    told[name] = number;
    told
}

fn text(bytes: &[u8]) -> Value {
    BASE64.encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::{Caller, Delete};
    use bytes::Bytes;
    use replication::log::EntryId;

    fn told_by(kind: EntryKind, payload: Bytes) -> Result<Value, HistoryError> {
        line(&Entry { id: EntryId { term: 3, leader: 1, index: 7 }, kind, payload })
    }

    #[test]
    fn commands_are_told_whoever_gave_them_and_wherever_they_came_in() {
        let put = Put { key: "k".into(), value: "v".into(), lease: 9, ..Put::default() };
        let txn = Txn {
            compares: vec![Compare {
                span: Span::Key("k".into()),
                target: Target::Mod(4),
                relation: Relation::Equal,
            }],
            success: vec![
                Op::Put(put.clone()),
                Op::Delete(Delete { span: Span::From("k".into()), prev_kv: true }),
            ],
            failure: vec![Op::Query(Query::of(Span::Between("a".into(), "b".into())))],
        };
        let told_put = json!({"key": "aw==", "value": "dg==", "lease": 9});
        let told_txn = json!({
            "compare": [{"key": "aw==", "is": "=", "mod": 4}],
            "success": [{"put": told_put}, {"delete": {"key": "aw==", "end": "AA=="}}],
            "failure": [{"range": {"key": "YQ==", "end": "Yg==", "revision": 0, "limit": 0, "keys_only": false}}],
        });
        let user = Origin::User(Caller { name: "ann".into(), revision: 2 });
        for (origin, command, expected) in [
            (&Origin::Anyone, Command::Put(put), json!({"put": told_put})),
            (&user, Command::Txn(txn), json!({"txn": told_txn})),
            (&Origin::Member, Command::LeaseRevoke(9), json!({"lease_revoke": 9})),
            (&Origin::Anyone, Command::Compact(5), json!({"compact": 5})),
        ] {
            let expected = json!({"index": 7, "term": 3, "command": expected});
            let bytes = mvcc::encode(origin, &command);
            assert_eq!(told_by(EntryKind::Command, bytes.clone()).expect("readable"), expected);
            let forwarded = Bytes::from([&[0; ORIGIN][..], &bytes].concat());
            assert_eq!(told_by(EntryKind::Forwarded, forwarded).expect("readable"), expected);
        }
    }

    #[test]
    fn an_entry_that_is_no_command_is_named() {
        for (kind, payload) in [(EntryKind::Command, "\u{7f}"), (EntryKind::Forwarded, "short")] {
            let error = told_by(kind, Bytes::from(payload)).expect_err("no command");
            assert!(error.to_string().starts_with("entry 7 of the log is no command"), "{error}");
        }
    }
}
