//! The planner before tables; `worlds.rs` has it before 1,000 seeded worlds in which everything goes wrong that can.

use super::*;

pub(super) fn member(ordinal: u16, role: Role) -> Member {
    Member { id: u64::from(ordinal) + 100, ordinal, role, is_up: true, lag: 0 }
}

pub(super) fn pod() -> Pod {
    Pod { is_ready: true, is_newest: true, is_leaving: false, is_stuck: false, is_unaware: false }
}

/// A healthy group of voters `0..voters` that `0` leads.
pub(super) fn healthy(voters: u16, wanted: u16) -> Group {
    let role = |ordinal| if ordinal == 0 { Role::Leader } else { Role::Follower };
    Group {
        wanted,
        kept: Some(Kept::to(voters)),
        recorded: Some(Kept::to(voters)),
        pods: (0..voters).map(|ordinal| (ordinal, pod())).collect(),
        claims: (0..voters).map(|ordinal| (ordinal, Claim::default())).collect(),
        members: (0..voters).map(|ordinal| member(ordinal, role(ordinal))).collect(),
        ..Group::default()
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

/// A learner's pod runs and is not ready.
pub(super) fn of_learner() -> Pod {
    Pod { is_ready: false, ..pod() }
}

/// A fourth pod, of a member that has no vote yet.
pub(super) fn with_learner(g: &mut Group) {
    g.kept = Some(Kept::to(4));
    g.pods.insert(3, of_learner());
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
            Step::Keep(Kept::to(4)),
        ),
        (
            "grow: it catches up",
            3,
            5,
            |g| {
                with_learner(g);
                g.members.push(Member { lag: MOST_LAG + 1, ..member(3, Role::Learner) });
            },
            Step::Wait(Waiting::Learner(3)),
        ),
        (
            "grow: then its vote, by what it says of itself",
            3,
            5,
            |g| {
                with_learner(g);
                g.members.push(member(3, Role::Learner));
            },
            Step::Promote(103),
        ),
        (
            "grow: not while its pod goes",
            3,
            5,
            |g| {
                with_learner(g);
                g.pods.insert(3, Pod { is_leaving: true, ..of_learner() });
                g.members.push(member(3, Role::Learner));
            },
            Step::Wait(Waiting::Learner(3)),
        ),
        (
            "grow: one that takes long to catch up is not stuck",
            3,
            5,
            |g| {
                with_learner(g);
                g.pods.insert(3, Pod { is_newest: false, is_stuck: true, ..of_learner() });
                g.members.push(Member { lag: MOST_LAG + 1, ..member(3, Role::Learner) });
            },
            Step::Wait(Waiting::Learner(3)),
        ),
        (
            "grow: the next when clients are led to it",
            4,
            5,
            |g| g.pods.get_mut(&3).expect("pod 3").is_ready = false,
            Step::Wait(Waiting::Readiness(3)),
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
            Step::Keep(Kept::to(3)),
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
        ("nothing there", 3, 3, |g| (g.kept, g.recorded) = (None, None), Step::Keep(Kept::to(3))),
        (
            "made again for fewer over the volumes of more, which are most of the votes",
            3,
            1,
            |g| {
                g.kept = Some(Kept::to(1));
                g.members[1].is_up = false;
                g.members[2].is_up = false;
                g.members.iter_mut().for_each(|member| member.role = Role::Follower);
            },
            Step::Keep(Kept::to(3)),
        ),
        (
            "made again for one, and the first volume is gone",
            1,
            1,
            |g| {
                (g.kept, g.recorded) = (None, None);
                g.claims = [(1, Claim::default()), (2, Claim::default())].into();
            },
            Step::Keep(Kept::to(3)),
        ),
        ("the set is gone and its members are not", 3, 5, |g| g.kept = None, Step::Keep(Kept::to(3))),
        (
            "a pod that is down is replaced by a better one",
            3,
            3,
            |g| {
                g.members[2].is_up = false;
                g.pods.insert(2, Pod { is_ready: false, is_newest: false, is_stuck: true, ..pod() });
            },
            Step::Replace(2),
        ),
        (
            "pods that are slow to answer are not down, and keep their votes",
            3,
            3,
            |g| {
                for ordinal in [1, 2] {
                    g.members[usize::from(ordinal)].is_up = false;
                    g.pods.insert(ordinal, Pod { is_ready: false, is_newest: false, ..pod() });
                }
            },
            Step::Wait(Waiting::Voter(1)),
        ),
        (
            "a pod that answers is not down, whatever its probe says",
            3,
            3,
            |g| {
                g.pods.insert(2, Pod { is_ready: false, is_newest: false, ..pod() });
            },
            Step::Wait(Waiting::Readiness(2)),
        ),
        (
            "a pod that answers and has not been ready for long is away",
            3,
            3,
            |g| {
                g.pods.insert(1, Pod { is_ready: false, ..pod() });
                g.pods.insert(2, Pod { is_ready: false, is_newest: false, is_stuck: true, ..pod() });
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
                g.recorded = None;
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

#[test]
fn what_a_removed_member_left_goes_before_another_comes() {
    check(&[
        (
            "volumes: what is left over goes before a new member",
            3,
            5,
            |g| {
                g.claims.insert(3, Claim::default());
            },
            Step::Discard(3),
        ),
        (
            "volumes: and is awaited",
            3,
            5,
            |g| {
                g.claims.insert(3, Claim { is_leaving: true, ..Claim::default() });
            },
            Step::Wait(Waiting::Leaving(3)),
        ),
    ]);
}

fn condemned(g: &mut Group, ordinal: u16) {
    g.claims.get_mut(&ordinal).expect("a claim").is_condemned = true;
}

#[test]
fn a_member_is_replaced() {
    check(&[
        (
            "replace: the mark first",
            3,
            3,
            |g| {
                g.wish = Some(Wish::Replace(1));
                g.members[1].is_up = false;
            },
            Step::Condemn(1),
        ),
        (
            "replace: no mark on a claim that a person deleted with its pod, which would go with it",
            3,
            3,
            |g| {
                g.wish = Some(Wish::Replace(1));
                g.members[1].is_up = false;
                g.claims.get_mut(&1).expect("a claim").is_leaving = true;
                g.pods.get_mut(&1).expect("a pod").is_leaving = true;
            },
            Step::Wait(Waiting::Voter(1)),
        ),
        (
            "replace: not while another is away",
            3,
            3,
            |g| {
                g.wish = Some(Wish::Replace(1));
                g.members[2].is_up = false;
            },
            Step::Wait(Waiting::Voter(2)),
        ),
        (
            "replace: never the only one",
            1,
            1,
            |g| g.wish = Some(Wish::Replace(0)),
            Step::Decline(Refusal::OnlyVoter),
        ),
        (
            "replace: nobody of that name",
            3,
            3,
            |g| g.wish = Some(Wish::Replace(7)),
            Step::Decline(Refusal::NoSuchMember),
        ),
        (
            "replace: the member goes",
            3,
            3,
            |g| {
                condemned(g, 1);
                g.members[1].is_up = false;
            },
            Step::Remove { id: 101, ordinal: 1 },
        ),
        ("replace: a leader hands over", 3, 3, |g| condemned(g, 0), Step::MoveLeader { from: 100, to: 101 }),
        (
            "replace: its old volume goes",
            3,
            3,
            |g| {
                condemned(g, 1);
                g.members.remove(1);
            },
            Step::Discard(1),
        ),
        (
            "replace: a learner goes by name, too",
            3,
            3,
            |g| {
                condemned(g, 1);
                g.members[1] = Member { id: 200, is_up: false, ..member(1, Role::Learner) };
            },
            Step::Remove { id: 200, ordinal: 1 },
        ),
        (
            "replace: a new one is added",
            3,
            3,
            |g| {
                g.members.remove(1);
            },
            Step::AddLearner(1),
        ),
        (
            "replace: it gets its vote",
            3,
            3,
            |g| {
                g.members[1] = Member { id: 200, ..member(1, Role::Learner) };
                g.pods.insert(1, of_learner());
            },
            Step::Promote(200),
        ),
    ]);
}

/// Two do not answer; `1` is asked to go on.
fn lost(g: &mut Group) {
    g.wish = Some(Wish::Recover(1));
    g.members[0] = Member { is_up: false, ..member(0, Role::Follower) };
    g.members[2].is_up = false;
    g.pods.get_mut(&1).expect("pod 1").is_unaware = true;
}

/// Nor are their pods ready: the one that is left has no leader.
fn lost_for_good(g: &mut Group) {
    lost(g);
    g.pods.values_mut().for_each(|pod| pod.is_ready = false);
}

fn isolated(g: &mut Group) {
    lost_for_good(g);
    g.kept = Some(Kept::only(1));
    g.pods.retain(|ordinal, _| *ordinal == 1);
}

fn alone(g: &mut Group) {
    isolated(g);
    *g.pods.get_mut(&1).expect("pod 1") = pod();
    g.members = vec![member(1, Role::Leader)];
}

#[test]
fn what_is_left_goes_on_when_a_person_says_so() {
    check(&[
        (
            "recover: never by itself",
            3,
            3,
            |g| {
                lost(g);
                g.wish = None;
            },
            Step::Wait(Waiting::Voter(0)),
        ),
        (
            "recover: not while most answer",
            3,
            3,
            |g| g.wish = Some(Wish::Recover(1)),
            Step::Decline(Refusal::QuorumStands),
        ),
        (
            "recover: not one that is to go",
            5,
            3,
            |g| {
                g.members.clear();
                g.wish = Some(Wish::Recover(4));
            },
            Step::Decline(Refusal::NoSuchMember),
        ),
        ("recover: the others' pods go", 3, 3, lost_for_good, Step::Isolate(1)),
        (
            "recover: they are awaited",
            3,
            3,
            |g| {
                lost_for_good(g);
                g.kept = Some(Kept::only(1));
            },
            Step::Wait(Waiting::Leaving(0)),
        ),
        (
            "recover: those of an earlier StatefulSet, too",
            3,
            3,
            |g| {
                isolated(g);
                g.strays.insert(2);
            },
            Step::Wait(Waiting::Leaving(2)),
        ),
        ("recover: it starts anew", 3, 3, isolated, Step::Restart(1)),
        ("recover: the others' volumes go", 3, 3, alone, Step::Discard(0)),
        (
            "recover: that is all",
            3,
            3,
            |g| {
                alone(g);
                g.claims.retain(|ordinal, _| *ordinal == 1);
            },
            Step::Fulfilled,
        ),
        (
            "recover: those before it come first",
            3,
            3,
            |g| {
                alone(g);
                g.claims.retain(|ordinal, _| *ordinal == 1);
                g.wish = None;
            },
            Step::AddLearner(0),
        ),
        (
            "recover: with their pods",
            3,
            3,
            |g| {
                alone(g);
                g.wish = None;
                g.members.push(Member { is_up: false, ..member(0, Role::Learner) });
            },
            Step::Keep(Kept::to(2)),
        ),
    ]);
}

#[test]
fn what_is_left_goes_on_without_a_stateful_set() {
    check(&[
        (
            "recover: a StatefulSet that was deleted meanwhile comes back for it alone",
            3,
            3,
            |g| {
                isolated(g);
                g.kept = None;
            },
            Step::Isolate(1),
        ),
        (
            "recover: and for all, where most of them run without it",
            3,
            3,
            |g| {
                g.kept = None;
                g.wish = Some(Wish::Recover(1));
            },
            Step::Decline(Refusal::QuorumStands),
        ),
    ]);
}

#[test]
fn nobody_is_told_to_forget_the_others_while_one_of_them_is_there() {
    type Case = (&'static str, fn(&mut Group), bool);
    let table: [Case; 5] = [
        ("all are to be kept", lost_for_good, false),
        (
            "they are on their way",
            |g| {
                lost_for_good(g);
                g.kept = Some(Kept::only(1));
            },
            false,
        ),
        (
            "one of an earlier StatefulSet is there",
            |g| {
                isolated(g);
                g.strays.insert(2);
            },
            false,
        ),
        (
            "there is no StatefulSet",
            |g| {
                isolated(g);
                g.kept = None;
            },
            false,
        ),
        ("it is alone", isolated, true),
    ];
    for (name, change, expected) in table {
        let mut group = healthy(3, 3);
        change(&mut group);
        assert_eq!(group.may_forget(1), expected, "{name}");
    }
}

#[test]
fn a_group_that_the_operator_does_not_reach_is_not_lost() {
    check(&[
        (
            "recover: not while a pod is ready for Kubernetes, and the operator alone reaches nobody",
            3,
            3,
            |g| {
                lost(g);
                g.members.clear();
                for ordinal in [0, 2] {
                    g.pods.get_mut(&ordinal).expect("a pod").is_ready = false;
                }
            },
            Step::Decline(Refusal::OutOfReach),
        ),
        (
            "recover: nor while it reaches one of them, and most are ready",
            5,
            5,
            |g| {
                lost(g);
                g.members[3].is_up = false;
                g.members[4].is_up = false;
            },
            Step::Decline(Refusal::OutOfReach),
        ),
        (
            "recover: nor where it never reached any",
            3,
            3,
            |g| {
                lost(g);
                g.members.clear();
                g.recorded = None;
            },
            Step::Decline(Refusal::OutOfReach),
        ),
        (
            "recover: what was begun goes on, though the one that is left is ready and not reached for a moment",
            3,
            3,
            |g| {
                alone(g);
                g.members.clear();
                g.recorded = Some(Kept::only(1));
            },
            Step::Wait(Waiting::Answer),
        ),
        (
            "recover: and once the others are sent away, whatever Kubernetes says of its pod's readiness",
            3,
            3,
            |g| {
                isolated(g);
                g.members.clear();
                g.pods.get_mut(&1).expect("pod 1").is_ready = true;
            },
            Step::Restart(1),
        ),
    ]);
}

#[test]
fn nothing_is_done_while_members_contradict_one_another() {
    type Change = fn(&mut Group);
    let states: [Change; 6] = [
        |g| g.wanted = 5,
        |g| g.wanted = 1,
        |g| g.pods.values_mut().for_each(|pod| pod.is_newest = false),
        |g| g.wish = Some(Wish::Replace(1)),
        |g| {
            g.wish = Some(Wish::Recover(0));
            g.members[1].is_up = false;
            g.members[2].is_up = false;
        },
        |g| g.claims.get_mut(&1).expect("claim 1").is_condemned = true,
    ];
    for (number, change) in states.iter().enumerate() {
        let mut group = healthy(3, 3);
        change(&mut group);
        let step = plan(&group);
        assert!(!matches!(step, Step::Rest | Step::Wait(_)), "{number}: {step:?}");
        let said = |violated: &[Violated]| plan(&Group { violated: violated.to_vec(), ..group.clone() });
        assert_eq!(said(&[Violated::ClusterId]), Step::Wait(Waiting::Accord), "{number}");
        assert_eq!(
            said(&[Violated::MemberName, Violated::MemberId]),
            Step::Wait(Waiting::Accord),
            "{number}"
        );
        // These cost nobody the majority.
        assert_eq!(said(&[Violated::MemberName, Violated::AppliedIndex]), step, "{number}");
    }
    let alone = Group { violated: vec![Violated::ClusterId], ..healthy(5, 5) };
    let of_another = Group { members: vec![member(0, Role::Leader)], ..alone };
    assert_eq!(of_another.pods_that_stay(&plan(&of_another)), 4, "a drain takes one at most");
}
