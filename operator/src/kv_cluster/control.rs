//! The controller of KVClusters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aistack_crds::status::{MemberRole, MemberStatus};
use aistack_crds::{KVCluster, Kind};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};

use super::build::{self, Shape};
use super::certificate::Identity;
use super::invariants::{Memory, Observed, Violation};
use super::members::{Listing, Members};
use super::planner::{self, Group, Kept, Member, Pod, Role, Step, Violated, Waiting, Wish};
use super::record::Record;
use super::seen::{self, Seen};
use super::sent_away::SentAway;
use super::steps::Doer;
use super::trust::{self, Held};
use super::validate::secret_of;
use super::{Tls, ValidatedKvCluster, certificate, validate, wish, words};
use crate::kernel::apply::Applied;
use crate::kernel::child::{ChildKind, Pods, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra, Report, Scaled};
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::kernel::{Controller, ObjectName};
use crate::manifest::Manifests;
use crate::problem::Problem;
use crate::report;

/// While something is under way that no watch tells of.
const SOON: Duration = Duration::from_secs(3);
/// After a step.
const NEXT: Duration = Duration::from_millis(300);
/// At rest: members may elect another leader.
const LATER: Duration = Duration::from_mins(2);

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct KvController {
    memory: Arc<Memory>,
    sent_away: Arc<SentAway>,
}

/// A group and its next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub(super) group: Group,
    pub(super) step: Step,
    pub(super) seen: Seen,
    /// Who belongs to it; `None`: nobody has founded it yet.
    record: Option<Record>,
    /// Why what a person asked for cannot be done.
    unheeded: Option<String>,
    /// What must hold, and does not.
    pub(super) violations: Vec<Violation>,
    /// Those of them that are new.
    news: Vec<Violation>,
    /// Why no member could be asked: no step is taken, and all else is.
    unasked: Option<Because>,
    /// Why members do not answer, as far as that is known.
    pub(super) silent: BTreeMap<u16, String>,
    /// Why the members keep the certificate that they have.
    held: Option<Held>,
    /// The pod that was evicted a moment ago, to be made anew.
    sent_away: Option<u16>,
}

impl Found {
    /// The pod that is waited for since it is made anew, where that is all that is amiss and nothing keeps it away.
    pub(super) fn made_anew(&self) -> Option<u16> {
        let is_awaited =
            matches!(self.step, Step::Wait(Waiting::Answer | Waiting::Voter(_) | Waiting::Leader));
        let ordinal = self.sent_away.filter(|ordinal| is_awaited && self.group.misses_only(*ordinal))?;
        let is_kept_away = match self.group.pods.get(&ordinal) {
            Some(pod) if pod.is_leaving => self.seen.overdue.is_some(),
            Some(pod) => pod.is_stuck,
            None => false,
        };
        (!is_kept_away).then_some(ordinal)
    }

    async fn look(
        controller: &KvController,
        cluster: &Cluster,
        object: &KVCluster,
        kv: &ValidatedKvCluster,
    ) -> Result<Self, StepError> {
        certificate::has_its_name(cluster, kv).await?;
        let mut found = Self { seen: seen::look(cluster, object, kv).await?, ..Self::default() };
        let listing = match found.seen.addresses() {
            addresses if addresses.is_empty() => Listing::default(),
            _ => match trust::lacks_secret(cluster, kv) {
                None => {
                    found.held = trust::held(cluster, kv, &found.seen).await?;
                    Members::of(cluster, kv, &found.seen).await?.list().await
                }
                // The Certificate that is to bring it may be a child that is not there yet.
                lacks => {
                    found.unasked = lacks;
                    Listing::default()
                }
            },
        };
        controller.hold_to_invariants(object, kv, &listing, &mut found);
        found.silent = listing.silent;
        found.sent_away = controller.sent_away.of(&object.uid().unwrap_or_default(), Instant::now());
        let violated: Vec<Violated> = found.violations.iter().map(|violation| violation.of).collect();
        let is_sound = !violated.iter().any(|violated| violated.forbids_steps());
        let mut wish = None;
        match wish::of(object, kv) {
            // Whom it names may be of another cluster.
            Ok(asked) => wish = asked.filter(|_| is_sound && found.unasked.is_none()),
            Err(said) => found.unheeded = Some(said),
        }
        let is_recovery = matches!(wish, Some(Wish::Recover(_)));
        // Of two clusters, either could be the one that lists its members here.
        let is_told = !listing.members.is_empty() && is_sound;
        let written = if !is_told || is_recovery { Record::read(cluster, kv).await? } else { None };
        let forced_from = written.as_ref().and_then(Record::forced_from).map(str::to_owned);
        found.record = if is_told { Some(Record::joining(listing.peers)) } else { written };
        let pods: BTreeMap<u16, Pod> =
            found.seen.pods.iter().map(|(ordinal, seen)| (*ordinal, seen.pod.clone())).collect();
        found.group = Group {
            wanted: kv.voters,
            kept: found.seen.kept,
            recorded: found.record.as_ref().and_then(|record| record.kept(&kv.name)),
            pods,
            strays: found.seen.strays.clone(),
            claims: found.seen.claims.clone(),
            members: listing.members,
            wish,
            violated,
        };
        found.forget_others(forced_from);
        found.step = match &found.unasked {
            None => planner::plan(&found.group),
            Some(_) => Step::Wait(Waiting::Answer),
        };
        if let (Step::Decline(_), Some(record)) = (&found.step, &mut found.record) {
            record.force(None);
        }
        Ok(found)
    }

