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
use crate::kernel::child::{ChildKey, ChildKind, Pods, Progress};
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
        // While its pods come up for the first time no step asks for them.
        let is_awaited = found.seen.kept.is_some() && listing.members.is_empty() && wish.is_none();
        if !is_awaited || found.record.as_ref().is_none_or(Record::is_there) {
            found.seen.look_at_claims(cluster, object, kv).await?;
        }
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

    /// A certificate is renewed for as long as members have it.
    fn kept(&self, kv: &ValidatedKvCluster, found: &Found) -> Vec<ChildKey> {
        let secret = certificate::name(&kv.name);
        let is_read = found.seen.identities().any(|identity| identity.secret == secret);
        let object = ObjectName::new(kv.owner.namespace.as_str(), secret);
        is_read.then_some(ChildKey { kind: ChildKind::Certificate, object }).into_iter().collect()
    }

    async fn act(
        &self,
        cluster: &Cluster,
        object: &KVCluster,
        kv: &ValidatedKvCluster,
        found: &Found,
        applied: &Applied,
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
        // What is told to the StatefulSet was told when that was written.
        let is_told = || applied.child(ChildKind::StatefulSet, &kv.name).is_some_and(|set| set.is_as_wanted);
        if matches!(found.step, Step::Keep(_) | Step::Isolate(_)) && !is_told() {
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
        let is_hindered = found.seen.why_any_is_away().is_some() || pods.trouble.is_some();
        let degraded = is_hindered.then(|| because.clone());
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
        Step::Wait(Waiting::Learner(ordinal)) if words::kept_away(found, *ordinal, Some(pods)).is_some() => {
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
mod tests;
