//! A member that forgets all others, when most of them are lost for good.

use super::storage::{durable, from_entry, to_entry};
use super::types::{Members, NodeId, Position, to_log_id};
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
    let (_, last) = log.bounds();
    let last = last.or(position.applied.as_ref().map(super::types::from_log_id));
    // Nothing was ever founded here.
    let Some(last) = last else { return Ok(BTreeMap::new()) };
    let members = newest_members(log, position)?;
    let mut others: BTreeMap<_, _> = members.nodes().map(|(id, node)| (*id, node.clone())).collect();
    let Some(own) = others.remove(&node) else {
        return Err(io::Error::other(format!("member {node:x} is not among those that its data names")));
    };
    let votes_alone = members.get_joint_config() == &vec![BTreeSet::from([node])];
    if others.is_empty() && votes_alone {
        return Ok(others);
    }
    let term = log.vote().map_or(0, |vote| vote.term).max(last.term) + 1;
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