    /// Has the one that is to go on alone told to forget the others, once these are gone; before that nobody is. `forced_from`: the pod
    /// that was there when that was said.
    fn forget_others(&mut self, forced_from: Option<String>) {
        let survivor = match self.group.wish {
            Some(Wish::Recover(survivor)) => Some(survivor),
            _ => None,
        };
        let alone = survivor.filter(|survivor| self.group.may_forget(*survivor));
        let there = |ordinal| self.seen.pods.get(&ordinal).map(|pod| pod.uid.clone()).unwrap_or_default();
        let forced_from = alone.map(|ordinal| forced_from.unwrap_or_else(|| there(ordinal)));
        if let Some(ordinal) = survivor {
            let is_unaware = forced_from.as_ref().is_none_or(|from| *from == there(ordinal));
            if let Some(pod) = self.group.pods.get_mut(&ordinal) {
                pod.is_unaware = is_unaware;
            }
        }
        if let Some(record) = &mut self.record {
            record.force(forced_from);
        }
    }

    fn shape(&self, kv: &ValidatedKvCluster) -> Shape {
        let kept = match self.step {
            Step::Keep(kept) => Some(kept),
            Step::Isolate(survivor) => Some(Kept::only(survivor)),
            _ => self.group.kept,
        };
        let kept = kept.or(self.group.recorded).unwrap_or(Kept::to(kv.voters));
        let identity = match &self.held {
            Some(held) => Some(held.identity.clone()),
            None => Identity::next(kv, &self.seen.identities().collect::<Vec<_>>()),
        };
        Shape {
            record: self.record.clone().unwrap_or_else(|| Record::founding(kv, kept)),
            kept,
            stay: self.group.pods_that_stay(&self.step),
            identity,
        }
    }
}

impl KvController {
    /// Compares what is seen with what was seen last.
    fn hold_to_invariants(
        &self,
        object: &KVCluster,
        kv: &ValidatedKvCluster,
        listing: &Listing,
        found: &mut Found,
    ) {
        let processes =
            found.seen.pods.iter().filter_map(|(ordinal, pod)| Some((*ordinal, pod.process.clone()?)));
        let observed = Observed {
            processes: processes.collect(),
            answers: listing.answers.clone(),
            listed: listing.listed.clone(),
        };
        let uid = object.uid().unwrap_or_default();
        (found.violations, found.news) = self.memory.compare(&uid, &kv.name, &observed, Instant::now());
    }
}

impl Controller for KvController {
    type Object = KVCluster;
    type Found = Found;
    type Validated = ValidatedKvCluster;

    const KIND: Kind = Kind::KVCluster;
    const LOOKS_AT_PODS: bool = true;

    fn references(&self, object: &KVCluster) -> Vec<Reference> {
        let secret = |name: &str| Reference::Secret(ObjectName::new(report::namespace(object), name));
        let spec = &object.spec;
        let tls = spec.tls.iter().map(|tls| secret(&secret_of(&object.name_any(), tls)));
        let backup = spec.backup.iter().filter_map(|backup| backup.secret_name.as_deref()).map(secret);
        let restore = spec.restore.iter().filter_map(|restore| restore.secret_name.as_deref()).map(secret);
        tls.chain(backup).chain(restore).collect()
    }

    async fn dereference(&self, cluster: &Cluster, object: &KVCluster) -> Result<Found, StepError> {
        // What is wrong with a spec is said by `validate`.
        match validate(object, "") {
            Ok(kv) => Found::look(self, cluster, object, &kv).await,
            Err(_) => Ok(Found::default()),
        }
    }

    fn validate(&self, object: &KVCluster, _: &Found) -> Result<ValidatedKvCluster, Vec<Problem>> {
        validate(object, "")
    }

    fn build(&self, kv: &ValidatedKvCluster, found: &Found) -> Option<Manifests> {
        Some(build::shaped(kv, &found.shape(kv)))
    }

