//! One log comes to one state: however its commands are batched, whatever reads, sweeps and snapshots go on beside them, wherever a
//! member starts again, dies, or takes over another one's snapshot, every command is answered alike and every member hashes alike.
//!
//! The history's numbers and what it comes to are committed: each machine that runs this is compared with all that did before.

mod history;

use bytes::Bytes;
use history::{ALL_IN_MEMORY, MIN_LEASE_TTL, Random, history};
use replication::StateMachine as _;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tinykv::mvcc::{self, Command, Delete, Keyspace, Origin, Put, Query, Span};
use tinykv::store::{KvMachine, Loaded, Shared, SharedParts};
use tinykv::tokens::Tokens;

const SEED: u64 = 20_261_121;
const LENGTH: usize = 10_000;
/// What the history comes to: its last revision, CRC-32C of its commands, of the answers and of the state (`HashKV`). Members of one
/// cluster compare the last one with each other, so a version that changes it cannot run beside one that does not: see to that first.
const EXPECTED: &str = "revision 3713, compacted 3635, commands 3c59a93b, answers 84a293f0, state 9be20b3a, users and leases af269271";

/// How a member comes through the history.
struct Way {
    name: &'static str,
    /// Commands that are applied at once, at most.
    batch: u64,
    /// Threads that read meanwhile.
    readers: usize,
    /// Threads that sweep what compactions leave, 0 for a member that never does.
    sweepers: usize,
    /// Bytes of values in memory.
    value_bytes: usize,
    /// One batch in so many is followed by a start, a kill, or a snapshot that a new member takes over; 0 is none.
    turns: u64,
}

const PLAIN: Way =
    Way { name: "one by one", batch: 1, readers: 0, sweepers: 0, value_bytes: ALL_IN_MEMORY, turns: 0 };
const WAYS: [Way; 5] = [
    PLAIN,
    Way { name: "all at once", batch: LENGTH as u64, ..PLAIN },
    Way {
        name: "values on disk, swept, read by one",
        batch: 7,
        readers: 1,
        sweepers: 1,
        value_bytes: 1_000,
        ..PLAIN
    },
    Way { name: "read by four, swept by four", batch: 300, readers: 4, sweepers: 4, ..PLAIN },
    Way {
        name: "starts, kills and snapshots",
        batch: 60,
        readers: 2,
        sweepers: 2,
        value_bytes: 20_000,
        turns: 8,
    },
];

/// A member without Raft: a state, and what goes on beside it.
struct Member {
    shared: Arc<Shared>,
    machine: KvMachine,
    beside: Option<tokio::runtime::Runtime>,
    stop: Arc<AtomicBool>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Member {
    fn open(dir: &Path, way: &Way) -> Self {
        let parts = SharedParts {
            value_bytes: way.value_bytes,
            cache_bytes: 1 << 20,
            min_lease_ttl: MIN_LEASE_TTL,
            recent_bytes: 1 << 16,
            figures: Arc::default(),
            tokens: Arc::new(Tokens::simple(Duration::from_mins(5))),
        };
        let shared = Shared::open(dir, parts).expect("the state opens");
        let beside = (way.sweepers > 0).then(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(way.sweepers).build().expect("threads");
            runtime.spawn(Arc::clone(&shared).sweep_forever());
            runtime
        });
        let stop = Arc::new(AtomicBool::new(false));
        let readers = (0..way.readers).map(|seed| reader(&shared, &stop, seed as u64)).collect();
        Self { machine: KvMachine(Arc::clone(&shared)), shared, beside, stop, readers }
    }

    /// One past the last command that the state holds.
    fn applied(&self) -> usize {
        let position = self.machine.position().expect("a position");
        position.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().expect("a number")) as usize)
    }

    fn close(self) {
        self.stop.store(true, Ordering::Release);
        for reader in self.readers {
            reader.join().expect("a reader reads");
        }
        self.shared.stop();
        drop(self.beside);
        let Self { shared, machine, .. } = self;
        drop(machine);
        assert_eq!(Arc::strong_count(&shared), 1, "nobody has the state any more");
    }
}

