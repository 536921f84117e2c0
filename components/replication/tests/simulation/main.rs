//! Stories of groups of several members, on virtual time, a seeded network and seeded disks. Each
//! names its seed when it fails; `REPLICATION_SEED` runs that one alone, `REPLICATION_SEEDS` so
//! many.

mod changes;
mod cluster;
mod disk;
mod journal;
mod network;
mod runtime;
mod watched;

use bytes::Bytes;
use cluster::{Cluster, Operation};
use replication::NodeId;
use runtime::{draw, now, simulate, sleep, spawn_for, timeout};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

fn seeds(default: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("REPLICATION_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("REPLICATION_SEEDS").unwrap_or(default)).collect(),
    }
}

/// Runs a story of three founders under each seed, and says which one failed.
fn tell<F>(seeds: Vec<u64>, story: impl Fn(Cluster) -> F)
where
    F: Future<Output = String> + Send + 'static,
{
    simulate_each(seeds, &[1, 2, 3], story);
}

/// Runs a story of `founders` under each seed, and says which one failed.
fn simulate_each<F>(seeds: Vec<u64>, founders: &[NodeId], story: impl Fn(Cluster) -> F)
where
    F: Future<Output = String> + Send + 'static,
{
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed under REPLICATION_SEED={}", self.0);
            }
        }
    }
    let memory = std::path::Path::new("/dev/shm");
    for seed in seeds {
        let named = Seed(seed);
        let dir = if memory.exists() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.expect("dir");
        let cluster = Cluster::new(dir.path().to_owned(), founders);
        let story = story(cluster.clone());
        let said = simulate(seed, async move {
            let told = timeout(Duration::from_mins(20), story).await;
            assert!(told.is_ok(), "the story does not end: {}", cluster.describe());
            told.unwrap_or_default()
        });
        println!("seed {seed}: {said}");
        drop(named);
    }
}

/// Every answer fits the one order that the journal gives, and that order fits real time.
fn check(history: &[Operation], journal: &[u64]) -> String {
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, command) in journal.iter().enumerate() {
        assert!(places.insert(*command, at + 1).is_none(), "command {command:x} was applied twice");
    }
    // What each operation puts in order: when it began, when it ended, where it stands; a write
    // stands past everything that ended before it began, a read not before it.
    let mut points: Vec<(Duration, Option<Duration>, usize, bool)> = Vec::new();
    let (mut acknowledged, mut reads, mut unknown) = (0, 0, 0);
    for operation in history {
        match operation {
            Operation::Write { start, end, command, position } => {
                let place = places.get(command);
                assert_eq!(place, Some(position), "an acknowledged write is not where it was said to be");
                points.push((*start, Some(*end), *position, true));
                acknowledged += 1;
            }
            Operation::Maybe { start, command } => {
                if let Some(place) = places.get(command) {
                    points.push((*start, None, *place, true));
                }
                unknown += 1;
            }
            Operation::Read { start, end, length, last } => {
                let expected = length.checked_sub(1).map_or(0, |at| journal[at]);
                assert_eq!(*last, expected, "a read saw what was not there");
                points.push((*start, Some(*end), *length, false));
                reads += 1;
            }
        }
    }
    let mut ended: Vec<(Duration, usize)> =
        points.iter().filter_map(|(_, end, place, _)| end.map(|end| (end, *place))).collect();
    ended.sort_unstable();
    points.sort_unstable();
    let (mut furthest, mut next) = (0, 0);
    for (start, _, place, is_write) in points {
        while next < ended.len() && ended[next].0 < start {
            furthest = furthest.max(ended[next].1);
            next += 1;
        }
        let fits = if is_write { place > furthest } else { place >= furthest };
        assert!(
            fits,
            "an operation begun at {start:?} stands at {place}, after something seen at {furthest}"
        );
    }
    format!("{acknowledged} writes acknowledged, {unknown} unknown, {reads} reads, {} applied", journal.len())
}

