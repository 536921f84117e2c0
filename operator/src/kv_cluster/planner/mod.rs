//! Day two of a Raft group, as a pure function: what is there goes in, the one next step comes out.
//!
//! No step of ours takes a voter away while another is away, whoever took that. Followers come before the leader, and the
//! leader hands over before its pod goes. A member is added as a learner before its pod exists, votes once it has caught up,
//! and is removed by name before its pod goes. A volume that belonged to a member that was removed is never given to another: it
//! is deleted first.

mod budget;
mod recovery;
mod replacement;

pub(super) use budget::stay_of;

use std::collections::{BTreeMap, BTreeSet};

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
    /// Whether it does not run, or has not been ready for long: a machine that is slow for a while makes no pod so.
    pub is_stuck: bool,
    /// Whether it was there before the members were to be forgotten, and does not know of that.
    pub is_unaware: bool,
}

impl Pod {
    fn serves(&self) -> bool {
        self.is_ready && !self.is_leaving
    }
}

/// The claim of a pod's volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Whether what is on it is to go.
    pub is_condemned: bool,
    /// Whether it is being deleted.
    pub is_leaving: bool,
}

/// Ordinals of the pods that a StatefulSet keeps: from `first` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The first one.
    pub first: u16,
    /// The one after the last.
    pub end: u16,
}

impl Kept {
    /// So many, from the first.
    pub fn to(end: u16) -> Self {
        Self { first: 0, end }
    }

    /// That one alone.
    pub fn only(ordinal: u16) -> Self {
        Self { first: ordinal, end: ordinal + 1 }
    }

    /// How many they are.
    pub fn count(self) -> u16 {
        self.end - self.first
    }

    fn has(self, ordinal: u16) -> bool {
        (self.first..self.end).contains(&ordinal)
    }
}

/// What a person asked for by an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Take a member out and put a new one, with an empty volume, in its place.
    Replace(u16),
    /// Go on with what this one has, although most are lost.
    Recover(u16),
}

/// All that a step depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Voters that the spec asks for.
    pub wanted: u16,
    /// Pods that the StatefulSet is told to keep; `None` when there is none.
    pub kept: Option<Kept>,
    /// Pods of the members that were listed last; `None` before any member answered.
    pub recorded: Option<Kept>,
    /// Its pods, by ordinal.
    pub pods: BTreeMap<u16, Pod>,
    /// Ordinals of pods that are called like a member and are not the StatefulSet's: mostly those of one that was deleted, on their way.
    pub strays: BTreeSet<u16>,
    /// Their claims, and those that pods have left.
    pub claims: BTreeMap<u16, Claim>,
    /// The members; empty when none of them answers.
    pub members: Vec<Member>,
    /// What a person asked for.
    pub wish: Option<Wish>,
    /// What its members contradict one another in.
    pub violated: Vec<Violated>,
}

/// What must hold of a group, and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violated {
    /// All members are of one cluster.
    ClusterId,
    /// No two members have one number.
    MemberId,
    /// Each member is called like a pod of the StatefulSet, and no two are called the same.
    MemberName,
    /// What a process has applied, it has applied.
    AppliedIndex,
}

impl Violated {
    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterId => "cluster_id",
            Self::MemberId => "member_id",
            Self::MemberName => "member_name",
            Self::AppliedIndex => "applied_index",
        }
    }

    /// Whether who votes cannot be known, so that any step could take the majority away.
    pub(super) fn forbids_steps(self) -> bool {
        matches!(self, Self::ClusterId | Self::MemberId)
    }
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// All is as wanted.
    #[default]
    Rest,
    /// Something has to happen first that is not ours to do.
    Wait(Waiting),
    /// Tell the StatefulSet which pods to keep.
    Keep(Kept),
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
    /// Mark what a member has on its volume as to go, and let go of the wish.
    Condemn(u16),
    /// Take that mark away again: there is nobody else any more.
    Pardon(u16),
    /// Delete a volume that no member has, and the pod on it.
    Discard(u16),
    /// Keep that pod alone, which is to forget all other members.
    Isolate(u16),
    /// Delete a pod of which the others are lost, so that it starts anew.
    Restart(u16),
    /// Let go of a wish that has come true.
    Fulfilled,
    /// Let go of a wish, and say why.
    Decline(Refusal),
}

/// Why a wish is not heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Most members answer: there is nothing to be recovered.
    QuorumStands,
    /// Pods are ready: the members are there, and the operator does not reach them.
    OutOfReach,
    /// It names no member.
    NoSuchMember,
    /// It names the only voter, and all data with it.
    OnlyVoter,
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
    /// The pod of a voter that answers to be called ready: it got its vote, or began, just now.
    Readiness(u16),
    /// A leader.
    Leader,
    /// A learner to catch up.
    Learner(u16),
    /// A follower that lags behind.
    Lag(u16),
    /// A pod to be gone.
    Leaving(u16),
    /// Members that are of one cluster, and are told apart.
    Accord,
}

