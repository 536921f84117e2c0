//! Day two of a Raft group, as a pure function: what is there goes in, the one next step comes out.
//!
//! No step of ours takes a voter away while another is away, whoever took that. Followers come before the leader, and the
//! leader hands over before its pod goes. A member is added as a learner before its pod exists, votes once it has caught up,
//! and is removed by name before its pod goes.

use std::collections::BTreeMap;

/// Most entries that a learner may lack when it gets its vote, and a follower when another's pod is replaced.
pub const MOST_LAG: u64 = 1_000;

/// What part a member plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decides the order of writes.
    Leader,
    /// Votes and follows.
    Follower,
    /// Follows without a vote.
    Learner,
}

/// A member, as the group lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number in the group.
    pub id: u64,
    /// Ordinal of its pod.
    pub ordinal: u16,
    /// What part it plays.
    pub role: Role,
    /// Whether it answered.
    pub is_up: bool,
    /// Entries that it lacks.
    pub lag: u64,
}

impl Member {
    fn votes(&self) -> bool {
        self.role != Role::Learner
    }
}

/// A pod of the StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Whether it answers its readiness probe.
    pub is_ready: bool,
    /// Whether it was made from the newest template.
    pub is_newest: bool,
    /// Whether it is being deleted.
    pub is_leaving: bool,
}

/// All that a step depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Voters that the spec asks for.
    pub wanted: u16,
    /// Pods that the StatefulSet is told to keep; `None` when there is none yet.
    pub kept: Option<u16>,
    /// Its pods, by ordinal.
    pub pods: BTreeMap<u16, Pod>,
    /// The members; empty when none of them answers.
    pub members: Vec<Member>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is as wanted.
    Rest,
    /// Something has to happen first that is not ours to do.
    Wait(Waiting),
    /// Tell the StatefulSet to keep this many pods.
    Keep(u16),
    /// Add a member without a vote; its pod comes next.
    AddLearner(u16),
    /// Give a member its vote.
    Promote(u64),
    /// Hand the lead to another.
    MoveLeader {
        /// Who leads.
        from: u64,
        /// Who is to.
        to: u64,
    },
    /// Take a member out of the group.
    Remove {
        /// Its number.
        id: u64,
        /// Ordinal of its pod.
        ordinal: u16,
    },
    /// Have a pod made anew from the newest template.
    Replace(u16),
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The pods to come up for the first time.
    Founding,
    /// Any member to answer.
    Answer,
    /// A voter that is away.
    Voter(u16),
    /// A leader.
    Leader,
    /// A learner to catch up.
    Learner(u16),
    /// A follower that lags behind.
    Lag(u16),
}

/// The one next step.
pub fn plan(group: &Group) -> Step {
    let Some(kept) = group.kept else { return Step::Keep(group.wanted) };
    if let Some(ordinal) = group.down_and_outdated() {
        return Step::Replace(ordinal);
    }
    if group.members.is_empty() {
        let has_been_up = group.pods.values().any(|pod| pod.is_ready);
        return Step::Wait(if has_been_up { Waiting::Answer } else { Waiting::Founding });
    }
    if let Some(step) = group.removal_of_the_last(kept) {
        return step;
    }
    if let Some(away) = group.voters().find(|member| !group.is_up(member)) {
        return Step::Wait(Waiting::Voter(away.ordinal));
    }
    let Some(leader) = group.members.iter().find(|member| member.role == Role::Leader) else {
        return Step::Wait(Waiting::Leader);
    };
    if let Some(step) = group.learner(kept) {
        return step;
    }
    if let Some(last) = group.last_member().filter(|last| last.ordinal >= group.wanted) {
        return group.without(last, leader);
    }
    let highest = group.last_member().map_or(0, |member| member.ordinal + 1);
    if kept != highest.max(1) {
        return Step::Keep(highest.max(1));
    }
    if let Some(absent) = group.first_without_member() {
        return Step::AddLearner(absent);
    }
    group.roll(leader)
}

