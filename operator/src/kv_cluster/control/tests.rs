//! What a turn makes of a group, and what it says of it.

use aistack_crds::status::ScaledStatus;
use serde_json::json;

use super::super::seen::{Overdue, SeenPod};
use super::*;
use crate::kernel::apply::AppliedChild;
use crate::kernel::child::{ChildKey, Times};
use crate::kernel::stub;
use crate::manifest::Manifest;

fn kv() -> ValidatedKvCluster {
    let mut object = KVCluster::new("kv", aistack_crds::KVClusterSpec { replicas: 3, ..Default::default() });
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
fn a_pod_that_may_not_be_made_is_no_lost_volume() {
    let refused = Because::new("PodsRefused", "create Pod kv-1 failed: exceeded quota");
    let without = |ups: &[bool], gone: &[u16]| {
        let mut group = group(ups);
        group.pods.retain(|ordinal, _| !gone.contains(ordinal));
        group
    };
    let table = [
        (without(&[true, false, true], &[1]), Some(refused.clone()), "VoterAway", "exceeded quota"),
        (without(&[true, false, true], &[1]), None, "VoterAway", "kubectl describe statefulset kv"),
        (without(&[true, false, false], &[1, 2]), Some(refused.clone()), "NoQuorum", "exceeded quota"),
        (
            Group { members: vec![], ..without(&[false; 3], &[0, 1, 2]) },
            Some(refused),
            "PodsRefused",
            "exceeded quota",
        ),
    ];
    for (group, trouble, reason, said) in table {
        let mut applied = seen(true);
        for child in &mut applied.0 {
            if let Progress::Pods(pods) = &mut child.progress {
                pods.trouble.clone_from(&trouble);
            }
        }
        let because = KvController::default().report(&kv(), &found(group), &applied).degraded.expect("it is");
        assert_eq!(because.reason, reason);
        assert!(because.message.contains(said), "{}", because.message);
        assert!(!because.message.contains("annotate"), "{}", because.message);
    }
}

#[tokio::test]
async fn a_step_that_was_not_written_is_not_told() {
    let kv = kv();
    let mut object = KVCluster::new("kv", aistack_crds::KVClusterSpec { replicas: 3, ..Default::default() });
    object.metadata.namespace = Some("n".to_owned());
    for is_as_wanted in [true, false] {
        let (cluster, calls) = stub::cluster(200, &json!({}));
        let mut applied = seen(true);
        applied.0[0].is_as_wanted = is_as_wanted;
        let found = Found { step: Step::Keep(Kept::to(5)), ..found(group(&[true; 3])) };
        KvController::default().act(&cluster, &object, &kv, &found, &applied).await.expect("a step");
        let told = calls.lock().iter().filter(|method| **method == http::Method::POST).count();
        assert_eq!(told, usize::from(is_as_wanted));
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
        let mut group = Group { recorded: Some(Kept::to(3)), members: Vec::new(), ..group(&[is_ready; 3]) };
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
        let certified = report.extra.iter().find(|extra| extra.kind == "Certified").expect("it is told of");
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
        let of_backups = report.extra.iter().filter(|extra| ["BackedUp", "Restorable"].contains(&extra.kind));
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
