//! Three processes' worth of hosts in one, over TCP: what the simulation cannot show.

#[path = "simulation/journal.rs"]
mod journal;

use journal::Journal;
use replication::log::LogOptions;
use replication::{GroupOptions, Host, NodeId, Peers, ProposeError, Replicated};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Member {
    group: Replicated<Journal>,
    journal: Journal,
}

async fn start(
    dir: &Path,
    cluster: u64,
    node: NodeId,
    listener: TcpListener,
    founders: &BTreeMap<NodeId, String>,
) -> Member {
    let dir = dir.join(node.to_string());
    std::fs::create_dir_all(&dir).expect("created");
    let host =
        Host::with_peers(&dir, LogOptions::default(), Peers { cluster, node, listener }).expect("opens");
    let journal = Journal::open(&dir);
    let options = GroupOptions {
        founders: founders.clone(),
        snapshot_entries: 50,
        keep_entries: 10,
        ..GroupOptions::new(node, dir)
    };
    let group = host.start(options, journal.clone()).await.expect("starts");
    Member { group, journal }
}

/// Writes until it is acknowledged: on a busy machine leaders may change in the middle of it.
async fn write(member: &Member, number: u64) -> usize {
    loop {
        match member.group.propose(command(number)).await {
            Err(ProposeError::Unknown(_)) => {}
            answer => return answer.expect("applied"),
        }
    }
}

fn command(number: u64) -> bytes::Bytes {
    number.to_le_bytes().to_vec().into()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), patience).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_replicate_over_tcp_and_one_that_was_away_gets_a_snapshot() {
    let dir = tempfile::tempdir().expect("dir");
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let addresses: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound").to_string()).collect();
    let founders: BTreeMap<NodeId, String> = (1..).zip(addresses.iter().cloned()).collect();
    let mut members = Vec::new();
    for (node, listener) in (1..).zip(listeners) {
        members.push(start(dir.path(), 7, node, listener, &founders).await);
    }
    let mut count = 0;
    for _ in 0..10 {
        for member in &members {
            count += 1;
            let position = write(member, count).await;
            member.group.read_barrier().await.expect("passes");
            assert_eq!(member.journal.state.lock().commands[position - 1], count);
        }
    }
    // One of them goes away; the others go past what the log keeps.
    let away = members.remove(2);
    away.group.shutdown().await;
    drop(away);
    for _ in 0..400 {
        count += 1;
        write(&members[0], count).await;
    }
    let third = TcpListener::bind(&addresses[2]).expect("the port is free again");
    let back = start(dir.path(), 7, 3, third, &founders).await;
    until("the third catches up", || back.journal.state.lock().commands.last() == Some(&count)).await;
    assert!(back.group.status().snapshot_index > 0);
    let mut commands = back.journal.state.lock().commands.clone();
    commands.dedup();
    assert_eq!(commands, (1..=count).collect::<Vec<_>>());
    write(&back, count + 1).await;
    // Whoever leads hands over to whoever does not.
    let leader = back.group.leader().expect("somebody leads");
    let members: Vec<_> = members.into_iter().chain([back]).collect();
    let from = members.iter().find(|member| member.group.status().node == leader).expect("one of them");
    let to = leader % 3 + 1;
    tokio::time::timeout(Duration::from_secs(20), from.group.transfer_leader(to))
        .await
        .expect("in time")
        .expect("handed over");
    until("all agree", || members.iter().all(|member| member.group.leader() == Some(to))).await;
    for member in &members {
        member.group.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_cluster_is_turned_away() {
    let dir = tempfile::tempdir().expect("dir");
    let (one, other) = (
        TcpListener::bind("127.0.0.1:0").expect("a port"),
        TcpListener::bind("127.0.0.1:0").expect("a port"),
    );
    let founders: BTreeMap<NodeId, String> =
        (1..).zip([&one, &other].map(|it| it.local_addr().expect("bound").to_string())).collect();
    let one = Arc::new(start(dir.path(), 7, 1, one, &founders).await);
    let other = start(dir.path(), 8, 2, other, &founders).await;
    let led = tokio::time::timeout(Duration::from_secs(3), one.group.leader_changed(None)).await;
    assert!(led.is_err(), "two clusters made one: {led:?}");
    one.group.shutdown().await;
    other.group.shutdown().await;
}