    async fn act(
        &self,
        cluster: &Cluster,
        object: &KVCluster,
        kv: &ValidatedKvCluster,
        found: &Found,
        _: &Applied,
    ) -> Result<(), StepError> {
        for violation in &found.violations {
            cluster.metrics.violated(violation.of.name());
        }
        for Violation { said, .. } in &found.news {
            tracing::error!(said, group = ?found.group, "what must hold of a group does not");
            cluster.tell(&object.object_ref(&()), true, "InvariantBroken", said.clone()).await;
        }
        // That a group is founded is told by its status alone: it is no change of anything.
        let is_founding = found.group.kept.is_none() && found.group.recorded.is_none();
        if matches!(found.step, Step::Rest | Step::Wait(_))
            || (is_founding && matches!(found.step, Step::Keep(_)))
        {
            return Ok(());
        }
        tracing::info!(step = ?found.step, group = ?found.group, "a step");
        Doer { cluster, object, kv, found }.carry_out().await?;
        if let Step::Replace(ordinal) = found.step {
            self.sent_away.note(object.uid().unwrap_or_default(), ordinal, Instant::now());
        }
        let told = words::doing(kv, found, None);
        let is_bad = matches!(found.step, Step::Decline(_));
        cluster.tell(&object.object_ref(&()), is_bad, told.reason, told.message).await;
        Ok(())
    }

    fn report(&self, kv: &ValidatedKvCluster, found: &Found, applied: &Applied) -> Report {
        let pods = match applied.progress(ChildKind::StatefulSet, &kv.name) {
            Some(Progress::Pods(pods)) => pods.clone(),
            _ => Pods::default(),
        };
        let uncertified = certificate::awaited(kv, applied);
        if let Some(because) = &found.unasked {
            let summary = |because: &Because| because.message.clone();
            let report = match uncertified {
                Some(because) => Report::progressing(summary(&because), because),
                None => Report::degraded(summary(because), because.clone()),
            };
            let report = Report { look_again: Some(SOON), is_unseen: true, ..report };
            return report::with_gaps(certificate::told(report, kv, applied), kv.gaps());
        }
        let mut report = certificate::told(said(kv, found, &pods, uncertified), kv, applied);
        report.degraded = words::broken(found).or(report.degraded);
        report.serves = Some(found.group.has_quorum());
        report.extra.push(quorum(&found.group));
        report.extra.extend(words::of_backups(kv, applied, Timestamp::now()));
        report.extra.extend(found.unheeded.clone().or_else(|| words::waits(kv, found)).map(wish::unheeded));
        report.look_again = Some(match found.step {
            Step::Rest if found.held.is_none() => LATER,
            // A watch tells how the pods come and go.
            Step::Rest | Step::Wait(_) | Step::Keep(_) => SOON,
            // What it did may be seen at once.
            _ => NEXT,
        });
        report.scaled = scaled(kv, found, &pods);
        report::with_gaps(report, kv.gaps())
    }
}

/// What is said of the members; `uncertified`: they wait for the certificate, if they do not start.
fn said(kv: &ValidatedKvCluster, found: &Found, pods: &Pods, uncertified: Option<Because>) -> Report {
    let Found { group, step, .. } = found;
    let up = up(group);
    let leader = group.members.iter().find(|member| member.role == Role::Leader);
    let leader = leader.map_or(String::new(), |leader| format!(", leader {}-{}", kv.name, leader.ordinal));
    let summary = format!("{up}/{} voters{leader}", kv.voters);
    let because = words::doing(kv, found, Some(pods));
    let is_rolling = found.made_anew().is_some();
    if !group.has_quorum() {
        if is_rolling {
            return Report::progressing(summary, because);
        }
        if matches!(step, Step::Wait(Waiting::Answer | Waiting::Voter(_) | Waiting::Leader | Waiting::Accord))
        {
            return Report::degraded(summary, because);
        }
        if let Some(because) = uncertified {
            return Report::progressing(summary, because);
        }
        let degraded = found.seen.why_any_is_away().map(|_| because.clone());
        return Report { degraded, ..Report::progressing(summary, because) };
    }
    let mut report = Report::ready(
        summary,
        Because::new("Ready", format!("{up} of {} voters answer", group.voters().count())),
    );
    match step {
        // Which pods are of the newest template is known once Kubernetes has seen it.
        Step::Rest if !pods.is_current => {
            report.progressing =
                Some(Because::new("Rolling", "Kubernetes has not seen the newest template yet"));
        }
        Step::Rest => {}
        Step::Wait(_) if is_rolling => report.progressing = Some(because),
        Step::Wait(Waiting::Voter(_) | Waiting::Leader | Waiting::Accord) => {
            // It goes on when the pods are there: until then the group is not as its spec asks for.
            report.progressing = (!pods.is_complete()).then(|| because.clone());
            report.degraded = Some(because);
        }
        Step::Wait(Waiting::Learner(ordinal)) if found.seen.why_away(*ordinal).is_some() => {
            (report.degraded, report.progressing) = (Some(because.clone()), Some(because));
        }
        Step::Wait(Waiting::Leaving(_)) if found.seen.overdue.is_some() => {
            (report.degraded, report.progressing) = (Some(because.clone()), Some(because));
        }
        _ => report.progressing = Some(because),
    }
    if let Some(Held { because, .. }) = &found.held {
        report.progressing.get_or_insert_with(|| because.clone());
        report.degraded.get_or_insert_with(|| because.clone());
    }
    report
}

