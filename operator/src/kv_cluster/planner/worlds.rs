//! A world around the planner: pods die and come back, volumes are lost, leaders change, learners lag, and users change their minds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::tests::{healthy, member, pod};
use super::*;
use crate::kv_cluster::invariants::{Answered, Before, Observed, Process};

struct World {
    group: Group,
    random: StdRng,
    /// Pods that are away because a step of ours took them.
    by_our_hand: BTreeSet<u16>,
    /// Whose data lies on which volume. Nobody starts with another's, and no voter without its own.
    data: BTreeMap<u16, u64>,
    /// Members whose log was on a volume that was given up: they can never go on from another.
    burnt: BTreeSet<u64>,
    /// Who is to forget all others. Whoever starts is told so, be it that one or not.
    forced: Option<u16>,
    /// Pods that have to be ready for a drain to take another.
    stay: u16,
    next_id: u64,
    /// What the operator has seen of it.
    looked: Before,
    looks: u64,
    seed: u64,
    drained: usize,
    replaced: usize,
    recovered: usize,
    made_again: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let voters = [1, 3, 5, 7][random.random_range(0..4)];
        let group = healthy(voters, voters);
        let data = group.members.iter().map(|member| (member.ordinal, member.id)).collect();
        let (by_our_hand, burnt) = (BTreeSet::default(), BTreeSet::default());
        Self {
            group,
            random,
            by_our_hand,
            data,
            burnt,
            forced: None,
            stay: voters,
            next_id: 1_000,
            looked: Before::default(),
            looks: 0,
            seed,
            drained: 0,
            replaced: 0,
            recovered: 0,
            made_again: 0,
        }
    }

    fn voters(&self) -> usize {
        self.group.members.iter().filter(|member| member.votes()).count()
    }

    /// Voters that are up for the group and for Kubernetes.
    fn up(&self) -> usize {
        self.group.voters().filter(|member| self.group.is_up(member)).count()
    }

    /// Whether most voters are there, whatever Kubernetes knows of their pods.
    fn has_quorum(&self) -> bool {
        self.group.voters().filter(|member| member.is_up).count() > self.voters() / 2
    }

    fn has_data(&self, member: &Member) -> bool {
        self.data.get(&member.ordinal) == Some(&member.id)
    }

    /// Something happens that nobody asked us about.
    fn fault(&mut self) {
        let ordinals: Vec<u16> = self.group.pods.keys().copied().collect();
        let Some(ordinal) = ordinals.get(self.random.random_range(0..ordinals.len().max(1))).copied() else {
            return;
        };
        match self.random.random_range(0..13) {
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
            6 => self.lose_volume(ordinal),
            7 if self.group.wish.is_none() => self.group.wish = Some(Wish::Replace(ordinal)),
            8 => self.group.kept = None,
            10 => self.make_again(),
            9 => self.drain(ordinal),
            _ => {}
        }
    }

    /// The object is deleted and made again for another number, over the volumes that stayed.
    fn make_again(&mut self) {
        // One alone with an empty volume would found a group of its own.
        if !self.group.voters().any(|first| first.ordinal == 0 && self.has_data(first)) {
            return;
        }
        self.group.pods.clear();
        self.by_our_hand.clear();
        self.group.members.iter_mut().for_each(|member| member.is_up = false);
        self.elect();
        (self.group.kept, self.group.recorded, self.group.wish) = (None, None, None);
        self.group.wanted = [1, 3, 5, 7][self.random.random_range(0..4)];
        self.made_again += 1;
    }

    /// A node is drained: the disruption budget has its say, and knows of readiness alone.
    fn drain(&mut self, ordinal: u16) {
        let ready = self.group.pods.values().filter(|pod| pod.is_ready).count();
        let is_ready = |ordinal: u16| self.group.pods.get(&ordinal).is_some_and(|pod| pod.is_ready);
        if is_ready(ordinal) && ready <= usize::from(self.stay) {
            return;
        }
        // Nobody is gone whose probe was answered a moment ago, and who goes is not there behind one that was not.
        let as_probed = |member: &Member| {
            member.is_up == is_ready(member.ordinal) || (member.is_up && member.ordinal != ordinal)
        };
        let is_known = self.group.voters().all(as_probed);
        let had_quorum = self.has_quorum();
        self.group.pods.remove(&ordinal);
        self.cut_off(ordinal);
        self.drained += 1;
        if had_quorum && is_known {
            let (seed, stay, group) = (self.seed, self.stay, &self.group);
            assert!(self.has_quorum(), "seed {seed}: {stay} were to stay, and {ordinal} went: {group:?}");
        }
    }

    fn crash(&mut self, ordinal: u16) {
        if let Some(pod) = self.group.pods.get_mut(&ordinal) {
            (pod.is_ready, pod.is_stuck) = (false, true);
        }
        self.cut_off(ordinal);
    }

    fn cut_off(&mut self, ordinal: u16) {
        if let Some(member) = self.group.members.iter_mut().find(|member| member.ordinal == ordinal) {
            member.is_up = false;
        }
        self.settle_lead();
    }

    /// Not the last one that the data lies on: nothing brings that back but a backup.
    fn lose_volume(&mut self, ordinal: u16) {
        let kept = |member: &&Member| member.ordinal < self.group.wanted && self.has_data(member);
        if self.group.voters().filter(kept).filter(|member| member.ordinal != ordinal).count() > 0 {
            self.data.remove(&ordinal);
            self.crash(ordinal);
        }
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
        let able: Vec<u64> =
            self.group.voters().filter(|member| member.is_up).map(|member| member.id).collect();
        if able.len() <= self.voters() / 2 {
            return;
        }
        let leader = able[self.random.random_range(0..able.len())];
        for member in &mut self.group.members {
            if member.id == leader {
                member.role = Role::Leader;
            }
        }
    }

    /// The user looks after what cannot mend itself.
    fn wish(&mut self) {
        let sound: Vec<u16> =
            self.group.voters().filter(|member| self.has_data(member)).map(|member| member.ordinal).collect();
        if sound.len() > self.voters() / 2 {
            let is_given_up =
                |ordinal: u16| self.group.claims.get(&ordinal).is_some_and(|it| it.is_condemned);
            let is_lost = |member: &&Member| !self.has_data(member) && !is_given_up(member.ordinal);
            let lost = self.group.voters().find(is_lost).map(|member| Wish::Replace(member.ordinal));
            self.group.wish = lost.or(self.group.wish);
        } else if let (Some(survivor), false) =
            (sound.first(), matches!(self.group.wish, Some(Wish::Recover(it)) if sound.contains(&it)))
        {
            // One that was to go is to stay now.
            self.group.wanted = self.group.wanted.max((survivor + 1) | 1);
            self.group.wish = Some(Wish::Recover(*survivor));
        }
    }

    /// Kubernetes and the members do their part: pods come up, members answer, logs are caught up with.
    fn recover(&mut self, surely: bool) {
        let Some(kept) = self.group.kept else { return };
        for ordinal in kept.first..kept.end {
            if !surely && self.random.random_bool(0.5) {
                continue;
            }
            self.group.claims.entry(ordinal).or_default();
            let is_unaware = self.group.pods.get(&ordinal).is_some_and(|pod| pod.is_unaware);
            let pod = self.group.pods.entry(ordinal).or_insert(pod());
            let Some(member) = self.group.members.iter_mut().find(|member| member.ordinal == ordinal) else {
                pod.is_ready = false;
                continue;
            };
            if !member.votes() {
                self.data.entry(ordinal).or_insert(member.id);
            }
            let can_start = self.data.get(&ordinal) == Some(&member.id) && !self.burnt.contains(&member.id);
            // A learner's pod is never ready, for however long it takes.
            let is_ready = can_start && member.votes();
            (pod.is_ready, pod.is_stuck, member.is_up) = (is_ready, !is_ready, can_start);
            if can_start {
                member.lag = 0;
                self.by_our_hand.remove(&ordinal);
                if self.forced == Some(ordinal) && !is_unaware {
                    member.role = Role::Leader;
                    self.group.members = vec![member.clone()];
                }
            }
        }
        self.group.pods.retain(|ordinal, _| kept.has(*ordinal));
        self.by_our_hand.retain(|ordinal| kept.has(*ordinal));
        self.only_the_survivor_forgets();
        self.settle_lead();
    }

    /// What can be seen of it: nobody lists the members when none answers.
    fn seen(&mut self) -> Group {
        let mut seen = self.group.clone();
        if seen.members.iter().all(|member| !member.is_up) {
            seen.members.clear();
        }
        if let Some(needed) = seen.needed() {
            self.group.recorded = Some(needed);
            seen.recorded = Some(needed);
        }
        if let Some(Wish::Recover(survivor)) = seen.wish {
            let is_told = self.forced == Some(survivor) && seen.may_forget(survivor);
            if let Some(pod) = seen.pods.get_mut(&survivor) {
                pod.is_unaware |= !is_told;
            }
        }
        seen
    }

    /// What those that start are told of the others is written before all else of a step.
    fn tell(&mut self, before: &Group, step: &Step) {
        let survivor = match before.wish {
            Some(Wish::Recover(survivor)) if before.may_forget(survivor) => Some(survivor),
            _ => None,
        };
        let survivor = survivor.filter(|_| !matches!(step, Step::Decline(_)));
        let newly = survivor.filter(|_| self.forced.is_none());
        if let Some(pod) = newly.and_then(|survivor| self.group.pods.get_mut(&survivor)) {
            pod.is_unaware = true;
        }
        self.forced = survivor;
        self.only_the_survivor_forgets();
    }

    /// Any pod that is there may start anew at any time, and do what it is told.
    fn only_the_survivor_forgets(&self) {
        let (seed, group) = (self.seed, &self.group);
        let Some(survivor) = self.forced else { return };
        let is_alone = group.pods.keys().all(|ordinal| *ordinal == survivor);
        assert!(is_alone, "seed {seed}: each would go on without the others: {group:?}");
    }

    /// Whatever goes wrong, and whatever is done about it, members do not contradict one another.
    fn look(&mut self, group: &Group) {
        self.looks += 1;
        let up = || group.members.iter().filter(|member| member.is_up);
        let answer = |member: &Member| Answered { cluster: 1, member: member.id, applied: self.looks };
        let process = |member: &Member| Process { pod: member.id.to_string(), restarts: 0 };
        let listed = group.members.iter().map(|member| (member.id, format!("kv-{}", member.ordinal)));
        let observed = Observed {
            processes: up().map(|member| (member.ordinal, process(member))).collect(),
            answers: up().map(|member| (member.ordinal, answer(member))).collect(),
            listed: listed.collect(),
        };
        let now = Instant::now() + Duration::from_mins(self.looks);
        self.looked = self.looked.then("kv", &observed, now);
        let seed = self.seed;
        assert!(self.looked.violations.is_empty(), "seed {seed}: {:?}: {group:?}", self.looked.violations);
    }

    /// A network comes between the operator and all members, and a person takes that for a lost majority.
    fn mislead(&self) {
        let is_recovered = matches!(self.group.wish, Some(Wish::Recover(_)));
        if is_recovered || self.up() <= self.voters() / 2 {
            return;
        }
        for survivor in self.group.pods.keys() {
            let wish = Some(Wish::Recover(*survivor));
            let mut seen = Group { members: Vec::new(), wish, ..self.group.clone() };
            seen.pods.get_mut(survivor).expect("its key").is_unaware = true;
            let (seed, step) = (self.seed, plan(&seen));
            // Who votes alone has nobody's data to lose.
            let is_alone = self.voters() == 1;
            let is_harmless = matches!(step, Step::Decline(_) | Step::Keep(_))
                || (is_alone && step == Step::Restart(*survivor));
            assert!(is_harmless, "seed {seed}: {step:?} of a group that serves: {seen:?}");
        }
    }

    /// Does what the planner says, and holds it to its word.
    fn step(&mut self) -> Step {
        let before = self.seen();
        self.look(&before);
        let had_quorum = self.has_quorum();
        let step = plan(&before);
        self.stay = before.pods_that_stay(&step);
        let seed = self.seed;
        self.tell(&before, &step);
        if self.random.random_bool(0.02) {
            // The operator dies in the middle of it.
            return Step::Wait(Waiting::Accord);
        }
        match &step {
            Step::Rest | Step::Wait(_) => {}
            Step::Keep(kept) => {
                assert!(
                    self.group.pods.keys().all(|it| kept.has(*it) || self.group.member(*it).is_none()),
                    "seed {seed}: a pod went before its member: {before:?}"
                );
                self.keep(*kept);
            }
            Step::AddLearner(ordinal) => self.add(&before, *ordinal),
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
            Step::Remove { id, .. } => self.remove(&before, *id),
            Step::Replace(ordinal) => self.replace(&before, *ordinal),
            other => self.mend(&before, other),
        }
        self.only_the_survivor_forgets();
        if had_quorum && self.voters() > 1 {
            assert!(self.has_quorum(), "seed {seed}: {step:?} lost the quorum of {before:?}");
        }
        step
    }

    fn keep(&mut self, kept: Kept) {
        self.group.kept = Some(kept);
        self.group.pods.retain(|ordinal, _| kept.has(*ordinal));
        self.by_our_hand.retain(|ordinal| kept.has(*ordinal));
    }

    fn add(&mut self, before: &Group, ordinal: u16) {
        let seed = self.seed;
        assert!(before.members.iter().all(Member::votes), "seed {seed}: two learners: {before:?}");
        self.next_id += 1;
        self.group.members.push(Member {
            id: self.next_id,
            is_up: false,
            lag: 9_999,
            ..member(ordinal, Role::Learner)
        });
    }

    fn remove(&mut self, before: &Group, id: u64) {
        let seed = self.seed;
        let gone = before.members.iter().find(|member| member.id == id).expect("a member");
        assert_ne!(gone.role, Role::Leader, "seed {seed}: the leader was removed: {before:?}");
        let is_replaced = before.claims.get(&gone.ordinal).is_some_and(|claim| claim.is_condemned);
        assert!(
            is_replaced || gone.ordinal >= before.wanted,
            "seed {seed}: one that is wanted went: {before:?}"
        );
        self.group.members.retain(|member| member.id != id);
        self.by_our_hand.remove(&gone.ordinal);
    }

    /// Steps that concern volumes, and what a person asked for.
    fn mend(&mut self, before: &Group, step: &Step) {
        let seed = self.seed;
        match step {
            Step::Condemn(ordinal) => {
                self.group.claims.get_mut(ordinal).expect("a claim").is_condemned = true;
                self.group.wish = None;
            }
            Step::Pardon(ordinal) => {
                self.group.claims.get_mut(ordinal).expect("a claim").is_condemned = false;
            }
            Step::Discard(ordinal) => {
                let has_voter = before.voters().any(|member| member.ordinal == *ordinal);
                assert!(!has_voter, "seed {seed}: a voter lost its volume by our hand: {before:?}");
                self.replaced += 1;
                self.group.claims.remove(ordinal);
                self.group.pods.remove(ordinal);
                self.burnt.extend(self.data.remove(ordinal));
            }
            Step::Isolate(survivor) => {
                // Without a StatefulSet, one that is alone already has its own made anew.
                let is_alone = before.kept.is_none() && self.voters() == 1;
                assert!(is_alone || !self.has_quorum(), "seed {seed}: nothing was lost: {before:?}");
                self.keep(Kept::only(*survivor));
            }
            Step::Restart(ordinal) => {
                let is_up = before.member(*ordinal).is_some_and(|member| member.is_up);
                let is_survivor = before.wish == Some(Wish::Recover(*ordinal));
                assert!(is_survivor || !is_up, "seed {seed}: {before:?}");
                self.group.pods.remove(ordinal);
                self.cut_off(*ordinal);
            }
            Step::Fulfilled if matches!(before.wish, Some(Wish::Replace(_))) => self.group.wish = None,
            Step::Fulfilled => {
                assert_eq!(before.claims.len(), 1, "seed {seed}: an old volume might come back: {before:?}");
                self.recovered += 1;
                self.group.wish = None;
            }
            Step::Decline(_) => {
                self.group.wish = None;
                self.group.pods.values_mut().for_each(|pod| pod.is_unaware = false);
            }
            other => panic!("{other:?} is not of those"),
        }
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
        self.group.pods.insert(ordinal, Pod { is_ready: false, ..pod() });
        self.cut_off(ordinal);
    }
}