fn reader(shared: &Arc<Shared>, stop: &Arc<AtomicBool>, seed: u64) -> thread::JoinHandle<()> {
    let (shared, stop) = (Arc::clone(shared), Arc::clone(stop));
    thread::spawn(move || {
        let mut random = Random::new(seed);
        while !stop.load(Ordering::Acquire) {
            let revision = shared.with(Keyspace::revision);
            let back = random.below(50) as i64;
            let query = Query { revision: (revision - back).max(0), ..Query::of(Span::From("app/".into())) };
            // It may have been compacted, which is an answer.
            let _ = shared.query(&Origin::Member, &query).expect("the disk reads");
            thread::sleep(Duration::from_millis(1));
        }
    })
}

/// Copies a folder whose files may be changing; whether all were there to be copied.
fn copied(from: &Path, to: &Path) -> io::Result<bool> {
    fs::create_dir_all(to)?;
    let listed = || -> io::Result<Vec<(OsString, u64)>> {
        let sizes =
            fs::read_dir(from)?.map(|entry| entry.and_then(|it| Ok((it.file_name(), it.metadata()?.len()))));
        sizes
            .filter(|entry| !matches!(entry, Ok((name, _)) if name.to_string_lossy().starts_with("LOG")))
            .collect()
    };
    let before = listed()?;
    for (name, _) in &before {
        let (path, target) = (from.join(name), to.join(name));
        let whole = if path.is_dir() { copied(&path, &target)? } else { fs::copy(path, target).is_ok() };
        if !whole {
            return Ok(false);
        }
    }
    Ok(listed()? == before)
}

/// What a kill would leave of a folder. RocksDB tidies it beside, so a copy may have to be made again.
fn killed(place: &Path, fresh: &Path) {
    while !copied(place, fresh).unwrap_or(false) {
        fs::remove_dir_all(fresh).expect("folder");
    }
}

/// Brings a member through the history; answers what it came to.
fn go(log: &[(Bytes, String)], way: &Way) -> String {
    let dir = tempfile::tempdir().expect("dir");
    let mut place = dir.path().join("0");
    fs::create_dir(&place).expect("folder");
    let mut member = Member::open(&place, way);
    let mut random = Random::new(way.batch);
    let (mut next, mut turns) = (0, 0);
    while next < log.len() {
        let end = (next + 1 + random.below(way.batch) as usize).min(log.len());
        let commands = log[next..end].iter().map(|(command, _)| command.clone()).collect();
        let position = |at: usize| Bytes::copy_from_slice(&(at as u64).to_be_bytes());
        // A snapshot may be taken meanwhile, by another thread.
        let wanted = way.turns > 0 && random.one_in(way.turns);
        let snapshot = (wanted && random.one_in(2)).then(|| {
            let (checkpoint, path) =
                (member.machine.checkpointer(), dir.path().join(format!("snapshot-{turns}")));
            // Of nothing there is none.
            (next > 0).then(|| (path.clone(), thread::spawn(move || checkpoint(&path).expect("a snapshot"))))
        });
        let answers = member.machine.apply(commands, position(end)).expect("commands are applied");
        for (at, answer) in answers.iter().enumerate() {
            assert_eq!(format!("{answer:?}"), log[next + at].1, "{}: command {}", way.name, next + at);
        }
        next = end;
        if random.one_in(10) {
            // A change of members: it brings no command, and moves the position.
            member.machine.apply(Vec::new(), position(next)).expect("no command is applied");
        }
        if !wanted {
            continue;
        }
        turns += 1;
        let fresh = dir.path().join(turns.to_string());
        if let Some(Some((path, taken))) = snapshot {
            taken.join().expect("a snapshot is taken");
            member.close();
            fs::create_dir(&fresh).expect("folder");
            member = Member::open(&fresh, way);
            member.machine.restorer()(&path).expect("a snapshot is taken over");
            place = fresh;
        } else if random.one_in(2) {
            // Killed: what is on disk now is all there is.
            killed(&place, &fresh);
            member.close();
            member = Member::open(&fresh, way);
            place = fresh;
        } else {
            member.close();
            member = Member::open(&place, way);
        }
        let applied = member.applied();
        assert!(applied <= next, "{}: {applied} of {next} commands", way.name);
        next = applied;
    }
    assert!(way.turns == 0 || turns > 5, "{}: {turns} turns", way.name);
    let end = end_of(log, &member);
    member.close();
    end
}