fn up(group: &Group) -> usize {
    group.voters().filter(|member| member.is_up).count()
}

fn quorum(group: &Group) -> Extra {
    let voters = group.voters().count();
    let (is_so, because) = if group.members.is_empty() {
        (None, Because::new("NobodyAnswers", "no member says who belongs to the group"))
    } else if group.has_quorum() {
        (Some(true), Because::new("MostAnswer", format!("{} of {voters} voters answer", up(group))))
    } else {
        (Some(false), Because::new("TooFewAnswer", format!("{} of {voters} voters answer", up(group))))
    };
    Extra { kind: "QuorumHealthy", is_so, because }
}

fn scaled(kv: &ValidatedKvCluster, found: &Found, pods: &Pods) -> Scaled {
    let member = |member: &Member| MemberStatus {
        name: format!("{}-{}", kv.name, member.ordinal),
        role: match member.role {
            Role::Leader => MemberRole::Leader,
            Role::Follower => MemberRole::Follower,
            Role::Learner => MemberRole::Learner,
        },
        ready: member.is_up,
    };
    let mut members: Vec<_> = found.group.members.iter().map(member).collect();
    // The API server refuses a status with two of one name: of those, the one that answers is told.
    members.sort_by(|a, b| a.name.cmp(&b.name).then(b.ready.cmp(&a.ready)));
    members.dedup_by(|a, b| a.name == b.name);
    let scheme = if kv.tls == Tls::Off { "http" } else { "https" };
    let version = (pods.is_complete() && pods.ready > 0).then(|| report::tag(&kv.image));
    Scaled {
        replicas: pods.replicas,
        ready_replicas: pods.ready,
        selector: Some(report::selector(&kv.owner)),
        version,
        endpoint: Some(format!("{scheme}://{}.{}.svc:{}", kv.name, kv.owner.namespace, super::CLIENT_PORT)),
        members,
    }
}

#[cfg(test)]
mod tests {
    use aistack_crds::status::ScaledStatus;
    use serde_json::json;

    use super::super::seen::{Overdue, SeenPod};
    use super::*;
    use crate::kernel::apply::AppliedChild;
    use crate::kernel::child::{ChildKey, Times};
    use crate::manifest::Manifest;

    fn kv() -> ValidatedKvCluster {
        let mut object =
            KVCluster::new("kv", aistack_crds::KVClusterSpec { replicas: 3, ..Default::default() });
        object.metadata.namespace = Some("n".to_owned());
        validate(&object, "").expect("valid")
    }

    fn group(ups: &[bool]) -> Group {
        let member = |ordinal: usize| Member {
            id: ordinal as u64,
            ordinal: ordinal as u16,
            role: if ordinal == 0 { Role::Leader } else { Role::Follower },
            is_up: ups[ordinal],
            lag: 0,
        };
        let pod = |ordinal: usize| Pod {
            is_ready: ups[ordinal],
            is_newest: true,
            is_leaving: false,
            is_stuck: false,
            is_unaware: false,
        };
        Group {
            wanted: 3,
            kept: Some(Kept::to(3)),
            pods: (0..ups.len()).map(|ordinal| (ordinal as u16, pod(ordinal))).collect(),
            members: (0..ups.len()).map(member).collect(),
            ..Group::default()
        }
    }

    fn found(group: Group) -> Found {
        Found { step: planner::plan(&group), group, ..Found::default() }
    }

    #[test]
    fn what_is_said_of_a_group() {
        let table = [
            (group(&[true, true, true]), "True Ready / - / -", "3/3 voters, leader kv-0"),
            (group(&[true, false, true]), "True Ready / - / VoterAway", "2/3 voters, leader kv-0"),
            (group(&[true, false, false]), "False NoQuorum / - / NoQuorum", "1/3 voters, leader kv-0"),
            (
                Group { members: vec![], ..group(&[false; 3]) },
                "False WaitingForPods / WaitingForPods / -",
                "0/3 voters",
            ),
            (
                Group { members: vec![], ..group(&[true; 3]) },
                "False NobodyAnswers / - / NobodyAnswers",
                "0/3 voters",
            ),
            (Group { wanted: 3, ..Group::default() }, "False Founding / Founding / -", "0/3 voters"),
        ];
        for (group, expected, summary) in table {
            let found = found(group);
            let report = KvController::default().report(&kv(), &found, &seen(true));
            let reason = |because: &Option<Because>| because.as_ref().map_or("-", |because| because.reason);
            let word = if report.ready.0 { "True" } else { "False" };
            let (progressing, degraded) = (reason(&report.progressing), reason(&report.degraded));
            assert_eq!(format!("{word} {} / {progressing} / {degraded}", report.ready.1.reason), expected);
            assert_eq!(report.summary, summary);
        }
    }

