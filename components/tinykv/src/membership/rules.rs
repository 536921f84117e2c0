//! What may become of a cluster's members: etcd's rules, on what the leader knows.

use super::{Description, MemberChange, Request};
use replication::{Change, Member, Members, Progress};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Learners that a cluster may have at a time.
const MAX_LEARNERS: usize = 1;
/// A member that has not answered for so long does not count as healthy.
const HEALTHY: Duration = Duration::from_secs(5);

/// Why members stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MemberRefusal {
    /// There is no such member.
    #[error("member not found")]
    NotFound,
    /// Another member listens there.
    #[error("Peer URLs already exists")]
    PeerUrlExists,
    /// It has a vote already.
    #[error("can only promote a learner member")]
    NotLearner,
    /// It lacks too much.
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// There are as many as there may be.
    #[error("too many learner members in cluster")]
    TooManyLearners,
    /// Too few members were ever started.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Too few members answer.
    #[error("unhealthy cluster")]
    Unhealthy,
}

/// What the leader knows beside the members.
pub struct View {
    /// The leader.
    pub me: u64,
    /// The last entry of its log.
    pub last: u64,
    /// How far each member is.
    pub progress: BTreeMap<u64, Progress>,
}

impl View {
    fn answers(&self, id: u64) -> bool {
        id == self.me
            || self.progress.get(&id).and_then(|progress| progress.heard).is_some_and(|heard| heard < HEALTHY)
    }
}

/// What is to be done for a request; `None`: it was done before.
pub fn decide(members: &Members, request: &Request, view: &View) -> Result<Option<Change>, MemberRefusal> {
    let described: BTreeMap<u64, Description> =
        members.iter().map(|(id, member)| (*id, Description::of(member))).collect();
    let counts = |id: &u64| !described[id].learner || members[id].voter;
    let voters: Vec<u64> = members.keys().copied().filter(counts).collect();
    let started = |id: &u64| !described[id].name.is_empty();
    let taken = |urls: &[String], by: u64| {
        described.iter().any(|(id, it)| *id != by && it.peer_urls.iter().any(|url| urls.contains(url)))
    };
    match &request.change {
        MemberChange::Add { id, .. } if members.contains_key(id) => Ok(None),
        MemberChange::Add { id, peer_urls, learner } => {
            if taken(peer_urls, *id) {
                return Err(MemberRefusal::PeerUrlExists);
            }
            if *learner && members.len() - voters.len() >= MAX_LEARNERS {
                return Err(MemberRefusal::TooManyLearners);
            }
            let together = voters.len() + 1;
            if !*learner {
                let started = voters.iter().filter(|id| started(id)).count();
                if started < together / 2 + 1 && !(started == 1 && together == 2) {
                    return Err(MemberRefusal::NotEnoughStarted);
                }
            }
            // A learner too: it is added in order to vote one day.
            let healthy = voters.iter().filter(|id| view.answers(**id)).count();
            if voters.len() > 1 && healthy < together / 2 + 1 {
                return Err(MemberRefusal::Unhealthy);
            }
            let peer_urls = peer_urls.clone();
            let description = Description { peer_urls, learner: *learner, ..Description::default() };
            Ok(Some(Change::Add(*id, description.member())))
        }
        MemberChange::Remove(id) => match members.get(id) {
            None if request.again => Ok(None),
            None => Err(MemberRefusal::NotFound),
            Some(_) if !voters.contains(id) => Ok(Some(Change::Remove(*id))),
            Some(member) => {
                let started = voters.iter().filter(|other| *other != id && started(other)).count();
                if started < (voters.len() - 1) / 2 + 1 {
                    return Err(MemberRefusal::NotEnoughStarted);
                }
                let healthy = voters.iter().filter(|id| view.answers(**id)).count();
                let needed = member.voter && view.answers(*id);
                if needed && healthy - 1 < 1 + (voters.len() - 1) / 2 && voters.len() > 2 {
                    return Err(MemberRefusal::Unhealthy);
                }
                Ok(Some(Change::Remove(*id)))
            }
        },
        MemberChange::Promote(id) => match members.get(id) {
            None => Err(MemberRefusal::NotFound),
            Some(_) if voters.contains(id) && request.again => Ok(None),
            Some(_) if voters.contains(id) => Err(MemberRefusal::NotLearner),
            Some(_) => {
                let matched = view.progress.get(id).map_or(0, |progress| progress.matched);
                if matched < view.last - view.last / 10 || !view.answers(*id) {
                    return Err(MemberRefusal::LearnerNotReady);
                }
                let started = 1 + voters.iter().filter(|id| started(id)).count();
                let together = voters.len() + 1;
                if started < together / 2 + 1 {
                    return Err(MemberRefusal::NotEnoughStarted);
                }
                Ok(Some(Change::Promote(*id)))
            }
        },
        MemberChange::Update { id, peer_urls } => {
            let known = described.get(id).ok_or(MemberRefusal::NotFound)?;
            if taken(peer_urls, *id) {
                return Err(MemberRefusal::PeerUrlExists);
            }
            let description = Description { peer_urls: peer_urls.clone(), ..known.clone() };
            Ok(describe(*id, &members[id], &description))
        }
        MemberChange::Publish { id, name, client_urls } => {
            let known = described.get(id).ok_or(MemberRefusal::NotFound)?;
            let (name, client_urls) = (name.clone(), client_urls.clone());
            Ok(describe(*id, &members[id], &Description { name, client_urls, ..known.clone() }))
        }
    }
}