/// One trouble after another until `until`.
async fn trouble(cluster: Cluster, until: Duration, told: &mut String) {
    while now() < until {
        sleep(Duration::from_millis(draw(300..3_000))).await;
        let victim: NodeId = draw(1..4);
        let other = victim % 3 + 1;
        match draw(0..9) {
            0 | 1 => {
                let _ = write!(told, "crash {victim}; ");
                cluster.crash(victim);
                sleep(Duration::from_millis(draw(10..4_000))).await;
                cluster.start(victim).await;
            }
            2 => {
                let _ = write!(told, "isolate {victim}; ");
                for node in 1..4 {
                    cluster.net.cut(victim, node);
                    cluster.net.cut(node, victim);
                }
                sleep(Duration::from_millis(draw(500..6_000))).await;
                cluster.net.heal();
            }
            3 => {
                let _ = write!(told, "cut {victim} to {other}; ");
                cluster.net.cut(victim, other);
                sleep(Duration::from_millis(draw(500..6_000))).await;
                cluster.net.heal();
            }
            4 => {
                let _ = write!(told, "bad weather; ");
                cluster.net.weather(draw(1..100), draw(1_000..400_000));
                sleep(Duration::from_millis(draw(500..5_000))).await;
                cluster.net.heal();
            }
            5 => {
                let Some(node) = cluster.node(victim) else { continue };
                let _ = write!(told, "tear {victim}; ");
                node.disk.tear_next_write();
                // It dies of its next write, if there is one.
                let died = timeout(Duration::from_secs(2), node.group.stopped()).await.is_ok();
                if died {
                    cluster.crash(victim);
                    cluster.start(victim).await;
                }
            }
            6 => {
                let Some(leader) = cluster.leader() else { continue };
                let _ = write!(told, "crash the leader {leader}; ");
                cluster.crash(leader);
                sleep(Duration::from_millis(draw(10..3_000))).await;
                cluster.start(leader).await;
            }
            7 => {
                let _ = write!(told, "crash all; ");
                for node in 1..4 {
                    cluster.crash(node);
                }
                for node in 1..4 {
                    cluster.start(node).await;
                }
            }
            _ => {
                let Some(node) = cluster.leader().and_then(|leader| cluster.node(leader)) else { continue };
                let _ = write!(told, "hand over to {victim}; ");
                // It may lose the leadership meanwhile, or be asked to hand over to itself.
                let _ = timeout(Duration::from_secs(3), node.group.transfer_leader(victim)).await;
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_reads_are_linearizable_whatever_happens() {
    tell(seeds(12), |cluster| async move {
        for node in 1..4 {
            cluster.start(node).await;
        }
        let until = now() + Duration::from_mins(1);
        for number in 1..6 {
            spawn_for(0, cluster.clone().client(number, until));
        }
        let mut told = String::new();
        trouble(cluster.clone(), until, &mut told).await;
        cluster.net.heal();
        for node in 1..4 {
            if cluster.node(node).is_none() {
                cluster.start(node).await;
            }
        }
        sleep(Duration::from_secs(4)).await;
        let journal = cluster.settled().await;
        let history = cluster.history.lock().clone();
        assert!(!history.is_empty());
        println!("{told}");
        check(&history, &journal)
    });
}

/// What followers said to a leader before they followed another reaches it late, behind a connection that sends again: it is
/// no proof that they follow it still.
#[test]
fn a_leader_that_hears_nobody_for_a_while_lets_no_read_of_the_past_through() {
    tell(seeds(40), |cluster| async move {
        for node in 1..4 {
            cluster.start(node).await;
        }
        let old = cluster.led().await;
        let node = cluster.node(old).expect("it leads");
        let propose = |node: &cluster::Node, command: u64| {
            let group = std::sync::Arc::clone(&node.group);
            async move { group.propose(Bytes::copy_from_slice(&command.to_le_bytes())).await }
        };
        propose(&node, 1).await.expect("led");
        let others: Vec<_> = (1..4).filter(|other| *other != old).collect();
        for other in &others {
            cluster.net.cut(*other, old);
        }
        for command in 2..5 {
            let waits = propose(&node, command);
            // It may be given up with the leadership.
            spawn_for(0, async move { drop(waits.await) });
            sleep(Duration::from_millis(draw(1..20))).await;
        }
        sleep(Duration::from_millis(draw(5..100))).await;
        // What it cannot know to have arrived, it does not go on sending.
        for other in &others {
            cluster.net.cut(old, *other);
        }
        let heir = loop {
            let leader = cluster.node(others[0]).and_then(|node| node.group.leader());
            match leader.filter(|leader| *leader != old) {
                Some(leader) => break cluster.node(leader).expect("up"),
                None => sleep(Duration::from_millis(10)).await,
            }
        };
        let position = propose(&heir, 9).await.expect("two of three are there");
        let began = now();
        let read = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let (told, reader) = (std::sync::Arc::clone(&read), node.clone());
        spawn_for(0, async move {
            let passed = timeout(Duration::from_secs(20), reader.group.read_barrier()).await;
            assert!(matches!(passed, Ok(Ok(()))), "{passed:?}");
            *told.lock() = Some((now(), reader.journal.state.lock().commands.len()));
        });
        sleep(Duration::from_millis(draw(1..200))).await;
        cluster.net.mend(others[0], old);
        sleep(Duration::from_millis(draw(1..20))).await;
        cluster.net.mend(others[1], old);
        sleep(Duration::from_millis(draw(1..50))).await;
        cluster.net.heal();
        let (ended, length) = loop {
            if let Some(read) = *read.lock() {
                break read;
            }
            sleep(Duration::from_millis(10)).await;
        };
        assert!(
            length >= position,
            "a read of {length} commands, where {position} had been acknowledged before it"
        );
        cluster.settled().await;
        format!("read after {} ms", ended.saturating_sub(began).as_millis())
    });
}

#[test]
fn a_member_that_was_away_for_long_comes_back_with_a_snapshot() {
    tell(seeds(4), |cluster| async move {
        for node in 1..4 {
            cluster.start(node).await;
        }
        let away = cluster.led().await % 3 + 1;
        cluster.crash(away);
        let leader = cluster.led().await;
        let node = cluster.node(leader).expect("it leads");
        for command in 1..300_u64 {
            node.group.propose(command.to_le_bytes().to_vec().into()).await.expect("two of three are there");
        }
        assert!(node.group.status().snapshot_index > 100);
        cluster.start(away).await;
        let journal = cluster.settled().await;
        assert_eq!(journal, (1..300).collect::<Vec<u64>>());
        let back = cluster.node(away).expect("started").group.status();
        format!("back with a snapshot up to entry {}", back.snapshot_index)
    });
}

#[test]
fn a_member_without_a_quorum_answers_no_read_and_the_others_go_on() {
    tell(seeds(4), |cluster| async move {
        for node in 1..4 {
            cluster.start(node).await;
        }
        let old = cluster.led().await;
        let node = cluster.node(old).expect("it leads");
        node.group.propose(1_u64.to_le_bytes().to_vec().into()).await.expect("led");
        for other in 1..4 {
            cluster.net.cut(old, other);
            cluster.net.cut(other, old);
        }
        let others: Vec<_> = (1..4).filter(|other| *other != old).collect();
        let elected = async {
            loop {
                let leader = cluster.node(others[0]).and_then(|node| node.group.leader());
                if leader.is_some_and(|leader| leader != old) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let began = now();
        timeout(Duration::from_secs(10), elected).await.expect("the others elect a leader");
        let gap = now().saturating_sub(began);
        let other = cluster.node(others[1]).expect("up");
        other.group.propose(2_u64.to_le_bytes().to_vec().into()).await.expect("two of three are there");
        let stale = timeout(Duration::from_secs(5), node.group.read_barrier()).await;
        assert!(stale.is_err(), "a leader that nobody follows let a read pass: {stale:?}");
        cluster.net.heal();
        assert_eq!(cluster.settled().await, [1, 2]);
        format!("another leader after {} ms", gap.as_millis())
    });
}
