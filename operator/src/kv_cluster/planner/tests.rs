//! The planner before tables, and before 1,000 seeded worlds in which everything goes wrong that can.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

fn member(ordinal: u16, role: Role) -> Member {
    Member { id: u64::from(ordinal) + 100, ordinal, role, is_up: true, lag: 0 }
}

fn pod() -> Pod {
    Pod { is_ready: true, is_newest: true, is_leaving: false }
}

/// A healthy group of voters `0..voters` that `0` leads.
fn healthy(voters: u16, wanted: u16) -> Group {
    let role = |ordinal| if ordinal == 0 { Role::Leader } else { Role::Follower };
    Group {
        wanted,
        kept: Some(voters),
        pods: (0..voters).map(|ordinal| (ordinal, pod())).collect(),
        members: (0..voters).map(|ordinal| member(ordinal, role(ordinal))).collect(),
    }
}

type Case = (&'static str, u16, u16, fn(&mut Group), Step);

#[track_caller]
fn check(table: &[Case]) {
    for (name, voters, wanted, change, expected) in table {
        let mut group = healthy(*voters, *wanted);
        change(&mut group);
        assert_eq!(plan(&group), *expected, "{name}");
    }
}

#[test]
fn a_group_grows() {
    check(&[
        ("grow: the member first", 3, 5, |_| {}, Step::AddLearner(3)),
        (
            "grow: then its pod",
            3,
            5,
            |g| g.members.push(Member { is_up: false, ..member(3, Role::Learner) }),
            Step::Keep(4),
        ),
        (
            "grow: it catches up",
            3,
            5,
            |g| {
                g.kept = Some(4);
                g.pods.insert(3, pod());
                g.members.push(Member { lag: MOST_LAG + 1, ..member(3, Role::Learner) });
            },
            Step::Wait(Waiting::Learner(3)),
        ),
        (
            "grow: then its vote",
            3,
            5,
            |g| {
                g.kept = Some(4);
                g.pods.insert(3, pod());
                g.members.push(member(3, Role::Learner));
            },
            Step::Promote(103),
        ),
        ("grow: not while one is away", 3, 5, |g| g.members[1].is_up = false, Step::Wait(Waiting::Voter(1))),
    ]);
}

#[test]
fn a_group_shrinks() {
    check(&[
        ("shrink: the last by name", 5, 3, |_| {}, Step::Remove { id: 104, ordinal: 4 }),
        (
            "shrink: its pod after it",
            5,
            3,
            |g| {
                g.members.pop();
                g.members.pop();
            },
            Step::Keep(3),
        ),
        (
            "shrink: a leader hands over first",
            5,
            3,
            |g| {
                g.members[0].role = Role::Follower;
                g.members[4].role = Role::Leader;
            },
            Step::MoveLeader { from: 104, to: 100 },
        ),
        (
            "shrink: one that is away goes as it is",
            5,
            3,
            |g| g.members[4].is_up = false,
            Step::Remove { id: 104, ordinal: 4 },
        ),
        (
            "shrink: not while another is away",
            5,
            3,
            |g| g.members[1].is_up = false,
            Step::Wait(Waiting::Voter(1)),
        ),
    ]);
}

#[test]
fn pods_are_made_anew() {
    check(&[
        (
            "roll: followers first",
            3,
            3,
            |g| g.pods.values_mut().for_each(|pod| pod.is_newest = false),
            Step::Replace(1),
        ),
        (
            "roll: not while one is away",
            3,
            3,
            |g| {
                g.pods.values_mut().for_each(|pod| pod.is_newest = false);
                g.members[2].is_up = false;
            },
            Step::Wait(Waiting::Voter(2)),
        ),
        (
            "roll: not while one lags",
            3,
            3,
            |g| {
                g.pods.values_mut().for_each(|pod| pod.is_newest = false);
                g.members[2].lag = MOST_LAG + 1;
            },
            Step::Wait(Waiting::Lag(2)),
        ),
        (
            "roll: the leader hands over",
            3,
            3,
            |g| g.pods.get_mut(&0).expect("pod 0").is_newest = false,
            Step::MoveLeader { from: 100, to: 101 },
        ),
        ("roll: one alone", 1, 1, |g| g.pods.get_mut(&0).expect("pod 0").is_newest = false, Step::Replace(0)),
    ]);
}

#[test]
fn it_rests_and_waits() {
    check(&[
        ("nothing to do", 3, 3, |_| {}, Step::Rest),
        ("nothing there", 3, 3, |g| g.kept = None, Step::Keep(3)),
        (
            "a pod that is down is replaced by a better one",
            3,
            3,
            |g| {
                g.members[2].is_up = false;
                g.pods.insert(2, Pod { is_ready: false, is_newest: false, is_leaving: false });
            },
            Step::Replace(2),
        ),
        (
            "a pod that answers is not down, whatever its probe says",
            3,
            3,
            |g| {
                g.pods.insert(2, Pod { is_ready: false, is_newest: false, is_leaving: false });
            },
            Step::Wait(Waiting::Voter(2)),
        ),
        ("no leader", 3, 3, |g| g.members[0].role = Role::Follower, Step::Wait(Waiting::Leader)),
        ("nobody answers", 3, 3, |g| g.members.clear(), Step::Wait(Waiting::Answer)),
        (
            "it is being founded",
            3,
            3,
            |g| {
                g.members.clear();
                g.pods.values_mut().for_each(|pod| pod.is_ready = false);
            },
            Step::Wait(Waiting::Founding),
        ),
        (
            "a learner that is wanted no more goes",
            3,
            3,
            |g| g.members.push(Member { is_up: false, ..member(3, Role::Learner) }),
            Step::Remove { id: 103, ordinal: 3 },
        ),
    ]);
}

/// A world around the planner: pods die and come back, leaders change, learners lag, and users change their minds.
struct World {
    group: Group,
    random: StdRng,
    /// Pods that are away because a step of ours took them.
    by_our_hand: BTreeSet<u16>,
    next_id: u64,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let voters = [1, 3, 5, 7][random.random_range(0..4)];
        Self {
            group: healthy(voters, voters),
            random,
            by_our_hand: BTreeSet::default(),
            next_id: 1_000,
            seed,
        }
    }

    fn voters(&self) -> usize {
        self.group.members.iter().filter(|member| member.votes()).count()
    }

    fn up(&self) -> usize {
        self.group.voters().filter(|member| self.group.is_up(member)).count()
    }

    fn has_quorum(&self) -> bool {
        self.up() > self.voters() / 2
    }

    /// Something happens that nobody asked us about.
    fn fault(&mut self) {
        let ordinals: Vec<u16> = self.group.pods.keys().copied().collect();
        let Some(ordinal) = ordinals.get(self.random.random_range(0..ordinals.len().max(1))).copied() else {
            return;
        };
        match self.random.random_range(0..7) {
            0 => self.crash(ordinal),
            1 => self.cut_off(ordinal),
            2 => self.group.wanted = [1, 3, 5, 7][self.random.random_range(0..4)],
            3 => self.group.pods.values_mut().for_each(|pod| pod.is_newest = false),
            4 => self.elect(),
            5 => {
                if let Some(member) = self.group.members.iter_mut().find(|member| member.ordinal == ordinal) {
                    member.lag = 5_000;
                }
            }
            _ => {}
        }
    }

    fn crash(&mut self, ordinal: u16) {
        if let Some(pod) = self.group.pods.get_mut(&ordinal) {
            pod.is_ready = false;
        }
        self.cut_off(ordinal);
    }

    fn cut_off(&mut self, ordinal: u16) {
        if let Some(member) = self.group.members.iter_mut().find(|member| member.ordinal == ordinal) {
            member.is_up = false;
        }
        self.settle_lead();
    }

    /// A leader that is away is followed by another, if most are there.
    fn settle_lead(&mut self) {
        let leads = self.group.members.iter().any(|member| member.role == Role::Leader && member.is_up);
        if !leads {
            self.elect();
        }
    }

    fn elect(&mut self) {
        for member in &mut self.group.members {
            if member.role == Role::Leader {
                member.role = Role::Follower;
            }
        }
        let up = self.group.members.iter().filter(|member| member.votes() && member.is_up).count();
        if up <= self.voters() / 2 {
            return;
        }
        let able: Vec<u64> = self
            .group
            .members
            .iter()
            .filter(|member| member.votes() && member.is_up)
            .map(|member| member.id)
            .collect();
        let leader = able[self.random.random_range(0..able.len())];
        for member in &mut self.group.members {
            if member.id == leader {
                member.role = Role::Leader;
            }
        }
    }

    /// Kubernetes and the members do their part: pods come up, members answer, logs are caught up with.
    fn recover(&mut self, surely: bool) {
        let kept = self.group.kept.unwrap_or_default();
        for ordinal in 0..kept {
            if !surely && self.random.random_bool(0.5) {
                continue;
            }
            let pod = self.group.pods.entry(ordinal).or_insert(Pod { is_newest: true, ..pod() });
            pod.is_ready = true;
            if let Some(member) = self.group.members.iter_mut().find(|member| member.ordinal == ordinal) {
                member.is_up = true;
                member.lag = 0;
            }
            self.by_our_hand.remove(&ordinal);
        }
        self.group.pods.retain(|ordinal, _| *ordinal < kept);
        self.by_our_hand.retain(|ordinal| *ordinal < kept);
        self.settle_lead();
    }

    /// Does what the planner says, and holds it to its word.
    fn step(&mut self) -> Step {
        let before = self.group.clone();
        let had_quorum = self.has_quorum();
        let step = plan(&before);
        let seed = self.seed;
        match &step {
            Step::Rest | Step::Wait(_) => {}
            Step::Keep(kept) => {
                assert!(
                    before.members.iter().all(|member| member.ordinal < *kept),
                    "seed {seed}: a pod went before its member: {before:?}"
                );
                self.group.kept = Some(*kept);
                self.group.pods.retain(|ordinal, _| ordinal < kept);
                self.by_our_hand.retain(|ordinal| ordinal < kept);
            }
            Step::AddLearner(ordinal) => {
                assert!(before.members.iter().all(Member::votes), "seed {seed}: two learners: {before:?}");
                self.next_id += 1;
                self.group.members.push(Member {
                    id: self.next_id,
                    is_up: false,
                    lag: 9_999,
                    ..member(*ordinal, Role::Learner)
                });
            }
            Step::Promote(id) => {
                let learner =
                    self.group.members.iter_mut().find(|member| member.id == *id).expect("a member");
                assert!(learner.is_up && learner.lag <= MOST_LAG, "seed {seed}: {before:?}");
                learner.role = Role::Follower;
            }
            Step::MoveLeader { from, to } => {
                for member in &mut self.group.members {
                    if member.id == *from {
                        member.role = Role::Follower;
                    } else if member.id == *to {
                        assert!(member.is_up && member.votes(), "seed {seed}: {before:?}");
                        member.role = Role::Leader;
                    }
                }
            }
            Step::Remove { id, .. } => {
                let gone = before.members.iter().find(|member| member.id == *id).expect("a member");
                assert_ne!(gone.role, Role::Leader, "seed {seed}: the leader was removed: {before:?}");
                assert!(gone.ordinal >= before.wanted, "seed {seed}: one that is wanted went: {before:?}");
                self.group.members.retain(|member| member.id != *id);
                self.by_our_hand.remove(&gone.ordinal);
            }
            Step::Replace(ordinal) => self.replace(&before, *ordinal),
        }
        if had_quorum && self.voters() > 1 {
            assert!(self.has_quorum(), "seed {seed}: {step:?} lost the quorum of {before:?}");
        }
        step
    }

    fn replace(&mut self, before: &Group, ordinal: u16) {
        let seed = self.seed;
        let found = before.members.iter().find(|member| member.ordinal == ordinal);
        let is_up = found.is_some_and(|member| member.votes() && before.is_up(member));
        if is_up {
            assert!(self.by_our_hand.is_empty(), "seed {seed}: a second one by our hand: {before:?}");
            assert_eq!(self.up(), self.voters(), "seed {seed}: another is away: {before:?}");
            if self.voters() > 1 {
                let role = found.expect("it is up").role;
                assert_ne!(role, Role::Leader, "seed {seed}: the leader's pod went: {before:?}");
            }
            self.by_our_hand.insert(ordinal);
        }
        self.group.pods.insert(ordinal, Pod { is_ready: false, is_newest: true, is_leaving: false });
        self.cut_off(ordinal);
    }
}

#[test]
fn a_thousand_worlds_lose_no_quorum_by_our_hand_and_come_to_rest() {
    let mut replaced = 0;
    for seed in 0..1_000 {
        let mut world = World::new(seed);
        for _ in 0..200 {
            if world.random.random_bool(0.3) {
                world.fault();
            }
            if world.random.random_bool(0.6) {
                world.recover(false);
            }
            replaced += usize::from(matches!(world.step(), Step::Replace(_)));
        }
        let mut rests = false;
        for _ in 0..200 {
            world.recover(true);
            if world.step() == Step::Rest {
                rests = true;
                break;
            }
        }
        let group = &world.group;
        assert!(rests, "seed {seed}: {group:?}");
        assert_eq!(world.voters(), usize::from(group.wanted), "seed {seed}: {group:?}");
        assert_eq!(group.kept, Some(group.wanted), "seed {seed}: {group:?}");
        assert!(group.pods.values().all(|pod| pod.is_newest && pod.is_ready), "seed {seed}: {group:?}");
    }
    assert!(replaced > 1_000, "only {replaced} pods were replaced; the worlds are too quiet");
}
