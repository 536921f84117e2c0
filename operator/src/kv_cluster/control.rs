//! The controller of KVClusters.

use std::time::Duration;

use aistack_crds::status::{MemberRole, MemberStatus};
use aistack_crds::{KVCluster, Kind};
use k8s_openapi::api::apps::v1::StatefulSetUpdateStrategy;

use super::members::{self, Members};
use super::planner::{self, Group, Member, Role, Step, Waiting};
use super::{Tls, ValidatedKvCluster, build, validate};
use crate::kernel::apply::{self, Applied};
use crate::kernel::child::{ChildKey, ChildKind, Pods, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra, Report, Scaled};
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::kernel::{Controller, ObjectName};
use crate::manifest::{Manifest, Manifests};
use crate::problem::Problem;
use crate::report;

/// While something is under way that no watch tells of.
const SOON: Duration = Duration::from_secs(3);
/// At rest: members may elect another leader.
const LATER: Duration = Duration::from_mins(2);

/// The controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvController;

/// A group and its next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    group: Group,
    step: Step,
}

impl Controller for KvController {
    type Object = KVCluster;
    type Found = Found;
    type Validated = ValidatedKvCluster;

    const KIND: Kind = Kind::KVCluster;

    fn references(&self, object: &KVCluster) -> Vec<Reference> {
        let secret = |name: &str| Reference::Secret(ObjectName::new(report::namespace(object), name));
        let spec = &object.spec;
        let tls = spec.tls.iter().map(|tls| secret(&tls.secret_name));
        let backup = spec.backup.iter().filter_map(|backup| backup.secret_name.as_deref()).map(secret);
        let auth = spec.auth.iter().map(|auth| secret(&auth.root_password.name));
        tls.chain(backup).chain(auth).collect()
    }

    async fn dereference(&self, cluster: &Cluster, object: &KVCluster) -> Result<Found, StepError> {
        let mut group = Group::default();
        // What is wrong with a spec is said by `validate`.
        if let Ok(kv) = validate(object, "") {
            group.wanted = kv.voters;
            let set = ObjectName::new(report::namespace(object), kv.name.as_str());
            let set = ChildKey { kind: ChildKind::StatefulSet, object: set };
            if let Some(Progress::Pods(set)) = apply::look(cluster, object, &set).await? {
                group.kept = u16::try_from(set.wanted).ok();
                group.pods = members::pods(cluster, &kv, &set.update_revision).await?;
                if !group.pods.is_empty() {
                    let members = Members::of(cluster, &kv).await?;
                    group.members = members.list(group.pods.keys().copied()).await;
                }
            }
        }
        let step = planner::plan(&group);
        Ok(Found { group, step })
    }

    fn validate(&self, object: &KVCluster, _: &Found) -> Result<ValidatedKvCluster, Vec<Problem>> {
        validate(object, "")
    }

    fn build(&self, kv: &ValidatedKvCluster, found: &Found) -> Option<Manifests> {
        let mut manifests = build(kv);
        for manifest in &mut manifests.0 {
            if let Manifest::StatefulSet(set) = manifest {
                let kept = match found.step {
                    Step::Keep(kept) => kept,
                    _ => found.group.kept.unwrap_or(kv.voters),
                };
                set.spec.replicas = Some(i32::from(kept));
                // Kubernetes knows nothing of followers and leaders: pods are replaced by us.
                let strategy =
                    StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None };
                set.spec.update_strategy = Some(strategy);
            }
        }
        Some(manifests)
    }

    async fn act(
        &self,
        cluster: &Cluster,
        _: &KVCluster,
        kv: &ValidatedKvCluster,
        found: &Found,
        _: &Applied,
    ) -> Result<(), StepError> {
        let does_something = matches!(
            found.step,
            Step::Replace(_) | Step::MoveLeader { .. } | Step::Promote(_) | Step::Remove { .. }
        );
        if !does_something {
            return Ok(());
        }
        tracing::info!(step = ?found.step, group = ?found.group, "a step");
        Members::of(cluster, kv).await?.carry_out(cluster, &found.group, &found.step).await
    }

    fn report(&self, kv: &ValidatedKvCluster, found: &Found, applied: &Applied) -> Report {
        let pods = match applied.progress(ChildKind::StatefulSet, &kv.name) {
            Some(Progress::Pods(pods)) => pods.clone(),
            _ => Pods::default(),
        };
        let mut report = said(kv, found, &pods);
        report.extra.push(quorum(&found.group));
        report.look_again = Some(if found.step == Step::Rest { LATER } else { SOON });
        report.scaled = scaled(kv, found, &pods);
        report::with_gaps(report, kv.gaps())
    }
}

