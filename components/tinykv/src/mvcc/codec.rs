//! The bytes of a command in the Raft log. Integers are little-endian, byte strings carry their
//! length, and decoding shares the input's memory.

use super::auth::{self, Caller, Origin};
use super::release::Release;
use super::types::{Alarm, Command, Compare, Delete, Op, Put, Query, Relation, SortBy, Span, Target, Txn};
use bytes::{Buf, BufMut, Bytes};

/// Why bytes are not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The bytes end too early.
    #[error("the command is cut short")]
    Short,
    /// A tag that no version wrote.
    #[error("unknown tag {1} for a {0}")]
    Tag(&'static str, u8),
    /// Bytes follow the command.
    #[error("{0} bytes follow the command")]
    Trailing(usize),
    /// Transactions inside transactions beyond reason.
    #[error("the command is nested too deeply")]
    Depth,
    /// A name that is no UTF-8.
    #[error("a name is no UTF-8")]
    Text,
}

/// First byte of every command: on whose behalf it is done, and so the form of what follows.
const BY_ANYONE: u8 = 1;
const BY_USER: u8 = 2;
const BY_MEMBER: u8 = 3;
/// The door refuses far shallower nesting than this.
const MAX_DEPTH: usize = 256;

/// The bytes of a command and of who gives it.
pub fn encode(origin: &Origin, command: &Command) -> Bytes {
    let mut out = Vec::with_capacity(64 + payload_of(command));
    match origin {
        Origin::Anyone => out.put_u8(BY_ANYONE),
        Origin::User(caller) => {
            out.put_u8(BY_USER);
            put_bytes(&mut out, caller.name.as_bytes());
            out.put_u64_le(caller.revision);
        }
        Origin::Member => out.put_u8(BY_MEMBER),
    }
    match command {
        Command::Put(put) => {
            out.put_u8(0);
            put_put(&mut out, put);
        }
        Command::Delete(delete) => {
            out.put_u8(1);
            put_delete(&mut out, delete);
        }
        Command::Txn(txn) => {
            out.put_u8(2);
            put_txn(&mut out, txn);
        }
        Command::Compact(revision) => {
            out.put_u8(3);
            out.put_i64_le(*revision);
        }
        Command::LeaseGrant { id, ttl } => {
            out.put_u8(4);
            out.put_i64_le(*id);
            out.put_i64_le(*ttl);
        }
        Command::LeaseRevoke(id) => {
            out.put_u8(5);
            out.put_i64_le(*id);
        }
        Command::AlarmRaise(member, alarm) => {
            out.put_u8(6);
            put_alarm(&mut out, *member, *alarm);
        }
        Command::AlarmClear(member, alarm) => {
            out.put_u8(7);
            put_alarm(&mut out, *member, *alarm);
        }
        Command::Auth(command) => {
            out.put_u8(8);
            auth::put_command(&mut out, command);
        }
        Command::Downgrade(target) => {
            out.put_u8(9);
            out.put_u8(u8::from(target.is_some()));
            if let Some(Release { major, minor }) = target {
                out.put_i64_le(*major);
                out.put_i64_le(*minor);
            }
        }
    }
    // It stays in memory for as long as Raft's log and watchers may need it: no more of it than it has.
    out.into_boxed_slice().into()
}

/// Bytes of keys and values that a command carries, as far as they make it long.
fn payload_of(command: &Command) -> usize {
    match command {
        Command::Put(put) => put.key.len() + put.value.len(),
        Command::Txn(txn) => txn_payload(txn),
        _ => 0,
    }
}

fn txn_payload(txn: &Txn) -> usize {
    let op = |op: &Op| match op {
        Op::Put(put) => put.key.len() + put.value.len() + 32,
        Op::Txn(txn) => txn_payload(txn),
        _ => 64,
    };
    64 * txn.compares.len() + txn.success.iter().chain(&txn.failure).map(op).sum::<usize>()
}

