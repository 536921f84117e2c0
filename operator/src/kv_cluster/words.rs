//! A step in words: of conditions and of Events.

use k8s_openapi::jiff::Timestamp;

use super::control::Found;
use super::planner::{Refusal, Step, Waiting, Wish};
use super::seen::Overdue;
use super::wish::{ACCEPT, RECOVER, REPLACE};
use super::{ValidatedKvCluster, backup};
use crate::kernel::apply::Applied;
use crate::kernel::child::{ChildKind, Pods, Progress, Times};
use crate::kernel::conditions::{Because, Extra};

/// What must hold and does not, in words; `None`: all of it does.
pub(super) fn broken(found: &Found) -> Option<Because> {
    let said: Vec<&str> = found.violations.iter().map(|violation| violation.said.as_str()).collect();
    (!said.is_empty()).then(|| Because::new("InvariantBroken", said.join(" | ")))
}

/// How it went with the last backup and the last restore drill, of those that there are.
pub(super) fn of_backups(
    kv: &ValidatedKvCluster,
    applied: &Applied,
    now: Timestamp,
) -> impl Iterator<Item = Extra> {
    let taking = kv.backup.as_ref();
    let drilling = taking.and_then(|schedule| schedule.drill.as_deref());
    let told = [
        BACKUPS.of(applied, &backup::taker(kv), taking.map(|schedule| schedule.cron.as_str()), now),
        DRILLS.of(applied, &backup::driller(kv), drilling, now),
    ];
    told.into_iter().flatten()
}

/// What is said of a CronJob's last time, by how it went.
struct TimesWords {
    condition: &'static str,
    not_yet: &'static str,
    first: &'static str,
    again: &'static str,
    done: Outcome,
    failed: Outcome,
    overdue: Outcome,
}

/// What came of it, in a word and in words.
struct Outcome {
    reason: &'static str,
    said: &'static str,
}

const BACKUPS: TimesWords = TimesWords {
    condition: "BackedUp",
    not_yet: "no backup was due yet",
    first: "the first backup is being taken",
    again: "a backup is being taken; there are earlier ones",
    done: Outcome { reason: "Taken", said: "the last backup that was due was taken" },
    failed: Outcome { reason: "BackupFailed", said: "the last backup failed" },
    overdue: Outcome { reason: "BackupOverdue", said: "no backup was taken" },
};

const DRILLS: TimesWords = TimesWords {
    condition: "Restorable",
    not_yet: "no restore drill was due yet",
    first: "the first restore drill runs",
    again: "a restore drill runs; one passed before",
    done: Outcome {
        reason: "DrillPassed",
        said: "the last restore drill found a backup that a cluster could begin with",
    },
    failed: Outcome { reason: "DrillFailed", said: "the last restore drill failed" },
    overdue: Outcome { reason: "DrillOverdue", said: "no restore drill passed" },
};

impl TimesWords {
    /// What to say of CronJob `job`, and where to look if it failed, or if nothing is done any more.
    fn of(&self, applied: &Applied, job: &str, cron: Option<&str>, now: Timestamp) -> Option<Extra> {
        let Progress::Times(times, none_since) = applied.progress(ChildKind::CronJob, job)? else {
            return None;
        };
        let hours = cron.and_then(backup::due_within);
        let is_late =
            |(hours, since): &(u64, Timestamp)| now.duration_since(*since).as_hours() >= *hours as i64;
        let late = hours.zip(*none_since).filter(is_late).filter(|_| *times != Times::Failed);
        if let Some((hours, since)) = late {
            let said = format!(
                "{} since {since}, and one is due within {hours} h; what keeps it away: kubectl describe cronjob {job}",
                self.overdue.said
            );
            let because = Because::new(self.overdue.reason, said);
            return Some(Extra { kind: self.condition, is_so: Some(false), because });
        }
        let (is_so, reason, said) = match times {
            Times::NotYet => (None, "NotYet", self.not_yet),
            Times::Runs { after_success: false } => (None, "Running", self.first),
            Times::Runs { after_success: true } => (Some(true), "Running", self.again),
            Times::Done => (Some(true), self.done.reason, self.done.said),
            Times::Failed => (Some(false), self.failed.reason, self.failed.said),
        };
        let look = format!("; look at it: kubectl logs -l job-name --tail 20, Jobs of CronJob {job}");
        let look = if *times == Times::Failed { look.as_str() } else { "" };
        let because = Because::new(reason, format!("{said}{look}"));
        Some(Extra { kind: self.condition, is_so, because })
    }
}