    #[test]
    fn a_pod_that_went_by_our_hand_is_no_fault() {
        let alone = |change: fn(&mut Group)| {
            let mut alone =
                Group { wanted: 1, kept: Some(Kept::to(1)), recorded: Some(Kept::to(1)), ..group(&[true]) };
            change(&mut alone);
            alone
        };
        let of_five = |ups: &[bool]| Group { wanted: 5, kept: Some(Kept::to(5)), ..group(ups) };
        let leaving = |g: &mut Group| g.pods.values_mut().for_each(|pod| pod.is_leaving = true);
        let starting = |g: &mut Group| {
            g.members.clear();
            g.pods.values_mut().for_each(|pod| pod.is_ready = false);
        };
        let stuck = |g: &mut Group| {
            g.members.clear();
            g.pods.values_mut().for_each(|pod| (pod.is_ready, pod.is_stuck) = (false, true));
        };
        let table = [
            (alone(leaving), Some(0), "True Ready / Rolling / -"),
            (alone(starting), Some(0), "False Rolling / Rolling / -"),
            (alone(|g| g.members[0].role = Role::Follower), Some(0), "False Rolling / Rolling / -"),
            (alone(|g| (g.members.clear(), g.pods.clear()).0), Some(0), "False Rolling / Rolling / -"),
            (alone(stuck), Some(0), "False NobodyAnswers / - / NobodyAnswers"),
            (alone(leaving), None, "True Ready / - / VoterAway"),
            (group(&[true, false, true]), Some(1), "True Ready / Rolling / -"),
            (group(&[true, false, true]), Some(2), "True Ready / - / VoterAway"),
            (of_five(&[true, true, false, true, true]), Some(2), "True Ready / Rolling / -"),
            (of_five(&[true, true, false, false, true]), Some(2), "True Ready / - / VoterAway"),
            (group(&[true, false, false]), Some(1), "False NoQuorum / - / NoQuorum"),
        ];
        for (group, sent_away, expected) in table {
            let found = Found { sent_away, ..found(group) };
            let report = KvController::default().report(&kv(), &found, &seen(true));
            let reason = |because: &Option<Because>| because.as_ref().map_or("-", |because| because.reason);
            let word = if report.ready.0 { "True" } else { "False" };
            let (progressing, degraded) = (reason(&report.progressing), reason(&report.degraded));
            let told = format!("{word} {} / {progressing} / {degraded}", report.ready.1.reason);
            assert_eq!(told, expected, "{found:?}");
        }
    }

    #[test]
    fn nobody_is_told_to_replace_the_only_voter() {
        for (voters, is_advised) in [(1, false), (3, true)] {
            let mut group = group(&vec![true; voters]);
            group.pods.get_mut(&0).expect("pod 0").is_ready = false;
            group.pods.get_mut(&0).expect("pod 0").is_stuck = true;
            let report = KvController::default().report(&kv(), &found(group), &seen(true));
            let because = report.degraded.expect("it is");
            assert_eq!(because.reason, "VoterAway");
            assert_eq!(because.message.contains("replace-member"), is_advised, "{}", because.message);
        }
    }

    #[test]
    fn two_members_of_one_name_are_one_line_of_the_status() {
        let mut group = group(&[true, true, true]);
        group.members.push(Member { id: 77, is_up: false, ..group.members[1].clone() });
        group.members.swap(1, 3);
        let report = KvController::default().report(&kv(), &found(group), &seen(true));
        let told: Vec<_> = report.scaled.members.iter().map(|it| (it.name.as_str(), it.ready)).collect();
        assert_eq!(told, [("kv-0", true), ("kv-1", true), ("kv-2", true)]);
    }

    #[test]
    fn a_group_that_is_there_for_all_but_the_operator_is_not_advised_to_give_up() {
        for ups in [&[true, false, false][..], &[false, false, false]] {
            let mut group = group(ups);
            group.pods.values_mut().for_each(|pod| pod.is_ready = true);
            if !ups[0] {
                group.members.clear();
            }
            let report = KvController::default().report(&kv(), &found(group), &seen(true));
            let said = report.degraded.expect("it is").message;
            assert!(said.contains("NetworkPolicy") && !said.contains("recover-from"), "{said}");
        }
    }