/// Reads a command back, and who gives it.
pub fn decode(bytes: &Bytes) -> Result<(Origin, Command), CommandError> {
    let mut reader = Reader::new(bytes.clone());
    let origin = match reader.u8()? {
        BY_ANYONE => Origin::Anyone,
        BY_USER => Origin::User(Caller { name: reader.text()?, revision: reader.u64()? }),
        BY_MEMBER => Origin::Member,
        other => return Err(CommandError::Tag("form", other)),
    };
    let command = match reader.u8()? {
        0 => Command::Put(reader.put()?),
        1 => Command::Delete(reader.delete()?),
        2 => Command::Txn(reader.txn()?),
        3 => Command::Compact(reader.i64()?),
        4 => Command::LeaseGrant { id: reader.i64()?, ttl: reader.i64()? },
        5 => Command::LeaseRevoke(reader.i64()?),
        6 => Command::AlarmRaise(reader.u64()?, reader.alarm()?),
        7 => Command::AlarmClear(reader.u64()?, reader.alarm()?),
        8 => Command::Auth(auth::get_command(&mut reader)?),
        9 => Command::Downgrade(match reader.u8()? {
            0 => None,
            1 => Some(Release { major: reader.i64()?, minor: reader.i64()? }),
            other => return Err(CommandError::Tag("release", other)),
        }),
        other => return Err(CommandError::Tag("command", other)),
    };
    reader.end((origin, command))
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_span(out: &mut Vec<u8>, span: &Span) {
    match span {
        Span::Key(key) => {
            out.put_u8(0);
            put_bytes(out, key);
        }
        Span::Between(from, to) => {
            out.put_u8(1);
            put_bytes(out, from);
            put_bytes(out, to);
        }
        Span::From(from) => {
            out.put_u8(2);
            put_bytes(out, from);
        }
    }
}

fn put_put(out: &mut Vec<u8>, put: &Put) {
    put_bytes(out, &put.key);
    put_bytes(out, &put.value);
    out.put_i64_le(put.lease);
    out.put_u8(u8::from(put.prev_kv) | u8::from(put.keep_value) << 1 | u8::from(put.keep_lease) << 2);
}

fn put_delete(out: &mut Vec<u8>, delete: &Delete) {
    put_span(out, &delete.span);
    out.put_u8(u8::from(delete.prev_kv));
}

fn put_query(out: &mut Vec<u8>, query: &Query) {
    put_span(out, &query.span);
    out.put_i64_le(query.revision);
    out.put_i64_le(query.limit);
    let sort = query.sort.map_or(0, |(by, descending)| {
        let by = match by {
            SortBy::Key => 1,
            SortBy::Version => 2,
            SortBy::Create => 3,
            SortBy::Mod => 4,
            SortBy::Value => 5,
        };
        by | u8::from(descending) << 7
    });
    out.put_u8(sort);
    let flags = [query.keys_only, query.count_only, query.limit_first];
    out.put_u8(flags.into_iter().zip(0..).map(|(flag, bit)| u8::from(flag) << bit).sum());
    for bound in [query.mod_bounds.0, query.mod_bounds.1, query.create_bounds.0, query.create_bounds.1] {
        out.put_i64_le(bound);
    }
}

fn put_txn(out: &mut Vec<u8>, txn: &Txn) {
    out.put_u32_le(txn.compares.len() as u32);
    for compare in &txn.compares {
        put_span(out, &compare.span);
        let (tag, number) = match &compare.target {
            Target::Version(number) => (0, *number),
            Target::Create(number) => (1, *number),
            Target::Mod(number) => (2, *number),
            Target::Value(_) => (3, 0),
            Target::Lease(number) => (4, *number),
        };
        out.put_u8(tag);
        match &compare.target {
            Target::Value(value) => put_bytes(out, value),
            _ => out.put_i64_le(number),
        }
        out.put_u8(match compare.relation {
            Relation::Equal => 0,
            Relation::Greater => 1,
            Relation::Less => 2,
            Relation::NotEqual => 3,
        });
    }
    for ops in [&txn.success, &txn.failure] {
        out.put_u32_le(ops.len() as u32);
        for op in ops {
            match op {
                Op::Query(query) => {
                    out.put_u8(0);
                    put_query(out, query);
                }
                Op::Put(put) => {
                    out.put_u8(1);
                    put_put(out, put);
                }
                Op::Delete(delete) => {
                    out.put_u8(2);
                    put_delete(out, delete);
                }
                Op::Txn(txn) => {
                    out.put_u8(3);
                    put_txn(out, txn);
                }
            }
        }
    }
}

fn put_alarm(out: &mut Vec<u8>, member: u64, alarm: Alarm) {
    out.put_u64_le(member);
    out.put_u8(match alarm {
        Alarm::NoSpace => 0,
        Alarm::Corrupt => 1,
    });
}

pub(super) struct Reader {
    bytes: Bytes,
    depth: usize,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, depth: 0 }
    }

    /// What was read, if that was all.
    pub fn end<T>(self, read: T) -> Result<T, CommandError> {
        match self.bytes.len() {
            0 => Ok(read),
            left => Err(CommandError::Trailing(left)),
        }
    }

    pub fn text(&mut self) -> Result<String, CommandError> {
        String::from_utf8(self.byte_string()?.into()).map_err(|_| CommandError::Text)
    }

    fn take(&mut self, size: usize) -> Result<Bytes, CommandError> {
        if self.bytes.len() < size { Err(CommandError::Short) } else { Ok(self.bytes.split_to(size)) }
    }

    pub fn u8(&mut self) -> Result<u8, CommandError> {
        Ok(self.take(1)?.get_u8())
    }

    fn i64(&mut self) -> Result<i64, CommandError> {
        Ok(self.take(8)?.get_i64_le())
    }

    pub fn u64(&mut self) -> Result<u64, CommandError> {
        Ok(self.take(8)?.get_u64_le())
    }

    pub fn count(&mut self) -> Result<usize, CommandError> {
        Ok(self.take(4)?.get_u32_le() as usize)
    }

    pub fn byte_string(&mut self) -> Result<Bytes, CommandError> {
        let size = self.count()?;
        self.take(size)
    }

    fn span(&mut self) -> Result<Span, CommandError> {
        Ok(match self.u8()? {
            0 => Span::Key(self.byte_string()?),
            1 => Span::Between(self.byte_string()?, self.byte_string()?),
            2 => Span::From(self.byte_string()?),
            other => return Err(CommandError::Tag("span", other)),
        })
    }

    fn put(&mut self) -> Result<Put, CommandError> {
        let (key, value, lease) = (self.byte_string()?, self.byte_string()?, self.i64()?);
        match self.u8()? {
            flags @ 0..8 => Ok(Put {
                key,
                value,
                lease,
                prev_kv: flags & 1 != 0,
                keep_value: flags & 2 != 0,
                keep_lease: flags & 4 != 0,
            }),
            other => Err(CommandError::Tag("put", other)),
        }
    }

    fn delete(&mut self) -> Result<Delete, CommandError> {
        Ok(Delete { span: self.span()?, prev_kv: self.u8()? != 0 })
    }

    fn query(&mut self) -> Result<Query, CommandError> {
        let span = self.span()?;
        let (revision, limit) = (self.i64()?, self.i64()?);
        let sort = self.u8()?;
        let by = match sort & 0x7F {
            0 => None,
            1 => Some(SortBy::Key),
            2 => Some(SortBy::Version),
            3 => Some(SortBy::Create),
            4 => Some(SortBy::Mod),
            5 => Some(SortBy::Value),
            other => return Err(CommandError::Tag("sort", other)),
        };
        let flags = self.u8()?;
        Ok(Query {
            span,
            revision,
            limit,
            sort: by.map(|by| (by, sort & 0x80 != 0)),
            limit_first: flags & 4 != 0,
            keys_only: flags & 1 != 0,
            count_only: flags & 2 != 0,
            mod_bounds: (self.i64()?, self.i64()?),
            create_bounds: (self.i64()?, self.i64()?),
        })
    }

    fn compare(&mut self) -> Result<Compare, CommandError> {
        let span = self.span()?;
        let target = match self.u8()? {
            0 => Target::Version(self.i64()?),
            1 => Target::Create(self.i64()?),
            2 => Target::Mod(self.i64()?),
            3 => Target::Value(self.byte_string()?),
            4 => Target::Lease(self.i64()?),
            other => return Err(CommandError::Tag("comparison", other)),
        };
        let relation = match self.u8()? {
            0 => Relation::Equal,
            1 => Relation::Greater,
            2 => Relation::Less,
            3 => Relation::NotEqual,
            other => return Err(CommandError::Tag("relation", other)),
        };
        Ok(Compare { span, target, relation })
    }

    fn txn(&mut self) -> Result<Txn, CommandError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(CommandError::Depth);
        }
        let mut compares = Vec::new();
        for _ in 0..self.count()? {
            compares.push(self.compare()?);
        }
        let (success, failure) = (self.ops()?, self.ops()?);
        self.depth -= 1;
        Ok(Txn { compares, success, failure })
    }

    fn ops(&mut self) -> Result<Vec<Op>, CommandError> {
        let mut ops = Vec::new();
        for _ in 0..self.count()? {
            ops.push(match self.u8()? {
                0 => Op::Query(self.query()?),
                1 => Op::Put(self.put()?),
                2 => Op::Delete(self.delete()?),
                3 => Op::Txn(self.txn()?),
                other => return Err(CommandError::Tag("step", other)),
            });
        }
        Ok(ops)
    }

    fn alarm(&mut self) -> Result<Alarm, CommandError> {
        match self.u8()? {
            0 => Ok(Alarm::NoSpace),
            1 => Ok(Alarm::Corrupt),
            other => Err(CommandError::Tag("alarm", other)),
        }
    }
}