fn said(kv: &ValidatedKvCluster, found: &Found, pods: &Pods) -> Report {
    let Found { group, step } = found;
    let voters = group.members.iter().filter(|member| member.role != Role::Learner).count();
    let up = up(group).count();
    let leader = group.members.iter().find(|member| member.role == Role::Leader);
    let leader = leader.map_or(String::new(), |leader| format!(", leader {}-{}", kv.name, leader.ordinal));
    let summary = format!("{up}/{} voters{leader}", kv.voters);
    let because = doing(kv, found, pods);
    if let Step::AddLearner(_) = step {
        let said = format!(
            "{voters} voters hold data and {} are asked for; a group with data is not made larger in this version: \
             set replicas back to {voters}, or add members by hand with etcdctl member add",
            kv.voters
        );
        let mut report = Report::degraded(summary, Because::new("NotInThisVersion", said));
        report.ready.0 = has_quorum(group);
        return report;
    }
    if !has_quorum(group) {
        return match step {
            Step::Wait(Waiting::Answer | Waiting::Voter(_) | Waiting::Leader) => {
                Report::degraded(summary, because)
            }
            _ => Report::progressing(summary, because),
        };
    }
    let mut report = Report::ready(summary, Because::new("Ready", format!("{up} of {voters} voters answer")));
    match step {
        // Which pods are of the newest template is known once Kubernetes has seen it.
        Step::Rest if !pods.is_current => {
            report.progressing =
                Some(Because::new("Rolling", "Kubernetes has not seen the newest template yet"));
        }
        Step::Rest => {}
        Step::Wait(Waiting::Voter(_) | Waiting::Leader) => report.degraded = Some(because),
        _ => report.progressing = Some(because),
    }
    report
}

/// What is under way, in words.
fn doing(kv: &ValidatedKvCluster, found: &Found, pods: &Pods) -> Because {
    let pod = |ordinal: u16| format!("{}-{ordinal}", kv.name);
    let group = &found.group;
    let named = |id: u64| {
        let found = group.members.iter().find(|member| member.id == id);
        found.map_or_else(|| format!("member {id:x}"), |member| pod(member.ordinal))
    };
    match &found.step {
        Step::Rest => Because::new("Ready", "all is as wanted"),
        Step::Keep(kept) if group.kept.is_none() => {
            Because::new("Founding", format!("{kept} pods are made, which found the group together"))
        }
        Step::Keep(kept) => Because::new("Scaling", format!("{kept} pods are kept")),
        Step::AddLearner(ordinal) => {
            Because::new("Scaling", format!("{} is added without a vote", pod(*ordinal)))
        }
        Step::Promote(id) => Because::new("Scaling", format!("{} gets its vote", named(*id))),
        Step::Remove { ordinal, .. } => {
            Because::new("Scaling", format!("{} leaves the group before its pod goes", pod(*ordinal)))
        }
        Step::MoveLeader { from, to } => {
            Because::new("Rolling", format!("{} hands the lead to {}", named(*from), named(*to)))
        }
        Step::Replace(ordinal) => {
            Because::new("Rolling", format!("{} is made anew from the newest template", pod(*ordinal)))
        }
        Step::Wait(Waiting::Founding) => {
            let said = format!("{} of {} pods are ready", pods.ready, kv.voters);
            Because::new("WaitingForPods", pods.failure.clone().unwrap_or(said))
        }
        Step::Wait(Waiting::Answer) => {
            Because::new("NobodyAnswers", "pods are there, and no member answers on its client port")
        }
        Step::Wait(Waiting::Voter(ordinal)) => {
            let said = format!("{} does not answer; no other voter is touched until it does", pod(*ordinal));
            Because::new("VoterAway", said)
        }
        Step::Wait(Waiting::Leader) => Because::new("NoLeader", "the members have no leader at the moment"),
        Step::Wait(Waiting::Learner(ordinal)) => {
            Because::new("CatchingUp", format!("{} takes the data before it gets its vote", pod(*ordinal)))
        }
        Step::Wait(Waiting::Lag(ordinal)) => Because::new(
            "CatchingUp",
            format!("{} lags behind; nothing is replaced until it has caught up", pod(*ordinal)),
        ),
    }
}

