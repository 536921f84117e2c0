//! Stories of members that come and go.

use crate::check;
use crate::cluster::Cluster;
use crate::runtime::{draw, now, sleep, spawn_for, timeout};
use crate::{seeds, simulate_each};
use replication::{Change, Member, Members, NodeId, ProposeError};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

/// Says of a change what is said when it cannot be made any more.
#[derive(Debug)]
struct Moot;

/// The members that were committed last, if anybody can say.
async fn members(cluster: &Cluster) -> Option<Members> {
    let node = cluster.leader().and_then(|leader| cluster.node(leader))?;
    let passed = timeout(Duration::from_secs(3), node.group.read_barrier()).await;
    matches!(passed, Ok(Ok(()))).then(|| node.group.members())
}

/// Has whoever leads make a change, until it is made or moot. What came of it may be unknown: then
/// the next try finds out.
async fn change(cluster: &Cluster, decide: impl Fn(&Members) -> Result<Change, Moot>) {
    loop {
        sleep(Duration::from_millis(100)).await;
        let Some(node) = cluster.leader().and_then(|leader| cluster.node(leader)) else { continue };
        match timeout(Duration::from_secs(5), node.group.change(&decide)).await {
            Ok(Ok(Ok(()) | Err(Moot))) => return,
            Ok(Err(ProposeError::NotLeader { .. } | ProposeError::Unknown(_) | ProposeError::Stopped(_)))
            | Err(_) => {}
        }
    }
}

fn member(node: NodeId) -> Member {
    Member { address: format!("node-{node}"), ..Member::default() }
}

async fn add(cluster: &Cluster, node: NodeId) {
    let decide = |members: &Members| {
        if members.contains_key(&node) { Err(Moot) } else { Ok(Change::Add(node, member(node))) }
    };
    change(cluster, decide).await;
}

async fn promote(cluster: &Cluster, node: NodeId) {
    let decide = |members: &Members| match members.get(&node) {
        Some(member) if !member.voter => Ok(Change::Promote(node)),
        _ => Err(Moot),
    };
    change(cluster, decide).await;
}

