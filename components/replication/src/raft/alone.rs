//! A member that forgets all others, when most of them are lost for good.

use super::storage::{durable, from_entry, to_entry};
use super::types::{Members, NodeId, Position, from_log_id, to_log_id};
use crate::log::{EntryId, EntryKind, GroupLog, Vote};
use openraft::entry::RaftEntry as _;
use openraft::{BasicNode, EntryPayload};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::types::RaftEntry;

/// Makes `node` the only member of the group whose log and state these are, as if a leader had removed all others: a
/// change of members is put at the end of the log, in a term of this member's own. What the log holds beyond what was
/// committed stays, since it may have been acknowledged. Answers those that were forgotten; none, if it was alone.
pub async fn forget_others(
    log: &GroupLog,
    position: &Position,
    node: NodeId,
) -> io::Result<BTreeMap<NodeId, BasicNode>> {
    let applied = position.applied.as_ref().map(from_log_id);
    if let Some(at) = applied
        && log.bounds().1.is_none_or(|end| end.index < at.index)
    {
        // A snapshot was installed, and what it replaced was not dropped before the end: what comes next follows the state.
        log.purge(at)?;
    }
    // Nothing was ever founded here.
    let Some(last) = log.bounds().1 else { return Ok(BTreeMap::new()) };
    let members = newest_members(log, position)?;
    let mut others: BTreeMap<_, _> = members.nodes().map(|(id, node)| (*id, node.clone())).collect();
    let Some(own) = others.remove(&node) else {
        return Err(io::Error::other(format!("member {node:x} is not among those that its data names")));
    };
    let votes_alone = members.get_joint_config() == &vec![BTreeSet::from([node])];
    if others.is_empty() && votes_alone {
        return Ok(others);
    }
    let voted = log.vote().map_or(0, |vote| vote.term);
    let term = voted.max(last.term).max(applied.map_or(0, |id| id.term)) + 1;
    durable(|done| log.save_vote(Vote { term, leader: node, committed: true }, done)).await?;
    let alone = Members::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, own)]))
        .map_err(io::Error::other)?;
    let id = to_log_id(EntryId { term, leader: node, index: last.index + 1 });
    let entry = from_entry(RaftEntry::new(id, EntryPayload::Membership(alone)));
    durable(|done| log.append(vec![entry], done)).await?;
    Ok(others)
}

/// Those of the last change that the log or the state knows of, committed or not.
fn newest_members(log: &GroupLog, position: &Position) -> io::Result<Members> {
    let mut members = position.members.membership().clone();
    let mut from = position.members.log_id().as_ref().map_or(0, |id| id.index + 1);
    loop {
        let entries = log.read(from, u64::MAX, 4 << 20)?;
        let Some(last) = entries.last() else { return Ok(members) };
        from = last.id.index + 1;
        for entry in entries.into_iter().filter(|entry| entry.kind == EntryKind::Membership) {
            if let EntryPayload::Membership(changed) = to_entry(entry)?.payload {
                members = changed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Entry, Log, LogOptions};
    use crate::raft::types::StoredMembers;

    /// A snapshot was installed, and the process was killed before the log let go of what it replaced.
    #[tokio::test]
    async fn a_state_ahead_of_its_log_goes_on_behind_itself() {
        let dir = tempfile::tempdir().expect("dir");
        let id = |term, index| EntryId { term, leader: 2, index };
        let node = || BasicNode { addr: "there".to_owned() };
        let voters = Members::new(
            vec![BTreeSet::from([1, 2, 3])],
            (1..4).map(|id| (id, node())).collect::<BTreeMap<_, _>>(),
        );
        let members = StoredMembers::new(Some(to_log_id(id(4, 7))), voters.expect("members"));
        let position = Position { applied: Some(to_log_id(id(9, 5_000))), members };
        for attempt in 0..2 {
            let (log, _) = Log::open(dir.path(), LogOptions::default()).expect("a log");
            let log = log.group(0);
            if attempt == 0 {
                let entry = |index| Entry { id: id(4, index), kind: EntryKind::Command, payload: "x".into() };
                durable(|done| log.append((1..=100).map(entry).collect(), done)).await.expect("appended");
                durable(|done| log.save_vote(Vote { term: 4, leader: 2, committed: true }, done))
                    .await
                    .expect("saved");
            }
            let forgotten = forget_others(&log, &position, 1).await.expect("forgotten");
            let (purged, last) = log.bounds();
            assert_eq!(
                (purged.map(|id| id.index), last.map(|id| (id.term, id.index))),
                (Some(5_000), Some((10, 5_001)))
            );
            // The second time it is alone already.
            assert_eq!(forgotten.len(), if attempt == 0 { 2 } else { 0 });
            assert_eq!(newest_members(&log, &position).expect("read").voter_ids().collect::<Vec<_>>(), [1]);
        }
    }
}
