//! How many pods a drain has to leave.

use super::{Group, Step};

/// Voters that have to stay for one of so many to go: one at a time, and none where the others are too few.
pub(in crate::kv_cluster) fn stay_of(voters: u16) -> u16 {
    voters.saturating_sub(1).max(voters / 2 + 1)
}

impl Group {
    /// Pods that have to be ready for another to be evicted, from before this step on. It counts voters and not pods: a learner's pod is
    /// never ready, and however long it takes or finds no node, one voter may go.
    pub(in crate::kv_cluster) fn pods_that_stay(&self, step: &Step) -> u16 {
        if self.members.is_empty() || !self.is_sound() {
            return stay_of(self.kept.or(self.recorded).map_or(self.wanted, super::Kept::count));
        }
        let count = |found: usize| u16::try_from(found).unwrap_or(u16::MAX);
        let voters = count(self.voters().count());
        // The budget is there before the step is done: it is to hold for both sides of it.
        let stay = match step {
            Step::Promote(_) => stay_of(voters + 1),
            Step::Remove { .. } => stay_of(voters).max(stay_of(voters.saturating_sub(1)) + 1),
            _ => stay_of(voters),
        };
        // One that has no vote, or lost it, and whose pod is taken for a voter's.
        let votes = |ordinal: u16| self.member(ordinal).is_some_and(super::Member::votes);
        let strangers = self.pods.iter().filter(|(ordinal, pod)| pod.is_ready && !votes(**ordinal)).count();
        stay + count(strangers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{healthy, member, of_learner, with_learner};
    use super::super::{MOST_LAG, Member, Role, plan};
    use super::*;

    #[test]
    fn a_drain_leaves_most_voters_whatever_is_under_way() {
        type Case = (&'static str, u16, u16, fn(&mut Group), u16);
        let table: [Case; 10] = [
            ("one at a time", 5, 5, |_| {}, 4),
            ("of three", 3, 3, |_| {}, 2),
            ("nobody answers", 3, 3, |g| g.members.clear(), 2),
            (
                "while a learner takes the data, or its pod finds no node",
                3,
                5,
                |g| {
                    with_learner(g);
                    g.members.push(Member { lag: MOST_LAG + 1, ..member(3, Role::Learner) });
                },
                2,
            ),
            (
                "before it gets its vote",
                3,
                5,
                |g| {
                    with_learner(g);
                    g.members.push(member(3, Role::Learner));
                },
                3,
            ),
            (
                "while its pod is about to be ready",
                4,
                5,
                |g| g.pods.get_mut(&3).expect("pod 3").is_ready = false,
                3,
            ),
            ("while the pod of one that left is taken for a voter's", 5, 3, |g| g.members.truncate(4), 4),
            (
                "after that",
                5,
                3,
                |g| {
                    g.members.pop();
                    g.pods.get_mut(&4).expect("pod 4").is_ready = false;
                },
                3,
            ),
            (
                "before one of three is given up",
                3,
                3,
                |g| g.claims.get_mut(&1).expect("claim 1").is_condemned = true,
                3,
            ),
            (
                "none of two, which are all",
                3,
                3,
                |g| {
                    g.members[1] = Member { lag: MOST_LAG + 1, ..member(1, Role::Learner) };
                    g.pods.insert(1, of_learner());
                },
                2,
            ),
        ];
        for (name, voters, wanted, change, expected) in table {
            let mut group = healthy(voters, wanted);
            change(&mut group);
            assert_eq!(group.pods_that_stay(&plan(&group)), expected, "{name}");
        }
    }
}