/// Removes a member, unless nobody would be left to vote; answers whether it is none any more.
async fn remove(cluster: &Cluster, node: NodeId) -> bool {
    let decide = |members: &Members| {
        let stays = members.iter().any(|(id, member)| *id != node && member.voter);
        if stays && members.contains_key(&node) { Ok(Change::Remove(node)) } else { Err(Moot) }
    };
    change(cluster, decide).await;
    loop {
        if let Some(members) = members(cluster).await {
            return !members.contains_key(&node);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until `node` has all that its leader has.
async fn caught_up(cluster: &Cluster, node: NodeId) {
    loop {
        sleep(Duration::from_millis(50)).await;
        let Some(leader) = cluster.leader().and_then(|leader| cluster.node(leader)) else { continue };
        let last = leader.group.status().last_index;
        if leader.group.progress().get(&node).is_some_and(|progress| progress.matched >= last) {
            return;
        }
    }
}

/// Ends those that know that they were removed, as their processes do; answers how many.
fn leave(cluster: &Cluster, removed: &BTreeSet<NodeId>) -> usize {
    let knows = |node: &&NodeId| cluster.node(**node).is_some_and(|node| node.group.removed());
    let leaving: Vec<_> = removed.iter().filter(knows).collect();
    for node in &leaving {
        cluster.crash(**node);
    }
    leaving.len()
}

/// One change after another until `until`; answers who was removed, and how many of them left.
async fn changes(cluster: Cluster, until: Duration) -> (BTreeSet<NodeId>, usize, String) {
    let (mut next, mut removed, mut told_off, mut told) = (4, BTreeSet::new(), 0, String::new());
    while now() < until {
        sleep(Duration::from_millis(draw(100..1_500))).await;
        told_off += leave(&cluster, &removed);
        let Some(members) = members(&cluster).await else { continue };
        let ids: Vec<NodeId> = members.keys().copied().collect();
        let learner = members.iter().find(|(_, member)| !member.voter).map(|(id, _)| *id);
        if ids.len() < 5 && draw(0..2) == 0 {
            let _ = write!(told, "add {next}; ");
            // Before or after it is a member: both are done in practice.
            if draw(0..2) == 0 {
                add(&cluster, next).await;
                cluster.start(next).await;
            } else {
                cluster.start(next).await;
                add(&cluster, next).await;
            }
            next += 1;
        } else if let Some(learner) = learner.filter(|_| draw(0..4) > 0) {
            let _ = write!(told, "promote {learner}; ");
            promote(&cluster, learner).await;
        } else if ids.len() > 2 {
            let victim = ids[draw(0..ids.len() as u64) as usize];
            let _ = write!(told, "remove {victim}; ");
            if remove(&cluster, victim).await {
                removed.insert(victim);
            }
        }
    }
    (removed, told_off, told)
}

/// Ends nodes as power cuts would, and cuts them off, until `until`.
async fn trouble(cluster: Cluster, until: Duration) {
    while now() < until {
        sleep(Duration::from_millis(draw(500..4_000))).await;
        let nodes: Vec<NodeId> = cluster.nodes.lock().keys().copied().collect();
        let Some(victim) = nodes.get(draw(0..nodes.len().max(1) as u64) as usize).copied() else { continue };
        if draw(0..3) > 0 {
            let victim = cluster.leader().filter(|_| draw(0..2) == 0).unwrap_or(victim);
            cluster.crash(victim);
            sleep(Duration::from_millis(draw(10..3_000))).await;
            cluster.start(victim).await;
        } else {
            for node in nodes {
                cluster.net.cut(victim, node);
                cluster.net.cut(node, victim);
            }
            sleep(Duration::from_millis(draw(500..4_000))).await;
            cluster.net.heal();
        }
    }
}

#[test]
fn members_come_and_go_amid_trouble_and_nothing_acknowledged_is_lost() {
    simulate_each(seeds(10), &[1, 2, 3], |cluster| async move {
        for node in 1..4 {
            cluster.start(node).await;
        }
        let until = now() + Duration::from_mins(1);
        for number in 1..5 {
            spawn_for(0, cluster.clone().client(number, until));
        }
        spawn_for(0, trouble(cluster.clone(), until));
        let (removed, mut told_off, told) = changes(cluster.clone(), until).await;
        // The last trouble ends.
        sleep(Duration::from_secs(8)).await;
        cluster.net.heal();
        println!("{told}");
        let members = loop {
            if let Some(members) = members(&cluster).await {
                break members;
            }
            for node in 1..40 {
                // A quorum may be down.
                if cluster.node(node).is_none() && cluster.has_lived(node) {
                    cluster.start(node).await;
                }
            }
            sleep(Duration::from_secs(1)).await;
        };
        for node in members.keys() {
            if cluster.node(*node).is_none() {
                cluster.start(*node).await;
            }
        }
        // Who was removed hears of it, even after having been down meanwhile, if anybody whom it
        // knows is there to ask.
        for node in &removed {
            assert!(!members.contains_key(node), "{node} was removed and is a member");
            let Some(old) = cluster.node(*node) else { continue };
            if old.group.members().keys().any(|known| members.contains_key(known)) {
                let reason = timeout(Duration::from_mins(1), old.group.stopped()).await;
                assert!(reason.is_ok_and(|reason| reason.contains("was removed")), "{node} goes on");
                told_off += 1;
            }
            cluster.crash(*node);
        }
        let journal = cluster.settled().await;
        let history = cluster.history.lock().clone();
        format!(
            "{}; {} members, {told_off} of {} removed said so",
            check(&history, &journal),
            members.len(),
            removed.len()
        )
    });
}

#[test]
fn one_grows_to_three_and_shrinks_to_another_one() {
    simulate_each(seeds(4), &[1], |cluster| async move {
        cluster.start(1).await;
        let first = cluster.node(1).expect("started");
        for command in 1..100_u64 {
            first.group.propose(command.to_le_bytes().to_vec().into()).await.expect("it leads");
        }
        for node in [2, 3] {
            add(&cluster, node).await;
            // A learner does not count: one alone still decides.
            first.group.propose(node.to_le_bytes().to_vec().into()).await.expect("it leads");
            cluster.start(node).await;
            caught_up(&cluster, node).await;
            promote(&cluster, node).await;
        }
        assert_eq!(cluster.settled().await.len(), 101);
        for node in [1, 2] {
            assert!(remove(&cluster, node).await);
            let gone = cluster.node(node).expect("still there");
            let reason = timeout(Duration::from_mins(1), gone.group.stopped()).await;
            assert!(reason.is_ok_and(|reason| reason.contains("was removed")));
            cluster.crash(node);
        }
        let last = cluster.node(3).expect("up");
        last.group.propose(7_u64.to_le_bytes().to_vec().into()).await.expect("alone it decides");
        assert_eq!(last.group.members().keys().collect::<Vec<_>>(), [&3]);
        format!("{} commands", cluster.settled().await.len())
    });
}
