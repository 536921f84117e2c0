//! What a turn's report says beside what went wrong.

use super::apply::ApplyError;
use super::conditions::{Because, Report, Status};
use super::controller::StepError;
use super::held::Lack;
use crate::problem::Problem;

/// Why a step failed.
pub(super) fn because(step: &StepError) -> Because {
    Because::new(step.reason, step.message.clone())
}

/// A report of a turn whose own step failed. What is ready while it changes stays so: no client notices that it changes later.
pub(super) fn undone(report: Report, step: &StepError) -> Report {
    let serves = Some(report.is_available());
    let report = Report { is_passing: false, serves, degraded: Some(because(step)), ..report };
    if report.is_stalled || (report.ready.0 && report.progressing.is_some()) {
        return report;
    }
    Report { ready: (false, because(step)), summary: step.message.clone(), ..report }
}

/// Whether the kind's own step may be taken: not by way of a name that is somebody else's.
pub(super) fn may_act(refused: &[ApplyError]) -> bool {
    !refused.iter().any(|error| error.is_foreign() && !error.is_aside())
}

/// A report beside children that are not as they should be. What serves without them stays ready.
pub(super) fn beside(report: Report, refused: &[ApplyError]) -> Report {
    let is_leaving = |error: &ApplyError| matches!(error, ApplyError::Leaving { .. });
    let weight = |error: &&ApplyError| (error.is_aside(), !error.is_stalled(), is_leaving(error));
    let Some(worst) = refused.iter().min_by_key(weight) else { return report };
    let said: Vec<String> = refused.iter().map(ApplyError::message).collect();
    let because = Because::new(worst.reason(), said.join(" | "));
    let serves = Some(report.is_available());
    let report = Report { is_passing: false, serves, ..report };
    if worst.is_aside() {
        // What does not serve yet may wait for just that.
        let is_awaited = !report.ready.0 && matches!(worst, ApplyError::NoKind { .. });
        let ready = if is_awaited { (false, because.clone()) } else { report.ready };
        return Report { ready, degraded: Some(because), ..report };
    }
    let others = match said.len() {
        1 => String::new(),
        more => format!("; and {} more", more - 1),
    };
    let summary = format!("{}{others}", worst.message());
    let report = Report { ready: (false, because.clone()), summary, ..report };
    if is_leaving(worst) {
        return Report { progressing: Some(because), ..report };
    }
    if worst.is_stalled() {
        return Report { degraded: Some(because), progressing: None, is_stalled: true, ..report };
    }
    Report { degraded: Some(because), ..report }
}

/// A report of pods that wait for a Secret that is not there says so. What serves without it goes on serving, until its pods start
/// anew or the time comes for what needs it; a change that is held back until then is under way.
pub(super) fn lacking(report: Report, missing: Vec<String>, held: Vec<Lack>) -> Report {
    let is_held = !held.is_empty();
    let mut lacks: Vec<Lack> = Vec::new();
    for lack in missing.into_iter().map(|secret| Lack { secret, key: None }).chain(held) {
        if !lacks.contains(&lack) {
            lacks.push(lack);
        }
    }
    if lacks.is_empty() || report.is_stalled {
        return report;
    }
    let said: Vec<String> = lacks.iter().map(ToString::to_string).collect();
    let there = if lacks.iter().any(|lack| lack.key.is_some()) { " there" } else { "" };
    let message = format!("{}; what reads it waits until it is{there}", said.join(", "));
    let because = Because::new("SecretMissing", message.clone());
    if report.ready.0 {
        let progressing = if is_held { Some(because.clone()) } else { report.progressing };
        return Report { degraded: Some(because), progressing, ..report };
    }
    let serves = Some(report.is_available());
    Report { degraded: Some(because.clone()), ready: (false, because), summary: message, serves, ..report }
}

/// What is wrong with a spec that the API server accepted. What another object would mend is waited for.
pub(super) fn invalid(problems: &[Problem], before: &impl Status) -> Report {
    let said: Vec<String> =
        problems.iter().map(|problem| problem.to_string().replace("\n  ", "; ")).collect();
    let message = said.join(" | ");
    if problems.iter().all(|problem| problem.is_awaited) {
        let because = Because::new("WaitingForStack", message.clone());
        let report = Report::progressing(message, because.clone());
        let report = Report { degraded: Some(because), ..report }.as_seen_last(before);
        // What was said of the two together is so no more.
        return Report { is_unseen: false, ..report };
    }
    Report::stalled(message.clone(), Because::new("Invalid", message)).as_seen_last(before)
}

#[cfg(test)]
mod tests {
    use kube::core::Status as ApiStatus;

    use super::super::child::{ChildKey, ChildKind};
    use super::super::key::ObjectName;
    use super::*;

    fn child(kind: ChildKind) -> ChildKey {
        ChildKey { kind, object: ObjectName::new("n", "x") }
    }