    #[test]
    fn who_does_not_answer_is_told_of_with_the_reason() {
        let table = [
            (true, "transport error", &["NetworkPolicy", "(kv-1: transport error)"][..]),
            (false, "connection refused", &["no member answers", "(kv-1: connection refused)"]),
            (
                true,
                "etcdserver: user name is empty",
                &["etcdctl --user root auth disable", "(kv-1: etcdserver: user name is empty)"],
            ),
        ];
        for (is_ready, why, expected) in table {
            let mut group =
                Group { recorded: Some(Kept::to(3)), members: Vec::new(), ..group(&[is_ready; 3]) };
            group.pods.values_mut().for_each(|pod| pod.is_ready = is_ready);
            let silent = BTreeMap::from([(1, why.to_owned()), (2, "another".to_owned())]);
            let found = Found { silent, ..found(group) };
            let report = KvController::default().report(&kv(), &found, &seen(true));
            let because = report.degraded.expect("it is");
            assert_eq!(because.reason, "NobodyAnswers");
            assert!(expected.iter().all(|it| because.message.contains(it)), "{}", because.message);
            let is_of_users = why.contains("user");
            assert_eq!(because.message.contains("NetworkPolicy"), is_ready && !is_of_users);
        }
    }

    #[test]
    fn a_pod_that_hangs_on_a_lost_node_is_told_of_before_its_volume_is_given_up() {
        let overdue = Some(Overdue { what: "pod kv-1".to_owned(), node: Some("b".to_owned()) });
        for (ups, reason, last) in [
            (&[true, false, true], "DeletionHangs", "platform.dev/replace-member=kv-1"),
            (&[true, false, false], "NoQuorum", "platform.dev/recover-from=kv-0"),
        ] {
            let mut found = found(group(ups));
            found.seen.overdue = overdue.clone();
            let report = KvController::default().report(&kv(), &found, &seen(true));
            let because = report.degraded.expect("it is");
            assert_eq!(because.reason, reason);
            let at = |words: &str| because.message.find(words).unwrap_or(usize::MAX);
            let taint = at("kubectl taint node b node.kubernetes.io/out-of-service");
            assert!(taint < at(last) && at(last) < usize::MAX, "{}", because.message);
        }
    }