fn up(group: &Group) -> impl Iterator<Item = &Member> {
    group.members.iter().filter(|member| member.role != Role::Learner && member.is_up)
}

fn has_quorum(group: &Group) -> bool {
    let voters = group.members.iter().filter(|member| member.role != Role::Learner).count();
    let has_leader = group.members.iter().any(|member| member.role == Role::Leader);
    voters > 0 && has_leader && up(group).count() > voters / 2
}

fn quorum(group: &Group) -> Extra {
    let voters = group.members.iter().filter(|member| member.role != Role::Learner).count();
    let (is_so, because) = if group.members.is_empty() {
        (None, Because::new("NobodyAnswers", "no member says who belongs to the group"))
    } else if has_quorum(group) {
        (Some(true), Because::new("MostAnswer", format!("{} of {voters} voters answer", up(group).count())))
    } else {
        (
            Some(false),
            Because::new("TooFewAnswer", format!("{} of {voters} voters answer", up(group).count())),
        )
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
    members.sort_by(|a, b| a.name.cmp(&b.name));
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
    use super::*;

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
        let pod =
            |ordinal: usize| planner::Pod { is_ready: ups[ordinal], is_newest: true, is_leaving: false };
        Group {
            wanted: 3,
            kept: Some(3),
            pods: (0..ups.len()).map(|ordinal| (ordinal as u16, pod(ordinal))).collect(),
            members: (0..ups.len()).map(member).collect(),
        }
    }

    #[test]
    fn what_is_said_of_a_group() {
        let table = [
            (group(&[true, true, true]), "True Ready / - / -", "3/3 voters, leader kv-0"),
            (group(&[true, false, true]), "True Ready / - / VoterAway", "2/3 voters, leader kv-0"),
            (group(&[true, false, false]), "False VoterAway / - / VoterAway", "1/3 voters, leader kv-0"),
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
            let found = Found { step: planner::plan(&group), group };
            let report = KvController.report(&kv(), &found, &seen(true));
            let reason = |because: &Option<Because>| because.as_ref().map_or("-", |because| because.reason);
            let word = if report.ready.0 { "True" } else { "False" };
            let (progressing, degraded) = (reason(&report.progressing), reason(&report.degraded));
            assert_eq!(format!("{word} {} / {progressing} / {degraded}", report.ready.1.reason), expected);
            assert_eq!(report.summary, summary);
        }
    }

    fn seen(is_current: bool) -> Applied {
        let key = ChildKey { kind: ChildKind::StatefulSet, object: ObjectName::new("n", "kv") };
        let progress = Progress::Pods(Pods { is_current, ..Pods::default() });
        Applied(vec![apply::AppliedChild { key, progress }])
    }

    #[test]
    fn it_is_not_settled_before_kubernetes_has_seen_the_template() {
        let group = group(&[true; 3]);
        let found = Found { step: planner::plan(&group), group };
        for is_current in [true, false] {
            let report = KvController.report(&kv(), &found, &seen(is_current));
            assert_eq!(report.progressing.is_none(), is_current);
        }
    }

    #[test]
    fn pods_are_replaced_by_us_and_never_by_kubernetes() {
        let found = Found { group: group(&[true; 3]), step: Step::Keep(2) };
        let manifests = KvController.build(&kv(), &found).expect("objects");
        let set = manifests.iter().find_map(|manifest| match manifest {
            Manifest::StatefulSet(set) => Some(set),
            _ => None,
        });
        let spec = &set.expect("a StatefulSet").spec;
        assert_eq!(spec.replicas, Some(2));
        let strategy = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        assert_eq!(strategy, Some("OnDelete"));
    }
}