/// What is under way, in words.
pub(super) fn doing(kv: &ValidatedKvCluster, found: &Found, pods: Option<&Pods>) -> Because {
    let pod = |ordinal: u16| kv.member(ordinal);
    let named = |id: u64| {
        let found = found.group.members.iter().find(|member| member.id == id);
        found.map_or_else(|| format!("member {id:x}"), |member| pod(member.ordinal))
    };
    let of = |reason: &'static str, said: String| Because::new(reason, said);
    match &found.step {
        Step::Rest => of("Ready", "all is as wanted".to_owned()),
        Step::Keep(kept) if found.group.kept.is_none() && found.group.recorded.is_none() => {
            of("Founding", format!("{} pods are made, which found the group together", kept.count()))
        }
        Step::Keep(kept) => of("Scaling", format!("{} pods are kept", kept.count())),
        Step::AddLearner(ordinal) => of("MemberAdded", format!("{} is added without a vote", pod(*ordinal))),
        Step::Promote(id) => of("MemberPromoted", format!("{} gets its vote", named(*id))),
        Step::Remove { ordinal, .. } => {
            of("MemberRemoved", format!("{} leaves the group before its pod goes", pod(*ordinal)))
        }
        Step::MoveLeader { from, to } => {
            of("LeaderMoved", format!("{} hands the lead to {}", named(*from), named(*to)))
        }
        Step::Replace(ordinal) => {
            of("Rolling", format!("{} is made anew from the newest template", pod(*ordinal)))
        }
        Step::Condemn(ordinal) => {
            of("MemberReplaced", format!("{} is replaced; what is on its volume goes", pod(*ordinal)))
        }
        Step::Pardon(ordinal) => {
            of("NotHeeded", format!("{} is the only voter by now, and stays", pod(*ordinal)))
        }
        Step::Discard(ordinal) => {
            of("VolumeDiscarded", format!("claim {} belongs to no member; it goes", kv.claim_name(*ordinal)))
        }
        Step::Isolate(ordinal) => {
            of("Recovering", format!("{} is to go on alone; the others' pods go", pod(*ordinal)))
        }
        Step::Restart(ordinal) => of("Restarted", format!("{} starts anew", pod(*ordinal))),
        Step::Fulfilled if !matches!(found.group.wish, Some(Wish::Recover(_))) => {
            of("MemberReplaced", "it is under way already".to_owned())
        }
        Step::Fulfilled => of("Recovered", "it goes on from what one member had".to_owned()),
        Step::Decline(refusal) => declined(*refusal),
        Step::Wait(waiting) => awaited(kv, *waiting, found, pods),
    }
}

/// Of a group that is there for everybody but the operator.
const OUT_OF_REACH: &str = "pods are ready for Kubernetes, and do not answer the operator on their client port. Clients may be served all the \
    same: see whether a NetworkPolicy, a mesh or another network is between";

/// Of a group where a person made users.
const GUARDED: &str = "its users are asked for passwords, and the operator has none: it looks after nothing until a person runs \
    etcdctl --user root auth disable. Clients that log in are served";
/// What a member says then.
const ASKS_WHO: [&str; 2] = ["user name is empty", "permission denied"];

/// Why nobody answers, by what the first of them says.
fn nobody_answers(kv: &ValidatedKvCluster, found: &Found) -> String {
    let silent = found.silent.iter().next();
    let said = silent.map_or(String::new(), |(ordinal, why)| format!(" ({}: {why})", kv.member(*ordinal)));
    if found.silent.values().any(|why| ASKS_WHO.iter().any(|asks| why.contains(asks))) {
        return format!("{GUARDED}{said}");
    }
    if found.group.is_out_of_reach() {
        return format!("{OUT_OF_REACH}{said}");
    }
    format!("pods are there, and no member answers on its client port{said}")
}