/// The one next step.
pub fn plan(group: &Group) -> Step {
    let Some(kept) = group.kept else {
        return group.anew();
    };
    if !group.is_sound() {
        return Step::Wait(Waiting::Accord);
    }
    if let Some(Wish::Recover(survivor)) = group.wish {
        return group.recover(survivor, kept);
    }
    if let Some(ordinal) = group.down_and_outdated() {
        return Step::Replace(ordinal);
    }
    if group.members.is_empty() {
        let has_been_up = group.recorded.is_some() || group.pods.values().any(|pod| pod.is_ready);
        return Step::Wait(if has_been_up { Waiting::Answer } else { Waiting::Founding });
    }
    if let Some(all) = group.pods_of_voters(kept) {
        return Step::Keep(all);
    }
    if let Some(step) = group.removal_of_the_last(kept) {
        return step;
    }
    if let Some(step) = group.replacement() {
        return step;
    }
    if let Some(waiting) = group.absence() {
        return Step::Wait(waiting);
    }
    let Some(leader) = group.leader() else {
        return Step::Wait(Waiting::Leader);
    };
    if let Some(step) = group.learner(kept) {
        return step;
    }
    if let Some(last) = group.last_member().filter(|last| last.ordinal >= group.wanted()) {
        return group.without(last, leader, |member| member.ordinal < group.wanted());
    }
    if let Some(needed) = group.needed().filter(|needed| *needed != kept) {
        return Step::Keep(needed);
    }
    if let Some(absent) = group.first_without_member() {
        return group.admit(absent, kept);
    }
    group.roll(leader)
}

impl Group {
    /// Whether what its members say can be built upon.
    pub fn is_sound(&self) -> bool {
        !self.violated.iter().any(|violated| violated.forbids_steps())
    }

