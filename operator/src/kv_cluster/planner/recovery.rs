//! Most members are lost for good: what one of them has goes on alone, because a person said so.
//!
//! The others must never come back with their data, since they would know of a past that is no more: their pods go first, before the one
//! that is left is told to forget them, and their volumes before anybody is added again.

use super::{Group, Kept, Pod, Refusal, Step, Waiting};

impl Group {
    pub(super) fn recover(&self, survivor: u16, kept: Kept) -> Step {
        let is_alone =
            self.members.len() == 1 && self.leader().is_some_and(|leader| leader.ordinal == survivor);
        if !is_alone && self.has_quorum() {
            return Step::Decline(Refusal::QuorumStands);
        }
        let is_known = self.recorded.is_none_or(|recorded| recorded.has(survivor));
        if survivor >= self.wanted || !is_known {
            return Step::Decline(Refusal::NoSuchMember);
        }
        let is_isolated = kept == Kept::only(survivor) && self.recorded.is_some_and(|needed| needed != kept);
        let has_begun = is_isolated || self.pods.get(&survivor).is_some_and(|pod| !pod.is_unaware);
        if !is_alone && !has_begun && self.is_out_of_reach() {
            return Step::Decline(Refusal::OutOfReach);
        }
        if kept != Kept::only(survivor) {
            return Step::Isolate(survivor);
        }
        if let Some(other) = self.beside(survivor) {
            return Step::Wait(Waiting::Leaving(other));
        }
        match self.pods.get(&survivor) {
            Some(pod) if pod.is_unaware && !pod.is_leaving => return Step::Restart(survivor),
            Some(pod) if is_alone && !pod.is_unaware => {}
            _ => return Step::Wait(Waiting::Answer),
        }
        match self.claims.keys().find(|ordinal| **ordinal != survivor) {
            Some(other) => self.discard(*other),
            None => Step::Fulfilled,
        }
    }

    /// Whether the one that is to go on alone may be told to forget the others. All that start are told: one that is beside it would go on
    /// alone too, with another past.
    pub(in crate::kv_cluster) fn may_forget(&self, survivor: u16) -> bool {
        self.kept == Some(Kept::only(survivor)) && self.beside(survivor).is_none()
    }

    fn beside(&self, survivor: u16) -> Option<u16> {
        self.pods.keys().chain(&self.strays).copied().find(|ordinal| *ordinal != survivor)
    }

    /// Whether the members are there for Kubernetes, though too few answer the operator: a network is between. A pod is ready while its member
    /// reads what a leader confirms whom most follow. Where none answers, nobody knows how many they are, and one that is ready is enough.
    pub fn is_out_of_reach(&self) -> bool {
        let is_ready = |ordinal: u16| self.pods.get(&ordinal).is_some_and(Pod::serves);
        if self.members.is_empty() {
            return self.pods.values().any(Pod::serves);
        }
        let ready = self.voters().filter(|member| is_ready(member.ordinal)).count();
        !self.has_quorum() && ready > self.voters().count() / 2
    }

    /// Whether most voters answer and one of them leads.
    pub fn has_quorum(&self) -> bool {
        let voters = self.voters().count();
        let up = self.voters().filter(|member| member.is_up).count();
        self.leader().is_some_and(|leader| leader.is_up) && up > voters / 2
    }
}
