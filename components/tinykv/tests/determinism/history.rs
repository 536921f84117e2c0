//! A seeded history over every kind of command. Its numbers are its own, so that no library's next version changes it.

use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use tinykv::mvcc::auth::{Access, Permission};
use tinykv::mvcc::{
    Alarm, AuthCommand, Caller, Change, Command, Compare, Delete, Keyspace, Op, Origin, Put, Query, Relation,
    SortBy, Span, Target, Txn, Values, encode,
};

/// Xorshift.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

/// Every value that was ever written; in place of a disk.
#[derive(Default)]
struct Written(HashMap<(Bytes, i64), Bytes>);

impl Values for Written {
    fn value(&self, key: &[u8], revision: i64) -> io::Result<Bytes> {
        let key = (Bytes::copy_from_slice(key), revision);
        self.0.get(&key).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

const KEYS: u64 = 120;
const LEASES: u64 = 12;
/// More than any history of this test has.
pub const ALL_IN_MEMORY: usize = 1 << 30;
pub const MIN_LEASE_TTL: i64 = 2;

struct Writer {
    random: Random,
    /// What the commands come to so far: the engine by itself, without a disk.
    keyspace: Keyspace,
    values: Written,
    /// Keys that a transaction has not written yet.
    unwritten: Vec<u64>,
}

/// Commands as the log holds them, and what the engine alone answered to each.
pub fn history(seed: u64, length: usize) -> Vec<(Bytes, String)> {
    let mut writer = Writer {
        random: Random::new(seed),
        keyspace: Keyspace::new(ALL_IN_MEMORY, MIN_LEASE_TTL),
        values: Written::default(),
        unwritten: Vec::new(),
    };
    (0..length).map(|_| writer.next()).collect()
}

impl Writer {
    fn next(&mut self) -> (Bytes, String) {
        let command = self.command();
        let origin = self.origin(&command);
        let mut changes = Vec::new();
        let outcome = self.keyspace.apply(&origin, &command, &self.values, &mut changes);
        let outcome = outcome.expect("every value is there");
        for Change { kv, .. } in changes {
            self.values.0.insert((kv.key, kv.mod_revision), kv.value);
        }
        self.keyspace.stored();
        (encode(&origin, &command), format!("{outcome:?}"))
    }

    fn origin(&mut self, command: &Command) -> Origin {
        let auth = self.keyspace.auth();
        let (enabled, revision) = (auth.enabled(), auth.revision());
        let of = |name: &str, revision| Origin::User(Caller { name: name.to_owned(), revision });
        match (command, self.random.below(20)) {
            // A lease runs out for the cluster; so does an alarm ring.
            (Command::LeaseRevoke(_), 0..10) | (Command::AlarmRaise(..) | Command::AlarmClear(..), _) => {
                Origin::Member
            }
            _ if !enabled => Origin::Anyone,
            (_, 0) => Origin::Anyone,
            (_, 1) => of("root", revision - 1),
            (_, 2..10) => of("ann", revision),
            _ => of("root", revision),
        }
    }

    fn command(&mut self) -> Command {
        self.unwritten = (0..KEYS).collect();
        let latest = self.keyspace.revision();
        let is_full = self.keyspace.alarms().contains(&(7, Alarm::NoSpace));
        match self.random.below(200) {
            0..84 => Command::Put(self.put()),
            84..104 => Command::Delete(self.delete()),
            104..124 if is_full => Command::AlarmClear(7, Alarm::NoSpace),
            104..154 => Command::Txn(self.txn(0)),
            154..166 => Command::LeaseGrant { id: self.lease(), ttl: self.random.below(100) as i64 },
            166..176 => Command::LeaseRevoke(self.lease()),
            176..179 => Command::Compact(latest - self.random.below(100) as i64 + 3),
            179 => Command::AlarmRaise(7, Alarm::NoSpace),
            180 => Command::AlarmRaise(8, Alarm::Corrupt),
            181 => Command::AlarmClear(8, Alarm::Corrupt),
            _ => Command::Auth(self.auth()),
        }
    }

    fn key(&mut self) -> Bytes {
        format!("{}/{:03}", if self.random.one_in(4) { "other" } else { "app" }, self.random.below(KEYS))
            .into()
    }

    fn lease(&mut self) -> i64 {
        1 + self.random.below(LEASES) as i64
    }

    fn span(&mut self) -> Span {
        match self.random.below(4) {
            0 => {
                let (one, other) = (self.key(), self.key());
                Span::Between(one.clone().min(other.clone()), one.max(other))
            }
            1 if self.random.one_in(4) => Span::From(self.key()),
            _ => Span::Key(self.key()),
        }
    }

    fn put(&mut self) -> Put {
        let key = self.key();
        let size = if self.random.one_in(10) { 4_000 } else { 100 };
        let (length, letter) = (self.random.below(size), b'a' + self.random.below(26) as u8);
        let lease = if self.random.one_in(4) { self.lease() } else { 0 };
        let (keep_value, keep_lease) = (self.random.one_in(12), lease == 0 && self.random.one_in(8));
        let value = if keep_value { Bytes::new() } else { vec![letter; length as usize].into() };
        Put { key, value, lease, prev_kv: self.random.one_in(3), keep_value, keep_lease }
    }

    fn delete(&mut self) -> Delete {
        Delete { span: self.span(), prev_kv: self.random.one_in(2) }
    }

    fn query(&mut self) -> Query {
        let back = self.random.below(60) as i64;
        let by = self.random.of(&[SortBy::Key, SortBy::Version, SortBy::Create, SortBy::Mod, SortBy::Value]);
        Query {
            revision: if self.random.one_in(3) { (self.keyspace.revision() - back).max(0) } else { 0 },
            limit: self.random.below(8) as i64,
            sort: self.random.one_in(2).then(|| (by, self.random.one_in(2))),
            keys_only: self.random.one_in(4),
            count_only: self.random.one_in(6),
            mod_bounds: (if self.random.one_in(5) { back } else { 0 }, 0),
            ..Query::of(self.span())
        }
    }

    /// What the door lets through: no key is written twice by one transaction.
    fn txn(&mut self, depth: u64) -> Txn {
        let compares = (0..self.random.below(3)).map(|_| self.compare()).collect();
        let success = self.ops(depth);
        Txn { compares, success, failure: self.ops(depth) }
    }

    fn ops(&mut self, depth: u64) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..self.random.below(4) {
            if self.unwritten.is_empty() {
                break;
            }
            let fresh = self.random.below(self.unwritten.len() as u64) as usize;
            let fresh = Bytes::from(format!("app/{:03}", self.unwritten.swap_remove(fresh)));
            ops.push(match self.random.below(6) {
                0 | 1 => Op::Query(self.query()),
                2 | 3 => Op::Put(Put { key: fresh, ..self.put() }),
                4 => Op::Delete(Delete { span: Span::Key(fresh), prev_kv: self.random.one_in(2) }),
                _ if depth < 2 => Op::Txn(self.txn(depth + 1)),
                _ => Op::Query(self.query()),
            });
        }
        ops
    }

    fn compare(&mut self) -> Compare {
        let number = self.random.below(4) as i64;
        let revision = self.random.below(self.keyspace.revision() as u64 + 1) as i64;
        let target = match self.random.below(5) {
            0 => Target::Version(number),
            1 => Target::Create(revision),
            2 => Target::Mod(revision),
            3 => Target::Value(vec![b'a' + number as u8; 3].into()),
            _ => Target::Lease(number),
        };
        let relation =
            self.random.of(&[Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual]);
        Compare { span: self.span(), target, relation }
    }

    fn auth(&mut self) -> AuthCommand {
        use AuthCommand as C;
        let name = self.random.of(&["root", "ann", "ben"]).to_owned();
        let role = self.random.of(&["root", "staff", "guests"]).to_owned();
        let spans: [(&[u8], &[u8]); 3] = [(b"app/", b"app0"), (b"other/001", b""), (b"a", b"\0")];
        let (key, range_end) = self.random.of(&spans);
        let (key, range_end) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(range_end));
        let password = Bytes::from(format!("hash {}", self.random.below(3)));
        match self.random.below(24) {
            0..3 => C::UserAdd { name, password, no_password: self.random.one_in(6) },
            3 => C::UserDelete { name },
            4 => C::UserChangePassword { name, password },
            5..9 => C::UserGrantRole { name, role },
            9 => C::UserRevokeRole { name, role },
            10..12 => C::RoleAdd { name: role },
            12 => C::RoleDelete { name: role },
            13..16 => {
                let access = self.random.of(&[Access::Read, Access::Write, Access::ReadWrite]);
                C::RoleGrantPermission { name: role, permission: Permission { access, key, range_end } }
            }
            16 => C::RoleRevokePermission { name: role, key, range_end },
            17 => C::Authenticate { name, token: "token".to_owned() },
            18..22 => C::Enable,
            _ => C::Disable,
        }
    }
}