fn declined(refusal: Refusal) -> Because {
    let said = match refusal {
        Refusal::QuorumStands => "most members answer, so there is nothing to be recovered; nothing was done",
        Refusal::OutOfReach => {
            "pods are ready for Kubernetes, so the members serve, and it is the operator that does not reach them: let it to \
             their client port (NetworkPolicy, mesh); nothing was done"
        }
        Refusal::NoSuchMember => "no member that is to stay has that name; nothing was done",
        Refusal::OnlyVoter => {
            "it is the only voter, and all data with it; nothing was done: make a new KVCluster from a backup"
        }
    };
    Because::new("NotHeeded", said)
}

fn awaited(kv: &ValidatedKvCluster, waiting: Waiting, found: &Found, pods: Option<&Pods>) -> Because {
    let pod = |ordinal: u16| kv.member(ordinal);
    let of = |reason: &'static str, said: String| Because::new(reason, said);
    if let Some(ordinal) = found.made_anew() {
        return of("Rolling", format!("{} is made anew from the newest template, and awaited", pod(ordinal)));
    }
    match waiting {
        Waiting::Founding => {
            let ready = pods.map_or(0, |pods| pods.ready);
            let said = format!("{ready} of {} pods are ready", kv.voters);
            match (found.seen.why_any_is_away(), pods.and_then(|pods| pods.trouble.clone())) {
                (Some(why), _) => of("WaitingForPods", why.to_owned()),
                (None, Some(because)) => because,
                (None, None) => of("WaitingForPods", said),
            }
        }
        Waiting::Accord => broken(found)
            .unwrap_or_else(|| of("InvariantBroken", "the members contradict one another".to_owned())),
        Waiting::Answer => of("NobodyAnswers", nobody_answers(kv, found)),
        Waiting::Voter(_) | Waiting::Leader if !found.group.has_quorum() => {
            of("NoQuorum", without_quorum(kv, found, pods))
        }
        Waiting::Voter(ordinal) => match &found.seen.overdue {
            Some(overdue) => of("DeletionHangs", voter_hangs(kv, found, ordinal, overdue)),
            None => of("VoterAway", voter_away(kv, found, ordinal, pods)),
        },
        Waiting::Readiness(ordinal) => {
            of("NotReadyYet", format!("{} answers, and its pod is about to be ready", pod(ordinal)))
        }
        Waiting::Leader => of("NoLeader", "the members have no leader at the moment".to_owned()),
        Waiting::Learner(ordinal) => match why_away(kv, found, ordinal, pods) {
            Some(why) => {
                of("WaitingForPods", format!("{why}; it gets its vote once it runs and has the data"))
            }
            None => of("CatchingUp", format!("{} takes the data before it gets its vote", pod(ordinal))),
        },
        Waiting::Lag(ordinal) => of(
            "CatchingUp",
            format!("{} lags behind; nothing is replaced until it has caught up", pod(ordinal)),
        ),
        Waiting::Leaving(ordinal) => match &found.seen.overdue {
            Some(overdue) => overdue_words(overdue),
            None => of("Leaving", format!("what is left of {} goes", pod(ordinal))),
        },
    }
}

/// Why a member's pod does not run, or may not be made, as far as Kubernetes says so.
pub(super) fn kept_away<'a>(found: &'a Found, ordinal: u16, pods: Option<&'a Pods>) -> Option<&'a str> {
    if found.group.has_pod(ordinal) {
        return found.seen.why_away(ordinal);
    }
    Some(pods?.trouble.as_ref()?.message.as_str())
}

/// The same, and that there is no pod, where nobody says why.
fn why_away(kv: &ValidatedKvCluster, found: &Found, ordinal: u16, pods: Option<&Pods>) -> Option<String> {
    let missing = || {
        let (pod, set) = (kv.member(ordinal), &kv.name);
        format!("there is no pod {pod} yet; if that lasts, kubectl describe statefulset {set} tells why")
    };
    let said = kept_away(found, ordinal, pods).map(str::to_owned);
    said.or_else(|| (!found.group.has_pod(ordinal)).then(missing))
}

