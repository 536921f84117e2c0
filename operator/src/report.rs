//! What all reports have in common: names, selectors, pods in words, and what this version leaves undone.

use std::time::Duration;

use kube::Resource;

use crate::gap::{Gap, Outlet};
use crate::kernel::child::{JobProgress, Pods, Progress};
use crate::kernel::conditions::{Because, Extra, Report};
use crate::meta::{Image, Owner};

/// While pods are waited for: the scheduler may say why there is no room.
pub(crate) const PENDING: Duration = Duration::from_secs(5);

/// The namespace of an object that a watch told of.
pub(crate) fn namespace<K: Resource>(object: &K) -> String {
    object.meta().namespace.clone().unwrap_or_default()
}

/// Labels of an owner's pods in text form, for the scale subresource.
pub(crate) fn selector(owner: &Owner) -> String {
    let labels: Vec<String> =
        owner.selector().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

/// Version that an image names.
pub(crate) fn tag(image: &Image) -> String {
    let last = image.reference.rsplit('/').next().unwrap_or_default();
    last.split_once(':').map_or("latest", |(_, tag)| tag).to_owned()
}

/// How pods fare that are all alike.
pub(crate) fn of_pods(summary: String, pods: &Pods) -> Report {
    Report { serves: Some(pods.ready > 0), ..fare(summary, pods) }
}

fn fare(summary: String, pods: &Pods) -> Report {
    if let Some(failure) = &pods.failure {
        return Report::degraded(summary, Because::new("PodsRefused", failure.clone()));
    }
    let said = pods.counted();
    if pods.is_complete() {
        return Report::ready(summary, Because::new("Ready", said));
    }
    if let Some(because) = &pods.trouble {
        let mut report = Report::degraded(summary, because.clone());
        // Nobody is told that it is mended: the pods tell, and what is said of them may change before.
        report.look_again = Some(PENDING);
        return report;
    }
    let mut report = Report::progressing(summary, Because::new("WaitingForPods", pods.awaited()));
    report.look_again = Some(PENDING);
    if pods.is_current && pods.wanted > 0 && pods.ready >= pods.wanted {
        // All serve; some still run the old template.
        report.ready = (true, Because::new("Ready", said));
    }
    report
}

/// How a Job fares that makes something.
pub(crate) fn of_job(progress: Option<&Progress>, what: &str) -> Report {
    let job = match progress {
        Some(Progress::Job(job)) => job.clone(),
        _ => JobProgress::default(),
    };
    match job {
        JobProgress { failure: Some(failure), .. } => {
            Report::stalled(format!("{what} could not be made"), Because::new("JobFailed", failure))
        }
        JobProgress { is_complete: true, .. } => {
            let said = format!("{what} is made");
            Report::ready(said.clone(), Because::new("Ready", said))
        }
        JobProgress { .. } => {
            let said = format!("{what} is being made");
            Report::progressing(said.clone(), Because::new("Generating", said))
        }
    }
}

/// Says what the spec asks for and this version does not do, and, where something is wrong, what that may come from.
pub(crate) fn with_gaps(mut report: Report, gaps: &[Gap]) -> Report {
    let is_wrong = report.degraded.is_some();
    let said: Vec<String> = gaps
        .iter()
        .filter(|gap| gap.concerns(Outlet::Cluster) && (is_wrong || !gap.is_doubt))
        .map(|gap| format!("{}: {}; {}", gap.path, gap.what, gap.instead))
        .collect();
    if said.is_empty() {
        return report;
    }
    let because = Because::new("NotInThisVersion", said.join(" | "));
    if report.degraded.is_none() {
        report.degraded = Some(because.clone());
    }
    report.extra.push(Extra { kind: "Supported", is_so: Some(false), because });
    report
}

#[cfg(test)]
mod tests {
    use aistack_crds::parts::ImageSpec;

    use super::*;

    #[test]
    fn versions_are_read_off_images() {
        for (reference, expected) in
            [("aistack/tinykv:0.1.0", "0.1.0"), ("host:5000/tinykv", "latest"), ("host:5000/a/b:v2", "v2")]
        {
            let image = Image::named(reference.to_owned(), &ImageSpec::default());
            assert_eq!(tag(&image), expected, "{reference}");
        }
    }

    #[test]
    fn doubts_are_told_where_something_is_wrong() {
        let gaps = [Gap::doubt("spec.model", "nothing says where the weights are", "push them")];
        let all_well = || Report::ready(String::new(), Because::new("Ready", ""));
        let broken = || Report::degraded(String::new(), Because::new("PodsCrash", "the pods do not start"));
        assert!(with_gaps(all_well(), &gaps).degraded.is_none());
        let said = with_gaps(broken(), &gaps);
        assert_eq!(said.degraded.map(|because| because.reason), Some("PodsCrash"));
        assert_eq!(
            said.extra[0].because.message,
            "spec.model: nothing says where the weights are; push them"
        );
        let gaps = [Gap::everywhere("spec.adapters", "adapters are not loaded", "remove the field")];
        assert!(with_gaps(all_well(), &gaps).degraded.is_some());
    }

    #[test]
    fn pods_in_words() {
        let pods = |ready, updated, is_current| Pods {
            is_current,
            wanted: 2,
            replicas: 2,
            ready,
            updated,
            ..Pods::default()
        };
        let table = [
            (pods(2, 2, true), true, false),
            (pods(1, 2, true), false, true),
            (pods(2, 1, true), true, true),
            (pods(2, 2, false), false, true),
        ];
        for (pods, is_ready, is_progressing) in table {
            let report = of_pods(String::new(), &pods);
            assert_eq!(
                (report.ready.0, report.progressing.is_some()),
                (is_ready, is_progressing),
                "{pods:?}"
            );
        }
    }
}
