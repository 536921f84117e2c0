//! Three processes' worth of hosts in one, over TCP: what the simulation cannot show.

#[path = "simulation/journal.rs"]
mod journal;

use journal::Journal;
use replication::log::LogOptions;
use replication::{Clear, GroupOptions, Host, NodeId, Peers, ProposeError, Replicated};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    let log = LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() };
    let host = Host::with_peers(
        &dir,
        log,
        Peers { cluster, node, listeners: vec![listener], channel: Arc::new(Clear) },
    )
    .expect("opens");
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

/// A command of some size: the journal keeps its number.
fn command(number: u64) -> bytes::Bytes {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(200, 0);
    bytes.into()
}

/// Waits until `member` follows `leader`.
async fn follows(member: &Member, leader: NodeId) {
    let mut known = member.group.leader();
    while known != Some(leader) {
        known = member.group.leader_changed(known).await.expect("the group lives");
    }
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
    let segments = |node: u64| {
        std::fs::read_dir(dir.path().join(node.to_string()).join("log")).expect("listable").count()
    };
    let written = count + 400;
    while count < written || segments(1) > 2 || segments(2) > 2 {
        count += 1;
        write(&members[0], count).await;
    }
    let third = TcpListener::bind(&addresses[2]).expect("the port is free again");
    let back = start(dir.path(), 7, 3, third, &founders).await;
    back.group.read_barrier().await.expect("it catches up");
    assert_eq!(back.journal.restored.load(Ordering::SeqCst), 1, "what it missed was in no log any more");
    let mut commands = back.journal.state.lock().commands.clone();
    commands.dedup();
    assert_eq!(commands, (1..=count).collect::<Vec<_>>());
    write(&back, count + 1).await;
    // Whoever leads hands over to another, as often as it takes on a machine that stalls.
    let members: Vec<_> = members.into_iter().chain([back]).collect();
    let to = members[0].group.leader().expect("somebody leads") % 3 + 1;
    while let Some(leader) = members[0].group.leader().filter(|leader| *leader != to) {
        let from = members.iter().find(|member| member.group.status().node == leader).expect("one of them");
        tokio::select! {
            // It may have lost the leadership meanwhile.
            _ = from.group.transfer_leader(to) => {}
            _ = members[0].group.leader_changed(Some(leader)) => {}
        }
    }
    for member in &members {
        follows(member, to).await;
    }
    for member in &members {
        member.group.shutdown().await;
    }
}

/// What a listener answers to the first words of a peer; one that has to wait for them hangs up.
fn welcome(address: &str, cluster: u64, from: NodeId, to: NodeId) -> u8 {
    let mut hello = b"RAFTPEER\x01".to_vec();
    for number in [cluster, from, to] {
        hello.extend_from_slice(&number.to_le_bytes());
    }
    let mut answer = [0];
    loop {
        let mut stream = TcpStream::connect(address).expect("somebody listens");
        if stream.write_all(&hello).and_then(|()| stream.read_exact(&mut answer)).is_ok() {
            return answer[0];
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_cluster_is_turned_away() {
    let dir = tempfile::tempdir().expect("dir");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let founders = BTreeMap::from([(1, address.clone()), (2, "127.0.0.1:1".to_owned())]);
    let member = start(dir.path(), 7, 1, listener, &founders).await;
    for (cluster, to, answer) in [(7, 1, 1), (8, 1, 2), (7, 2, 3)] {
        assert_eq!(welcome(&address, cluster, 2, to), answer, "cluster {cluster}, member {to}");
    }
    member.group.shutdown().await;
}
