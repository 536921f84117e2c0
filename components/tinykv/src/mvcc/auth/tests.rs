//! Users, roles and permissions, as tables.

use super::*;
use crate::mvcc::{
    Command, Compare, Delete, Keyspace, Op, Put, Query, Refusal, Relation, Span, Target, Txn, Values,
};
use std::io;

struct NoDisk;

impl Values for NoDisk {
    fn value(&self, _: &[u8], _: i64) -> io::Result<Bytes> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn apply(keyspace: &mut Keyspace, by: &Origin, command: &Command) -> Result<(), Refusal> {
    let encoded = crate::mvcc::encode(by, command);
    assert_eq!(crate::mvcc::decode(&encoded), Ok((by.clone(), command.clone())), "it survives the log");
    keyspace.apply(by, command, &NoDisk, &mut Vec::new()).expect("all values are in memory").map(drop)
}

fn grant(role: &str, access: Access, key: &str, range_end: &str) -> AuthCommand {
    let permission = Permission { access, key: bytes(key), range_end: bytes(range_end) };
    AuthCommand::RoleGrantPermission { name: role.to_owned(), permission }
}

fn user(name: &str) -> AuthCommand {
    AuthCommand::UserAdd { name: name.to_owned(), password: bytes("hash"), no_password: false }
}

fn give(name: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { name: name.to_owned(), role: role.to_owned() }
}

fn by(keyspace: &Keyspace, name: &str) -> Origin {
    Origin::User(Caller { name: name.to_owned(), revision: keyspace.auth().revision() })
}

/// Root, and ann, who reads and writes [a, c), reads [c, e) and writes m.
fn guarded() -> Keyspace {
    let mut keyspace = Keyspace::new(1 << 20, 2);
    for command in [
        user("root"),
        give("root", "root"),
        user("ann"),
        AuthCommand::RoleAdd { name: "staff".to_owned() },
        grant("staff", Access::ReadWrite, "a", "c"),
        grant("staff", Access::Read, "c", "e"),
        grant("staff", Access::Write, "m", ""),
        give("ann", "staff"),
        AuthCommand::Enable,
    ] {
        apply(&mut keyspace, &Origin::Anyone, &Command::Auth(command)).expect("nobody is asked yet");
    }
    keyspace
}

fn put(key: &str) -> Put {
    Put { key: bytes(key), value: bytes("v"), ..Put::default() }
}

fn between(from: &str, to: &str) -> Span {
    Span::Between(bytes(from), bytes(to))
}

fn txn(success: Vec<Op>) -> Command {
    Command::Txn(Txn { success, ..Txn::default() })
}

#[test]
fn permissions_of_neighbouring_ranges_are_one() {
    let keyspace = guarded();
    let ann = by(&keyspace, "ann");
    let table = [
        (Span::Key(bytes("a")), true, true),
        (Span::Key(bytes("b\u{7f}")), true, true),
        (Span::Key(bytes("c")), true, false),
        (Span::Key(bytes("e")), false, false),
        (Span::Key(bytes("m")), false, true),
        (Span::Key(bytes("ma")), false, false),
        (between("a", "e"), true, false),
        (between("a", "c"), true, true),
        (between("a", "f"), false, false),
        (between("m", "n"), false, false),
        (Span::From(bytes("a")), false, false),
        (Span::From(bytes("\0")), false, false),
    ];
    for (span, reads, writes) in table {
        assert_eq!(keyspace.auth().check_read(&ann, &span).is_ok(), reads, "read {span:?}");
        assert_eq!(keyspace.auth().check_write(&ann, &span).is_ok(), writes, "write {span:?}");
    }
}

#[test]
fn nothing_leaks_through_what_a_command_carries() {
    let mut keyspace = guarded();
    let root = by(&keyspace, "root");
    for command in [
        Command::Put(put("secret")),
        Command::LeaseGrant { id: 7, ttl: 60 },
        Command::Put(Put { lease: 7, ..put("secret2") }),
        Command::LeaseGrant { id: 8, ttl: 60 },
        Command::Put(Put { lease: 8, ..put("a") }),
    ] {
        apply(&mut keyspace, &root, &command).expect("root may do everything");
    }
    let query = |span| Op::Query(Query::of(span));
    let delete = |span, prev_kv| Delete { span, prev_kv };
    let compare = Compare {
        span: Span::Key(bytes("secret")),
        target: Target::Value(bytes("guess")),
        relation: Relation::Equal,
    };
    let nested = |op: Op| Op::Txn(Txn { failure: vec![op], ..Txn::default() });
    let table = [
        (Command::Put(put("b")), true),
        (Command::Put(put("c")), false),
        (Command::Put(Put { prev_kv: true, ..put("a") }), true),
        (Command::Put(Put { prev_kv: true, ..put("m") }), false),
        (Command::Put(Put { lease: 8, ..put("b") }), true),
        (Command::Put(Put { lease: 7, ..put("b") }), false),
        (Command::Delete(delete(between("a", "c"), true)), true),
        (Command::Delete(delete(Span::Key(bytes("m")), false)), true),
        (Command::Delete(delete(Span::Key(bytes("m")), true)), false),
        (txn(vec![Op::Put(put("b"))]), true),
        (txn(vec![query(Span::Key(bytes("secret")))]), false),
        (txn(vec![nested(query(Span::Key(bytes("secret"))))]), false),
        (txn(vec![nested(nested(Op::Put(put("c"))))]), false),
        (txn(vec![Op::Put(Put { prev_kv: true, ..put("m") })]), false),
        (txn(vec![nested(Op::Put(Put { lease: 7, ..put("b") }))]), false),
        (txn(vec![Op::Delete(delete(Span::From(bytes("a")), false))]), false),
        (Command::Txn(Txn { compares: vec![compare], ..Txn::default() }), false),
        (Command::LeaseRevoke(7), false),
    ];
    let ann = by(&keyspace, "ann");
    for (command, allowed) in &table {
        let expected = if *allowed { Ok(()) } else { Err(AuthError::PermissionDenied.into()) };
        assert_eq!(apply(&mut keyspace, &ann, command), expected, "{command:?}");
        let nobody = apply(&mut keyspace, &Origin::Anyone, command);
        assert_eq!(nobody, Err(AuthError::UserEmpty.into()), "{command:?}");
    }
    let read = Txn { success: vec![nested(query(Span::Key(bytes("secret"))))], ..Txn::default() };
    assert_eq!(
        keyspace.read_txn(&ann, &read, &NoDisk).expect("read"),
        Err(AuthError::PermissionDenied.into())
    );
    apply(&mut keyspace, &Origin::Member, &Command::LeaseRevoke(7)).expect("time ends every lease");
}

#[test]
fn root_is_not_lost_while_it_is_needed() {
    let mut keyspace = Keyspace::new(1 << 20, 2);
    let refused = |keyspace: &mut Keyspace, by: &Origin, command: AuthCommand, why: AuthError| {
        let before = keyspace.auth().clone();
        assert_eq!(apply(keyspace, by, &Command::Auth(command.clone())), Err(why.into()), "{command:?}");
        assert_eq!(keyspace.auth(), &before, "{command:?}");
    };
    let anyone = Origin::Anyone;
    refused(&mut keyspace, &anyone, AuthCommand::Enable, AuthError::RootUserMissing);
    apply(&mut keyspace, &anyone, &Command::Auth(user("root"))).expect("added");
    refused(&mut keyspace, &anyone, AuthCommand::Enable, AuthError::RootRoleMissing);
    refused(&mut keyspace, &anyone, give("root", "nobody"), AuthError::RoleNotFound);
    let mut keyspace = guarded();
    let (root, ann) = (by(&keyspace, "root"), by(&keyspace, "ann"));
    let name = || "root".to_owned();
    let table = [
        (&root, AuthCommand::UserDelete { name: name() }, AuthError::InvalidManagement),
        (&root, AuthCommand::RoleDelete { name: name() }, AuthError::InvalidManagement),
        (&root, AuthCommand::UserRevokeRole { name: name(), role: name() }, AuthError::InvalidManagement),
        (&root, user("ann"), AuthError::UserExists),
        (&root, user(""), AuthError::UserEmpty),
        (&root, grant("staff", Access::Read, "", ""), AuthError::InvalidManagement),
        (&root, grant("staff", Access::Read, "b", "a"), AuthError::InvalidManagement),
        (&ann, AuthCommand::Disable, AuthError::PermissionDenied),
        (&ann, user("eve"), AuthError::PermissionDenied),
        (&anyone, AuthCommand::Disable, AuthError::UserEmpty),
    ];
    for (by, command, why) in table {
        refused(&mut keyspace, by, command, why);
    }
    let old = by(&keyspace, "ann");
    apply(&mut keyspace, &root, &Command::Auth(AuthCommand::RoleDelete { name: "staff".into() }))
        .expect("deleted");
    assert!(keyspace.auth().user("ann").is_some_and(|user| user.roles.is_empty()));
    assert_eq!(apply(&mut keyspace, &old, &Command::Put(put("b"))), Err(AuthError::OldRevision.into()));
    let ann = by(&keyspace, "ann");
    assert_eq!(apply(&mut keyspace, &ann, &Command::Put(put("b"))), Err(AuthError::PermissionDenied.into()));
    apply(&mut keyspace, &root, &Command::Auth(AuthCommand::Disable)).expect("disabled");
    apply(&mut keyspace, &Origin::Anyone, &Command::Put(put("b"))).expect("nobody is asked");
}

#[test]
fn records_read_back() {
    let keyspace = guarded();
    for name in ["root", "ann"] {
        let user = keyspace.auth().user(name).expect("there");
        assert_eq!(parse_user(user_record(user).into()).as_ref(), Ok(user));
    }
    let role = keyspace.auth().role("staff").expect("there");
    let record = Bytes::from(role_record(role));
    assert_eq!(parse_role(record.clone()).as_ref(), Ok(role));
    for end in 0..record.len() {
        assert!(parse_role(record.slice(..end)).is_err());
    }
}