fn end_of(log: &[(Bytes, String)], member: &Member) -> String {
    let (revision, compacted) = member.shared.with(|keyspace| (keyspace.revision(), keyspace.compacted()));
    if let Some(runtime) = &member.beside {
        runtime.block_on(member.shared.swept(compacted));
    }
    let over = |text: fn(&(Bytes, String)) -> &[u8]| {
        log.iter().fold(0, |crc, entry| crc32c::crc32c_append(crc, text(entry)))
    };
    let hash = member.shared.db().hash(revision, compacted).expect("the disk reads");
    let Loaded { leases, alarms, auth, .. } = member.shared.db().load().expect("the disk reads");
    let users: Vec<_> = auth.users().map(|name| (name, auth.user(name))).collect();
    let roles: Vec<_> = auth.roles().map(|name| (name, auth.role(name))).collect();
    let beside = format!("{leases:?} {alarms:?} {} {} {users:?} {roles:?}", auth.enabled(), auth.revision());
    let beside = crc32c::crc32c(beside.as_bytes());
    format!(
        "revision {revision}, compacted {compacted}, commands {:08x}, answers {:08x}, state {hash:08x}, users and leases {beside:08x}",
        over(|entry| &entry.0),
        over(|entry| entry.1.as_bytes()),
    )
}

#[test]
fn one_log_comes_to_one_state_on_every_machine_and_every_way_through_it() {
    let log = history(SEED, LENGTH);
    for kind in [
        "Put {",
        "Delete {",
        "Txn(",
        "Granted {",
        "Auth(",
        "Compacted",
        "LeaseNotFound",
        "NoSpace",
        "OldRevision",
        "PermissionDenied",
    ] {
        let times = log.iter().filter(|(_, answer)| answer.contains(kind)).count();
        assert!(times >= 20, "the history has hardly a {kind}: {times}");
    }
    for way in &WAYS {
        assert_eq!(go(&log, way), EXPECTED, "{}", way.name);
    }
}

/// A sweep that goes on while a batch is written forgets versions that the batch is about to put on disk. What it leaves there
/// comes to life when the key is deleted for good.
#[test]
fn what_was_swept_while_it_was_written_does_not_come_back() {
    const KEYS: usize = 3_000;
    let key = |number: usize| Bytes::from(format!("app/{number:05}"));
    let put = |number| {
        let (key, value) = (key(number), "v".into());
        Command::Put(Put { key, value, lease: 0, prev_kv: false, keep_value: false, keep_lease: false })
    };
    let delete = |number| Command::Delete(Delete { span: Span::Key(key(number)), prev_kv: false });
    let batches = (0..20).map(|round: i64| -> Vec<Bytes> {
        // Each batch brings the store two revisions a key further, or one, and compacts there.
        let (writes, further) = (2 * KEYS as i64, 3 * KEYS as i64);
        let end = |half: i64| Command::Compact(1 + round / 2 * further + writes + half * KEYS as i64);
        let commands: Vec<Command> = if round % 2 == 0 {
            (0..KEYS).flat_map(|number| [put(number), put(number)]).chain([end(0)]).collect()
        } else {
            (0..KEYS).map(delete).chain([end(1)]).collect()
        };
        // They change nothing, and the batch is not on disk before they are done.
        let idle = std::iter::repeat_n(delete(KEYS), 2 * KEYS);
        commands.into_iter().chain(idle).map(|command| mvcc::encode(&Origin::Anyone, &command)).collect()
    });
    let dir = tempfile::tempdir().expect("dir");
    let way = Way { name: "swept", batch: 0, sweepers: 1, ..PLAIN };
    let mut member = Member::open(dir.path(), &way);
    for (position, batch) in (1_u64..).zip(batches) {
        let answers = member.machine.apply(batch, Bytes::copy_from_slice(&position.to_be_bytes()));
        let refused = answers.expect("commands are applied").iter().filter(|answer| answer.is_err()).count();
        assert_eq!(refused, 0);
    }
    let compacted = member.shared.with(Keyspace::compacted);
    member.beside.as_ref().expect("it sweeps").block_on(member.shared.swept(compacted));
    member.close();
    let member = Member::open(dir.path(), &PLAIN);
    assert_eq!(member.shared.with(Keyspace::keys), 0, "all keys are deleted");
    member.close();
}