    fn refused(kind: ChildKind) -> ApplyError {
        let source = Box::new(kube::Error::Api(Box::new(ApiStatus::failure("no", "Invalid"))));
        ApplyError::Write { child: child(kind), source }
    }

    fn ready() -> Report {
        Report::ready("3/3", Because::new("Ready", "all is well"))
    }

    fn said(report: &Report) -> String {
        let reason = |because: &Option<Because>| because.as_ref().map_or("-", |because| because.reason);
        let (progressing, degraded) = (reason(&report.progressing), reason(&report.degraded));
        let stalled = if report.is_stalled { " stalled" } else { "" };
        format!("{} {} / {progressing} / {degraded}{stalled}", report.ready.0, report.ready.1.reason)
    }

    #[test]
    fn what_a_refused_child_takes_away() {
        let taken = |kind| ApplyError::Taken { child: child(kind), holder: "Deployment y".to_owned() };
        let leaving = |kind| ApplyError::Leaving { child: child(kind) };
        let lacking = || ApplyError::NoKind { child: child(ChildKind::Certificate) };
        use ChildKind::{CronJob, Service, StatefulSet};
        let table = [
            (vec![], "true Ready / - / -", true),
            (vec![refused(CronJob)], "true Ready / - / ApplyFailed", true),
            (vec![lacking()], "true Ready / - / KindMissing", true),
            (vec![taken(CronJob)], "true Ready / - / NameTaken", true),
            (vec![refused(StatefulSet)], "false ApplyFailed / - / ApplyFailed", true),
            (vec![refused(CronJob), taken(Service)], "false NameTaken / - / NameTaken stalled", false),
            (vec![leaving(Service)], "false StillDeleting / StillDeleting / -", false),
            (vec![leaving(Service), refused(StatefulSet)], "false ApplyFailed / - / ApplyFailed", false),
        ];
        for (refused, expected, goes_on) in table {
            assert_eq!((said(&beside(ready(), &refused)).as_str(), may_act(&refused)), (expected, goes_on));
        }
        let founding = || Report::progressing("0/3", Because::new("WaitingForPods", "0 of 3"));
        assert_eq!(
            said(&beside(founding(), &[lacking()])),
            "false KindMissing / WaitingForPods / KindMissing"
        );
        assert_eq!(
            said(&beside(founding(), &[refused(CronJob)])),
            "false WaitingForPods / WaitingForPods / ApplyFailed"
        );
        let report = beside(ready(), &[refused(ChildKind::CronJob), refused(ChildKind::Service)]);
        assert_eq!(report.summary, "Service x was refused: no; and 1 more");
        assert_eq!(report.ready.1.message, "CronJob x was refused: no | Service x was refused: no");
    }

    #[test]
    fn what_a_failed_step_takes_away() {
        let step = StepError { reason: "EvictionRefused", message: "not yet".to_owned() };
        let rolling = Report { progressing: Some(Because::new("Rolling", "…")), ..ready() };
        assert_eq!(said(&undone(rolling, &step)), "true Ready / Rolling / EvictionRefused");
        assert_eq!(said(&undone(ready(), &step)), "false EvictionRefused / - / EvictionRefused");
        assert!(undone(ready(), &step).is_available());
        let waiting = Report::progressing("0/3", Because::new("WaitingForPods", "0 of 3"));
        assert_eq!(said(&undone(waiting, &step)), "false EvictionRefused / WaitingForPods / EvictionRefused");
    }

    #[test]
    fn what_another_object_would_mend_is_waited_for() {
        let problem =
            || Problem::new("spec.stackRef", "needs ModelHub, and there is no AIStack s", "make it");
        let before = aistack_crds::status::BasicStatus::default();
        let waits = invalid(&[problem().awaited()], &before);
        assert_eq!(said(&waits), "false WaitingForStack / WaitingForStack / WaitingForStack");
        let both = invalid(&[problem().awaited(), problem()], &before);
        assert_eq!(said(&both), "false Invalid / - / Invalid stalled");
    }

    #[test]
    fn a_missing_secret_takes_nothing_from_what_serves() {
        let missing = || vec!["key".to_owned()];
        let held = |key: Option<&str>| vec![Lack { secret: "key".to_owned(), key: key.map(str::to_owned) }];
        let lacks = lacking(ready(), missing(), held(Some("token")));
        assert_eq!(
            lacks.degraded.map(|because| because.message).as_deref(),
            Some(
                "Secret key is not in this namespace, Secret key has no key token; what reads it waits until it is there"
            )
        );
        assert_eq!(said(&lacking(ready(), missing(), Vec::new())), "true Ready / - / SecretMissing");
        assert_eq!(
            said(&lacking(ready(), missing(), held(None))),
            "true Ready / SecretMissing / SecretMissing",
            "a change waits"
        );
        let waiting = Report::progressing("0/3", Because::new("WaitingForPods", "0 of 3"));
        assert_eq!(
            said(&lacking(waiting, missing(), Vec::new())),
            "false SecretMissing / WaitingForPods / SecretMissing"
        );
    }
}