/// A volume is given up only where nothing else is known to be the cause.
fn voter_away(kv: &ValidatedKvCluster, found: &Found, ordinal: u16, pods: Option<&Pods>) -> String {
    let (pod, why) = (kv.member(ordinal), why_away(kv, found, ordinal, pods));
    let said = why.clone().unwrap_or_else(|| format!("{pod} does not answer, or its pod is not ready"));
    let is_only_one = found.group.voters().count() == 1;
    let said = if is_only_one { said } else { format!("{said}; no other voter is touched until it is back") };
    if why.is_some_and(|why| is_of_something_else(&why)) {
        return said;
    }
    if is_only_one {
        return format!(
            "{said}. It is the only voter: if its volume is lost, so is all data, and a new KVCluster begins with a backup (spec.restore)"
        );
    }
    format!("{said}. If its volume is lost: kubectl annotate kv {} {REPLACE}={pod}", kv.name)
}

/// A machine that is lost may come back, and Kubernetes makes no pod anew before somebody says that it does not.
fn voter_hangs(kv: &ValidatedKvCluster, found: &Found, ordinal: u16, overdue: &Overdue) -> String {
    let pod = kv.member(ordinal);
    let said = overdue_words(overdue).message;
    let said = format!("{pod} is away, and no other voter is touched until it is back. {said}");
    if found.group.voters().count() == 1 {
        return said;
    }
    format!(
        "{said}. Then, if its volume is lost with that machine: kubectl annotate kv {} {REPLACE}={pod}",
        kv.name
    )
}

/// Most voters are away: one of them has to come back, or a person says who goes on alone.
fn without_quorum(kv: &ValidatedKvCluster, found: &Found, pods: Option<&Pods>) -> String {
    let away = || found.group.voters().filter(|member| !member.is_up);
    let why: Vec<String> = away().filter_map(|member| why_away(kv, found, member.ordinal, pods)).collect();
    let names: Vec<String> = away().map(|member| kv.member(member.ordinal)).collect();
    let said = match why.first() {
        Some(why) => format!("most voters are away ({}; {why})", names.join(", ")),
        None => format!("most voters are away ({})", names.join(", ")),
    };
    if found.group.is_out_of_reach() {
        return format!("{said}: {}", nobody_answers(kv, found));
    }
    let said = format!("{said}: nothing is read or written until enough of them are back");
    let said = match &found.seen.overdue {
        Some(overdue) => format!("{said}. {}", overdue_words(overdue).message),
        None => said,
    };
    let up = found.group.voters().filter(|member| member.is_up);
    let survivor = up.min_by_key(|member| (member.lag, member.ordinal));
    match survivor {
        Some(survivor) if !why.iter().any(|why| is_of_something_else(why)) => format!(
            "{said}. If their volumes are lost for good: kubectl annotate kv {0} {RECOVER}={1} {ACCEPT}={0}, and {1} goes on with what it has",
            kv.name,
            kv.member(survivor.ordinal)
        ),
        _ => said,
    }
}

/// Whether what keeps a pod away has nothing to do with its volume. Whoever names a cause says it in a sentence only: of a lost volume the
/// scheduler says "volume node affinity conflict" or "persistentvolumeclaim not found", the kubelet "MountVolume" and "FailedMount".
fn is_of_something_else(why: &str) -> bool {
    !why.to_lowercase().contains("volume")
}

/// What a person asked for that has to wait.
pub(super) fn waits(kv: &ValidatedKvCluster, found: &Found) -> Option<String> {
    let (Some(Wish::Replace(ordinal)), Step::Wait(_)) = (&found.group.wish, &found.step) else { return None };
    let because = doing(kv, found, None);
    Some(format!("{REPLACE}={} waits: {}", kv.member(*ordinal), because.message))
}

fn overdue_words(overdue: &Overdue) -> Because {
    let what = &overdue.what;
    let said = match &overdue.node {
        Some(node) => format!(
            "{what} was to be gone more than a minute ago: its node {node} may be lost. If that machine is off for certain: \
             kubectl taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or kubectl delete {what} --force"
        ),
        None => format!(
            "{what} was to be gone more than a minute ago; kubectl describe {what} tells who keeps it"
        ),
    };
    Because::new("DeletionHangs", said)
}