    pub(in crate::kv_cluster) fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.votes())
    }

    /// Whether there is a pod of a member's name, whoever made it.
    pub(in crate::kv_cluster) fn has_pod(&self, ordinal: u16) -> bool {
        self.pods.contains_key(&ordinal) || self.strays.contains(&ordinal)
    }

    fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.role == Role::Leader)
    }

    fn member(&self, ordinal: u16) -> Option<&Member> {
        self.members.iter().find(|member| member.ordinal == ordinal)
    }

    fn last_member(&self) -> Option<&Member> {
        self.members.iter().max_by_key(|member| member.ordinal)
    }

    fn first_member(&self) -> Option<u16> {
        self.members.iter().map(|member| member.ordinal).min()
    }

    /// What is wanted for now: one that came back alone from somewhere in the middle first gets those before it.
    fn wanted(&self) -> u16 {
        let last = self.last_member().map_or(0, |last| last.ordinal + 1);
        if self.first_member().is_some_and(|first| first > 0) { self.wanted.max(last) } else { self.wanted }
    }

    /// Pods of all members.
    fn needed(&self) -> Option<Kept> {
        Some(Kept { first: self.first_member()?, end: self.last_member()?.ordinal + 1 })
    }

    /// Who begins. Where the first volume is gone and others are there, all of those do: one alone would found a group of nothing beside
    /// what they have.
    fn founders(&self) -> Kept {
        let last = self.claims.keys().next_back().filter(|_| !self.claims.contains_key(&0));
        Kept::to(last.map_or(self.wanted, |last| self.wanted.max(last + 1)))
    }

    /// There is no StatefulSet: one for all who belong to it, or for the one that is to go on alone. It does not meet the others again.
    fn anew(&self) -> Step {
        let all = Step::Keep(self.recorded.unwrap_or(self.founders()));
        let (Some(Wish::Recover(survivor)), Some(recorded), true) =
            (self.wish, self.recorded, self.is_sound())
        else {
            return all;
        };
        match self.recover(survivor, recorded) {
            refused @ Step::Decline(_) => refused,
            _ => Step::Isolate(survivor),
        }
    }

    /// What is to be kept where the pod of a voter is not: the group's volumes are older than its object, which asks for fewer.
    fn pods_of_voters(&self, kept: Kept) -> Option<Kept> {
        let ordinals = || self.voters().map(|member| member.ordinal);
        let (first, last) = (ordinals().min()?, ordinals().max()?);
        let all = Kept { first: kept.first.min(first), end: kept.end.max(last + 1) };
        (all != kept).then_some(all)
    }

    /// Up for the group and for Kubernetes. Of voters: a learner's pod is never ready, so that no client is led to it.
    fn is_up(&self, member: &Member) -> bool {
        member.is_up && self.pods.get(&member.ordinal).is_some_and(Pod::serves)
    }

    /// Whether the group is as it was but for that pod: it alone has to come back, be it the only voter or one whom the others wait for
    /// while they serve.
    pub(in crate::kv_cluster) fn misses_only(&self, ordinal: u16) -> bool {
        if self.members.is_empty() {
            return self.kept == Some(Kept::only(ordinal));
        }
        let others_are_up = self.voters().all(|member| member.ordinal == ordinal || self.is_up(member));
        others_are_up && (self.has_quorum() || self.voters().count() == 1)
    }

    /// What is waited for when not all voters are up.
    fn absence(&self) -> Option<Waiting> {
        let is_coming = |member: &Member| {
            let pod = self.pods.get(&member.ordinal);
            member.is_up && pod.is_some_and(|pod| !pod.is_leaving && !pod.is_stuck)
        };
        let absent = || self.voters().filter(|member| !self.is_up(member));
        let gone = absent().find(|member| !is_coming(member)).map(|gone| Waiting::Voter(gone.ordinal));
        gone.or_else(|| absent().next().map(|coming| Waiting::Readiness(coming.ordinal)))
    }

    fn first_without_member(&self) -> Option<u16> {
        // Beside those that are there, so that the pods of a StatefulSet have no gap.
        let first = self.first_member()?;
        if first > 0 {
            return Some(first - 1);
        }
        (0..self.wanted).find(|ordinal| self.member(*ordinal).is_none())
    }

    /// A member for a pod; what an earlier one left there goes first. A pod that is kept has a volume of its own by now: what was on an
    /// earlier one was marked, and went.
    fn admit(&self, absent: u16, kept: Kept) -> Step {
        match self.claims.get(&absent) {
            Some(_) if !kept.has(absent) => self.discard(absent),
            _ => Step::AddLearner(absent),
        }
    }

    /// A pod that is down for good and of an old template: a better one may mend it, and nothing is lost by trying. One that is slow to
    /// answer is not down: several of them at a time are a busy machine, and they have their votes.
    fn down_and_outdated(&self) -> Option<u16> {
        let answers =
            |ordinal: u16| self.members.iter().any(|member| member.ordinal == ordinal && member.is_up);
        let mut down = self.pods.iter().filter(|(ordinal, pod)| {
            pod.is_stuck && !pod.is_ready && !pod.is_newest && !pod.is_leaving && !answers(**ordinal)
        });
        // One that is on its way comes first.
        let is_one_leaving = self.pods.values().any(|pod| pod.is_leaving);
        down.next().filter(|_| !is_one_leaving).map(|(ordinal, _)| *ordinal)
    }

    /// A member that is to go and is away need not come back first, when all others are there.
    fn removal_of_the_last(&self, kept: Kept) -> Option<Step> {
        let last = self.last_member().filter(|last| last.ordinal >= self.wanted())?;
        let others_are_up =
            self.voters().filter(|member| member.id != last.id).all(|member| self.is_up(member));
        let has_leader = self.leader().is_some_and(|leader| leader.id != last.id);
        let is_away = !last.votes() || (!self.is_up(last) && kept.has(last.ordinal));
        (is_away && others_are_up && has_leader && self.members.len() > 1)
            .then_some(Step::Remove { id: last.id, ordinal: last.ordinal })
    }

    /// A learner gets its pod, then its vote, by what it says of itself; one that is wanted no more goes.
    fn learner(&self, kept: Kept) -> Option<Step> {
        let learner = self.members.iter().find(|member| member.role == Role::Learner)?;
        if learner.ordinal >= self.wanted() {
            return Some(Step::Remove { id: learner.id, ordinal: learner.ordinal });
        }
        if !kept.has(learner.ordinal) {
            return self.needed().map(Step::Keep);
        }
        let stays = self.pods.get(&learner.ordinal).is_some_and(|pod| !pod.is_leaving);
        let has_caught_up = learner.is_up && stays && learner.lag <= MOST_LAG;
        Some(if has_caught_up {
            Step::Promote(learner.id)
        } else {
            Step::Wait(Waiting::Learner(learner.ordinal))
        })
    }

    /// A member goes; if it leads, the lead goes first, to one that may have it.
    fn without(&self, gone: &Member, leader: &Member, may: impl Fn(&Member) -> bool) -> Step {
        if gone.id != leader.id {
            return Step::Remove { id: gone.id, ordinal: gone.ordinal };
        }
        self.hand_over(leader, may)
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
#[cfg(test)]
mod worlds;