fn describe(id: u64, known: &Member, description: &Description) -> Option<Change> {
    let described = Member { voter: known.voter, ..description.member() };
    (described != *known).then_some(Change::Describe(id, described))
}

/// A member that was added as a voter and has come near enough to its leader to be one.
pub fn due_to_vote(members: &Members, view: &View) -> Option<u64> {
    let near = |progress: &Progress| {
        progress.matched + 500 >= view.last
            && progress.matched > 0
            && progress.heard.is_some_and(|heard| heard < Duration::from_secs(1))
    };
    let waits = |(id, member): &(&u64, &Member)| {
        !member.voter && !Description::of(member).learner && view.progress.get(*id).is_some_and(near)
    };
    members.iter().find(waits).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(id: u64) -> Vec<String> {
        vec![format!("http://10.0.0.{id}:2380")]
    }

    /// Members by id: `voter`, `learner` and `waiting` (added as a voter, not one yet); all started.
    fn cluster(kinds: &[&str]) -> Members {
        let member = |id: u64, kind: &str| {
            let description = Description {
                name: format!("m{id}"),
                peer_urls: url(id),
                learner: kind == "learner",
                ..Description::default()
            };
            (id, Member { voter: kind == "voter", ..description.member() })
        };
        (1..).zip(kinds).map(|(id, kind)| member(id, kind)).collect()
    }

    /// The leader 1 has 1,000 entries; `silent` members do not answer.
    fn view(members: &Members, silent: &[u64]) -> View {
        let heard = |id: &u64| (!silent.contains(id)).then_some(Duration::from_millis(50));
        let progress =
            members.keys().map(|id| (*id, Progress { matched: 1_000, heard: heard(id) })).collect();
        View { me: 1, last: 1_000, progress }
    }

    #[test]
    fn changes_follow_the_rules_of_etcd() {
        use MemberRefusal as R;
        let add = |id, at, learner| MemberChange::Add { id, peer_urls: url(at), learner };
        let three = ["voter", "voter", "voter"];
        let four = ["voter", "voter", "voter", "learner"];
        type Row<'a> = (&'a [&'a str], &'a [u64], MemberChange, Result<bool, R>);
        let table: Vec<Row<'_>> = vec![
            (&["voter"], &[], add(9, 9, false), Ok(true)),
            (&three, &[], add(9, 9, false), Ok(true)),
            (&three, &[], add(9, 2, false), Err(R::PeerUrlExists)),
            (&three, &[], add(2, 9, false), Ok(false)),
            (&three, &[3], add(9, 9, false), Err(R::Unhealthy)),
            (&three, &[3], add(9, 9, true), Err(R::Unhealthy)),
            (&["voter"; 4], &[4], add(9, 9, true), Ok(true)),
            (&["voter"; 5], &[4, 5], add(9, 9, true), Err(R::Unhealthy)),
            (&four, &[], add(9, 9, true), Err(R::TooManyLearners)),
            (&["voter", "waiting"], &[2], add(9, 9, false), Err(R::Unhealthy)),
            (&three, &[], MemberChange::Remove(9), Err(R::NotFound)),
            (&three, &[], MemberChange::Remove(2), Ok(true)),
            (&three, &[3], MemberChange::Remove(3), Ok(true)),
            (&three, &[3], MemberChange::Remove(2), Err(R::Unhealthy)),
            (&["voter"], &[], MemberChange::Remove(1), Err(R::NotEnoughStarted)),
            (&["voter", "voter"], &[], MemberChange::Remove(1), Ok(true)),
            (&["voter", "learner"], &[], MemberChange::Remove(2), Ok(true)),
            (&["voter", "waiting"], &[2], MemberChange::Remove(2), Ok(true)),
            (&four, &[], MemberChange::Promote(4), Ok(true)),
            (&four, &[4], MemberChange::Promote(4), Err(R::LearnerNotReady)),
            (&four, &[], MemberChange::Promote(3), Err(R::NotLearner)),
            (&["voter", "waiting"], &[], MemberChange::Promote(2), Err(R::NotLearner)),
            (&four, &[], MemberChange::Promote(9), Err(R::NotFound)),
            (&three, &[], MemberChange::Update { id: 2, peer_urls: url(9) }, Ok(true)),
            (&three, &[], MemberChange::Update { id: 2, peer_urls: url(2) }, Ok(false)),
            (&three, &[], MemberChange::Update { id: 2, peer_urls: url(3) }, Err(R::PeerUrlExists)),
            (&three, &[], MemberChange::Update { id: 9, peer_urls: url(9) }, Err(R::NotFound)),
        ];
        for (kinds, silent, change, expected) in table {
            let members = cluster(kinds);
            let request = Request { change: change.clone(), again: false };
            let decided = decide(&members, &request, &view(&members, silent));
            assert_eq!(decided.map(|change| change.is_some()), expected, "{kinds:?} {silent:?} {change:?}");
        }
    }

    #[test]
    fn what_was_asked_before_and_is_done_is_no_error() {
        let members = cluster(&["voter", "voter"]);
        for change in [MemberChange::Remove(9), MemberChange::Promote(2)] {
            let again = Request { change, again: true };
            assert_eq!(decide(&members, &again, &view(&members, &[])), Ok(None));
        }
    }

    #[test]
    fn members_never_started_are_no_support_for_more() {
        let mut members = cluster(&["voter", "waiting"]);
        members.insert(2, Description { peer_urls: url(2), ..Description::default() }.member());
        let add = MemberChange::Add { id: 9, peer_urls: url(9), learner: false };
        let request = Request { change: add, again: false };
        assert_eq!(decide(&members, &request, &view(&members, &[])), Err(MemberRefusal::NotEnoughStarted));
    }

    #[test]
    fn only_who_was_added_as_a_voter_becomes_one_by_itself() {
        let members = cluster(&["voter", "learner", "waiting"]);
        assert_eq!(due_to_vote(&members, &view(&members, &[])), Some(3));
        assert_eq!(due_to_vote(&members, &view(&members, &[3])), None);
        let mut behind = view(&members, &[]);
        behind.last = 5_000;
        assert_eq!(due_to_vote(&members, &behind), None);
    }
}
