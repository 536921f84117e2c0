//! One member goes for good and another takes its place: of a lost or damaged volume.
//!
//! The mark on the claim is what is remembered of it: the member goes, then what is marked is deleted with its pod, and only then a
//! new member is added, for the pod that came back with an empty volume. Were it added before, the old pod could join as the new
//! member, and that one's log would be lost with the old volume.

use super::{Group, Member, Refusal, Step, Waiting, Wish};

impl Group {
    /// The next step of a replacement that was asked for or has begun.
    pub(super) fn replacement(&self) -> Option<Step> {
        if let Some(Wish::Replace(ordinal)) = self.wish {
            let step = self.begin(ordinal);
            // One that has to wait may wait for what has begun.
            if !matches!(step, Step::Wait(_)) {
                return Some(step);
            }
        }
        let condemned =
            self.claims.iter().filter(|(_, claim)| claim.is_condemned).map(|(ordinal, _)| *ordinal);
        // Of several, a voter that is away comes first: while it is, no other may go.
        let ordinal = condemned.min_by_key(|ordinal| match self.member(*ordinal) {
            Some(member) if member.votes() && !self.is_up(member) => 0,
            Some(member) if !member.votes() => 1,
            None => 2,
            Some(_) => 3,
        })?;
        if self.member(ordinal).is_some_and(Member::votes) && self.voters().count() == 1 {
            return Some(Step::Pardon(ordinal));
        }
        if let Some(away) = self.away_beside(ordinal) {
            return Some(Step::Wait(Waiting::Voter(away.ordinal)));
        }
        let Some(leader) = self.leader() else { return Some(Step::Wait(Waiting::Leader)) };
        match self.member(ordinal) {
            Some(member) => Some(self.without(member, leader, |_| true)),
            None => Some(self.discard(ordinal)),
        }
    }

    fn begin(&self, ordinal: u16) -> Step {
        let Some(member) = self.member(ordinal) else { return Step::Decline(Refusal::NoSuchMember) };
        if member.votes() && self.voters().count() == 1 {
            return Step::Decline(Refusal::OnlyVoter);
        }
        if let Some(away) = self.away_beside(ordinal) {
            return Step::Wait(Waiting::Voter(away.ordinal));
        }
        let is_going = self.pods.get(&ordinal).is_none_or(|pod| pod.is_leaving);
        match self.claims.get(&ordinal) {
            // The mark would go with it, before the member has gone.
            Some(claim) if claim.is_leaving && is_going => Step::Wait(Waiting::Leaving(ordinal)),
            // It was asked for before, and is under way.
            Some(claim) if claim.is_condemned => Step::Fulfilled,
            Some(_) => Step::Condemn(ordinal),
            // Kubernetes makes one with the next pod.
            None if self.pods.get(&ordinal).is_some_and(|pod| !pod.is_leaving) && !member.is_up => {
                Step::Restart(ordinal)
            }
            None => Step::Wait(Waiting::Voter(ordinal)),
        }
    }

    /// A voter beside that one that has to come back first. One that is away itself is not missed, as long as most of the others are
    /// there: of five that lost two, both are given up, one after the other.
    fn away_beside(&self, ordinal: u16) -> Option<&Member> {
        let others = || self.voters().filter(|member| member.ordinal != ordinal);
        let away = others().find(|member| !self.is_up(member))?;
        let is_there = self.member(ordinal).is_some_and(|member| member.votes() && self.is_up(member));
        let up = others().filter(|member| self.is_up(member)).count();
        (is_there || up <= others().count() / 2).then_some(away)
    }

    /// What nobody has goes, unless it is on its way already.
    pub(super) fn discard(&self, ordinal: u16) -> Step {
        let is_going = self.claims.get(&ordinal).is_none_or(|claim| claim.is_leaving);
        let has_pod = self.pods.get(&ordinal).is_some_and(|pod| !pod.is_leaving);
        if is_going && !has_pod { Step::Wait(Waiting::Leaving(ordinal)) } else { Step::Discard(ordinal) }
    }
}