    #[test]
    fn members_that_would_not_let_one_another_in_keep_what_they_have() {
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "KVCluster", "metadata": {"name": "kv", "namespace": "n"},
            "spec": {"replicas": 3, "tls": {"secretName": "new"}}});
        let kv = validate(&serde_json::from_value(object).expect("a KVCluster"), "").expect("valid");
        let identity = Identity { secret: "old".to_owned(), is_named: false };
        let held = Held { identity, because: Because::new("CertificateMismatch", "…") };
        for (held, secret) in [(Some(held), "old"), (None, "new")] {
            let found = Found { held: held.clone(), ..found(group(&[true; 3])) };
            let text = KvController::default().build(&kv, &found).expect("objects").to_yaml();
            assert!(text.contains(&format!("secretName: {secret}\n")), "{text}");
            let report = KvController::default().report(&kv, &found, &seen(true));
            let reason = |because: Option<Because>| because.map(|because| because.reason);
            let expected = held.map(|held| held.because.reason);
            assert_eq!((report.ready.0, reason(report.degraded)), (true, expected));
            assert_eq!(reason(report.progressing), expected, "it goes on when that is mended");
        }
    }

    #[test]
    fn without_a_quorum_the_way_out_is_told_and_what_was_asked_for_is_not_forgotten() {
        let asked = Group { wish: Some(Wish::Replace(1)), ..group(&[true, false, false]) };
        let report = KvController::default().report(&kv(), &found(asked), &seen(true));
        let said = report.degraded.expect("it is").message;
        let way_out = "platform.dev/recover-from=kv-0 platform.dev/accept-data-loss=kv";
        assert!(said.contains("(kv-1, kv-2)") && said.contains(way_out), "{said}");
        let wish = report.extra.iter().find(|extra| extra.kind == "WishHeeded").expect("it is told of");
        let asked = "platform.dev/replace-member=kv-1 waits: most voters are away";
        assert!(wish.because.message.starts_with(asked), "{}", wish.because.message);
    }

    #[test]
    fn what_is_broken_is_told_before_all_else_and_clients_are_served_meanwhile() {
        let broken = |of: Violated| vec![Violation { of, said: format!("{} is broken", of.name()) }];
        for (of, expected) in [
            (Violated::MemberName, "True InvariantBroken: member_name is broken"),
            (Violated::ClusterId, "True InvariantBroken: cluster_id is broken"),
        ] {
            let group = Group { violated: vec![of], ..group(&[true, false, true]) };
            let found = Found { violations: broken(of), ..found(group) };
            let report = KvController::default().report(&kv(), &found, &seen(true));
            let degraded = report.degraded.expect("it is");
            let word = if report.ready.0 { "True" } else { "False" };
            assert_eq!(format!("{word} {}: {}", degraded.reason, degraded.message), expected);
        }
    }

    #[test]
    fn a_group_that_cannot_be_asked_is_told_of_as_it_was_seen_last() {
        for served in [true, false] {
            let word = if served { "True" } else { "False" };
            let before: ScaledStatus = serde_json::from_value(json!({"replicas": 3, "readyReplicas": 3, "conditions": [
                {"type": "Available", "status": word, "reason": "Serves", "message": "…", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
            .expect("a status");
            let unasked = Some(Because::new("SecretMissing", "Secret kv-tls is not there"));
            let blind = Found { unasked, step: Step::Wait(Waiting::Answer), ..found(Group::default()) };
            let report = KvController::default().report(&kv(), &blind, &seen(true));
            assert!(report.is_unseen, "the kernel tells the rest as it was");
            let report = report.as_seen_last(&before);
            let degraded = report.degraded.as_ref().map(|because| because.reason);
            assert_eq!((report.is_available(), degraded), (served, Some("SecretMissing")));
            assert_eq!((report.ready.0, report.scaled.ready_replicas), (false, 3));
        }
    }

    #[test]
    fn pods_that_do_not_start_may_wait_for_the_certificate() {
        let certificate = |conditions| {
            let object = json!({"spec": {"secretName": "kv-tls"}, "status": {"conditions": conditions}});
            let progress = Progress::of(ChildKind::Certificate, &object);
            let key = ChildKey { kind: ChildKind::Certificate, object: ObjectName::new("n", "kv-tls") };
            Applied(vec![AppliedChild { key, progress, is_as_wanted: true }])
        };
        let ready = |is_so: &str| json!({"type": "Ready", "status": is_so, "message": "as it is"});
        let failed =
            json!({"type": "Issuing", "status": "False", "reason": "Failed", "message": "no such issuer"});
        let issuing = json!({"type": "Issuing", "status": "True", "reason": "DoesNotExist", "message": "…"});
        let serves = || found(group(&[true; 3]));
        let founding = || found(Group { members: vec![], ..group(&[false; 3]) });
        let kept_away = || {
            let mut found = founding();
            let pod = SeenPod {
                pod: found.group.pods[&0].clone(),
                address: None,
                uid: String::new(),
                process: None,
                kept_away: Some("kv-0 fits on no node".to_owned()),
                identity: None,
            };
            found.seen.pods.insert(0, pod);
            found
        };
        let one_is_away = || found(group(&[true, false, false]));
        let awaited = "WaitingForCertificate WaitingForCertificate";
        let table = [
            (founding(), json!([]), format!("{awaited} - None")),
            (kept_away(), json!([]), format!("{awaited} - None")),
            (
                kept_away(),
                json!([ready("True")]),
                "WaitingForPods WaitingForPods WaitingForPods Some(true)".to_owned(),
            ),
            (founding(), json!([ready("False"), issuing]), format!("{awaited} - Some(false)")),
            (founding(), json!([ready("False"), failed]), format!("{awaited} CertificateFailed Some(false)")),
            (founding(), json!([ready("True")]), "WaitingForPods WaitingForPods - Some(true)".to_owned()),
            (one_is_away(), json!([]), "NoQuorum - NoQuorum None".to_owned()),
            (serves(), json!([ready("True")]), "Ready - - Some(true)".to_owned()),
            (serves(), json!([ready("True"), failed]), "Ready - CertificateFailed Some(true)".to_owned()),
            (serves(), json!([ready("False")]), "Ready - - Some(false)".to_owned()),
        ];
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "KVCluster", "metadata": {"name": "kv", "namespace": "n"},
            "spec": {"replicas": 3, "tls": {"issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}}});
        let kv = validate(&serde_json::from_value(object).expect("a KVCluster"), "").expect("valid");
        for (found, status, expected) in table {
            let mut applied = seen(true);
            applied.0.extend(certificate(status.clone()).0);
            let report = KvController::default().report(&kv, &found, &applied);
            let reason = |because: &Option<Because>| because.as_ref().map_or("-", |because| because.reason);
            let (progressing, degraded) = (reason(&report.progressing), reason(&report.degraded));
            let certified =
                report.extra.iter().find(|extra| extra.kind == "Certified").expect("it is told of");
            assert_eq!(
                format!("{} {progressing} {degraded} {:?}", report.ready.1.reason, certified.is_so),
                expected,
                "{status}"
            );
        }
    }

    fn seen(is_current: bool) -> Applied {
        let key = ChildKey { kind: ChildKind::StatefulSet, object: ObjectName::new("n", "kv") };
        let progress = Progress::Pods(Pods { is_current, ..Pods::default() });
        Applied(vec![AppliedChild { key, progress, is_as_wanted: true }])
    }

    #[test]
    fn what_is_said_of_backups_and_drills() {
        let times = |name: &str, done| AppliedChild {
            key: ChildKey { kind: ChildKind::CronJob, object: ObjectName::new("n", name) },
            progress: Progress::Times(done, None),
            is_as_wanted: true,
        };
        let table: [(&[AppliedChild], &str); 5] = [
            (&[], ""),
            (&[times("kv-backup", Times::Done)], "BackedUp True Taken"),
            (
                &[times("kv-backup", Times::Failed), times("kv-drill", Times::NotYet)],
                "BackedUp False BackupFailed, Restorable Unknown NotYet",
            ),
            (
                &[times("kv-backup", Times::Done), times("kv-drill", Times::Failed)],
                "BackedUp True Taken, Restorable False DrillFailed",
            ),
            (
                &[
                    times("kv-backup", Times::Runs { after_success: false }),
                    times("kv-drill", Times::Runs { after_success: true }),
                ],
                "BackedUp Unknown Running, Restorable True Running",
            ),
        ];
        for (jobs, expected) in table {
            let mut applied = seen(true);
            applied.0.extend_from_slice(jobs);
            let report = KvController::default().report(&kv(), &found(group(&[true; 3])), &applied);
            let of_backups =
                report.extra.iter().filter(|extra| ["BackedUp", "Restorable"].contains(&extra.kind));
            let word = |is_so| match is_so {
                None => "Unknown",
                Some(true) => "True",
                Some(false) => "False",
            };
            let said = of_backups
                .map(|extra| format!("{} {} {}", extra.kind, word(extra.is_so), extra.because.reason))
                .collect::<Vec<_>>();
            assert_eq!(said.join(", "), expected);
        }
    }

    #[test]
    fn a_backup_that_is_not_taken_any_more_is_told() {
        let spec = json!({"replicas": 3, "backup": {"schedule": "0 */6 * * *", "destination": "pvc://shelf/kv",
            "drill": {"schedule": "0 5 1 */3 *"}}});
        let object = KVCluster::new("kv", serde_json::from_value(spec).expect("a spec"));
        let kv = validate(&object, "").expect("valid");
        let since: Timestamp = "2026-01-02T00:00:09Z".parse().expect("a time");
        let table = [
            (Times::Done, 11, "BackedUp Some(true) Taken"),
            (Times::Done, 12, "BackedUp Some(false) BackupOverdue"),
            (Times::NotYet, 11, "BackedUp None NotYet"),
            (Times::NotYet, 12, "BackedUp Some(false) BackupOverdue"),
            (Times::Runs { after_success: true }, 12, "BackedUp Some(false) BackupOverdue"),
            (Times::Failed, 12, "BackedUp Some(false) BackupFailed"),
        ];
        for (times, hours, expected) in table {
            let job = |name: &str| AppliedChild {
                key: ChildKey { kind: ChildKind::CronJob, object: ObjectName::new("n", name) },
                progress: Progress::Times(times, Some(since)),
                is_as_wanted: true,
            };
            let applied = Applied(vec![job("kv-backup"), job("kv-drill")]);
            let now = since + Duration::from_secs(hours * 3600);
            let told: Vec<Extra> = words::of_backups(&kv, &applied, now).collect();
            let Extra { kind, is_so, because } = &told[0];
            assert_eq!(format!("{kind} {is_so:?} {}", because.reason), expected, "{}", because.message);
            assert_ne!(told[1].because.reason, "DrillOverdue", "its schedule is of certain months");
        }
    }

    #[test]
    fn it_is_not_settled_before_kubernetes_has_seen_the_template() {
        let group = group(&[true; 3]);
        let found = found(group);
        for is_current in [true, false] {
            let report = KvController::default().report(&kv(), &found, &seen(is_current));
            assert_eq!(report.progressing.is_none(), is_current);
        }
    }

    #[test]
    fn pods_are_replaced_by_us_and_never_by_kubernetes() {
        let found = Found { step: Step::Keep(Kept { first: 1, end: 3 }), ..found(group(&[true; 3])) };
        let manifests = KvController::default().build(&kv(), &found).expect("objects");
        let set = manifests.iter().find_map(|manifest| match manifest {
            Manifest::StatefulSet(set) => Some(set),
            _ => None,
        });
        let spec = &set.expect("a StatefulSet").spec;
        assert_eq!(spec.replicas, Some(2));
        assert_eq!(spec.ordinals.as_ref().and_then(|ordinals| ordinals.start), Some(1));
        let strategy = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        assert_eq!(strategy, Some("OnDelete"));
    }
}