impl Group {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.votes())
    }

    fn last_member(&self) -> Option<&Member> {
        self.members.iter().max_by_key(|member| member.ordinal)
    }

    /// Up for the group and for Kubernetes.
    fn is_up(&self, member: &Member) -> bool {
        member.is_up && self.pods.get(&member.ordinal).is_some_and(|pod| pod.is_ready && !pod.is_leaving)
    }

    fn first_without_member(&self) -> Option<u16> {
        (0..self.wanted).find(|ordinal| !self.members.iter().any(|member| member.ordinal == *ordinal))
    }

    /// A pod that is down anyway and of an old template: a better one may mend it, and nothing is lost by trying.
    fn down_and_outdated(&self) -> Option<u16> {
        let answers =
            |ordinal: u16| self.members.iter().any(|member| member.ordinal == ordinal && member.is_up);
        let mut down = self.pods.iter().filter(|(ordinal, pod)| {
            !pod.is_ready && !pod.is_newest && !pod.is_leaving && !answers(**ordinal)
        });
        // One that is on its way comes first.
        let is_one_leaving = self.pods.values().any(|pod| pod.is_leaving);
        down.next().filter(|_| !is_one_leaving).map(|(ordinal, _)| *ordinal)
    }

    /// A member that is to go and is away need not come back first, when all others are there.
    fn removal_of_the_last(&self, kept: u16) -> Option<Step> {
        let last = self.last_member().filter(|last| last.ordinal >= self.wanted)?;
        let others_are_up =
            self.voters().filter(|member| member.id != last.id).all(|member| self.is_up(member));
        let has_leader =
            self.members.iter().any(|member| member.role == Role::Leader && member.id != last.id);
        let is_away = !self.is_up(last) && (last.ordinal < kept || last.role == Role::Learner);
        (is_away && others_are_up && has_leader && self.members.len() > 1)
            .then_some(Step::Remove { id: last.id, ordinal: last.ordinal })
    }

    /// A learner gets its pod, then its vote; one that is wanted no more goes.
    fn learner(&self, kept: u16) -> Option<Step> {
        let learner = self.members.iter().find(|member| member.role == Role::Learner)?;
        if learner.ordinal >= self.wanted {
            return Some(Step::Remove { id: learner.id, ordinal: learner.ordinal });
        }
        if kept <= learner.ordinal {
            return Some(Step::Keep(learner.ordinal + 1));
        }
        let has_caught_up = self.is_up(learner) && learner.lag <= MOST_LAG;
        Some(if has_caught_up {
            Step::Promote(learner.id)
        } else {
            Step::Wait(Waiting::Learner(learner.ordinal))
        })
    }

    fn without(&self, last: &Member, leader: &Member) -> Step {
        if last.id != leader.id {
            return Step::Remove { id: last.id, ordinal: last.ordinal };
        }
        self.hand_over(leader, |member| member.ordinal < self.wanted)
    }

    /// The lead goes to who lacks least among those that may have it.
    fn hand_over(&self, leader: &Member, may: impl Fn(&Member) -> bool) -> Step {
        let heir = self
            .voters()
            .filter(|member| member.id != leader.id && self.is_up(member) && may(member))
            .min_by_key(|member| (member.lag, member.ordinal));
        match heir {
            Some(heir) if heir.lag <= MOST_LAG => Step::MoveLeader { from: leader.id, to: heir.id },
            Some(heir) => Step::Wait(Waiting::Lag(heir.ordinal)),
            None => Step::Wait(Waiting::Leader),
        }
    }

    /// Pods of an old template, one at a time: followers first.
    fn roll(&self, leader: &Member) -> Step {
        let is_old = |ordinal: u16| self.pods.get(&ordinal).is_some_and(|pod| !pod.is_newest);
        let mut old = self.members.iter().filter(|member| is_old(member.ordinal));
        let Some(next) = old.clone().find(|member| member.id != leader.id).or_else(|| old.next()) else {
            return Step::Rest;
        };
        if let Some(behind) = self.voters().find(|member| member.lag > MOST_LAG) {
            return Step::Wait(Waiting::Lag(behind.ordinal));
        }
        if next.id == leader.id && self.voters().count() > 1 {
            return self.hand_over(leader, |_| true);
        }
        Step::Replace(next.ordinal)
    }
}

#[cfg(test)]
mod tests;