#[test]
fn a_thousand_worlds_lose_no_quorum_by_our_hand_and_come_to_rest() {
    let (mut rolled, mut drained, mut replaced, mut recovered, mut made_again) = (0, 0, 0, 0, 0);
    for seed in 0..1_000 {
        let mut world = World::new(seed);
        for _ in 0..200 {
            if world.random.random_bool(0.3) {
                world.fault();
            }
            if world.random.random_bool(0.1) {
                world.wish();
            }
            if world.random.random_bool(0.6) {
                world.recover(false);
            }
            world.mislead();
            rolled += usize::from(matches!(world.step(), Step::Replace(_)));
        }
        let mut rests = false;
        for _ in 0..400 {
            world.wish();
            world.recover(true);
            if world.step() == Step::Rest {
                rests = true;
                break;
            }
        }
        let group = &world.group;
        assert!(rests, "seed {seed}: {:?} of {group:?}", plan(group));
        assert_eq!(world.voters(), usize::from(group.wanted), "seed {seed}: {group:?}");
        assert_eq!(group.kept, Some(Kept::to(group.wanted)), "seed {seed}: {group:?}");
        assert!(group.pods.values().all(|pod| pod.is_newest && pod.is_ready), "seed {seed}: {group:?}");
        assert!(group.claims.values().all(|claim| !claim.is_condemned), "seed {seed}: {group:?}");
        drained += world.drained;
        replaced += world.replaced;
        recovered += world.recovered;
        made_again += world.made_again;
    }
    println!(
        "{rolled} pods rolled, {drained} drained, {replaced} volumes given up, {recovered} groups recovered, {made_again} made again"
    );
    let is_busy = rolled > 1_000 && drained > 500 && replaced > 500 && recovered > 50 && made_again > 500;
    assert!(is_busy, "{rolled} {drained} {replaced} {recovered} {made_again}: too quiet");
}
