//! What an object says of itself: conditions that `kubectl wait`, kstatus and people understand.
//!
//! Ready, Progressing, Degraded and Available are always there. Reconciling and Stalled are kstatus's own names: they are there only while
//! they are true, and tell Flux and Argo CD to wait, or that waiting is in vain.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use aistack_crds::status::{BasicStatus, MemberStatus, ScaledStatus};

/// Longest message of a condition, in characters: a list of what a spec asks in vain is told whole.
const LONGEST: usize = 4_000;
/// Longest summary.
const LONGEST_SUMMARY: usize = 500;

/// A reason in CamelCase, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Because {
    /// In CamelCase, from a fixed set.
    pub reason: &'static str,
    /// What a person reads. Nothing in it changes while nothing happens.
    pub message: String,
}

impl Because {
    /// A reason and its sentence.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A condition of a kind's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Its type.
    pub kind: &'static str,
    /// Whether it is so; `None`: nobody can tell.
    pub is_so: Option<bool>,
    /// Why.
    pub because: Because,
}

/// What a reconciliation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether it does what its spec asks for, and why.
    pub ready: (bool, Because),
    /// Whether clients are served, of a kind that may serve while it is not as its spec asks for; else it is while it is ready.
    pub serves: Option<bool>,
    /// What is under way, if anything is.
    pub progressing: Option<Because>,
    /// What is wrong, if anything is.
    pub degraded: Option<Because>,
    /// Nothing more will happen until somebody changes something.
    pub is_stalled: bool,
    /// Conditions of the kind's own.
    pub extra: Vec<Extra>,
    /// One line for people.
    pub summary: String,
    /// Replicas, of a kind that has them.
    pub scaled: Scaled,
    /// When to look again, if no watch will say so.
    pub look_again: Option<std::time::Duration>,
    /// Another turn will say something else in a moment: not worth a write where something is said already.
    pub is_passing: bool,
    /// How it fares was not seen in this turn: conditions of the kind's own stay as they are.
    pub is_unseen: bool,
}

/// Conditions that every kind has, always or while they are true.
const COMMON: [&str; 7] =
    ["Ready", "Progressing", "Degraded", "Available", "Reconciling", "Stalled", "Paused"];

/// Replicas and what goes with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scaled {
    /// Pods that exist.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Their labels, in text form.
    pub selector: Option<String>,
    /// Version that all ready pods run.
    pub version: Option<String>,
    /// Address of the client Service.
    pub endpoint: Option<String>,
    /// Members of a replicated group.
    pub members: Vec<MemberStatus>,
}

impl Report {
    /// All is as it should be.
    pub fn ready(summary: impl Into<String>, because: Because) -> Self {
        Self {
            ready: (true, because),
            serves: None,
            progressing: None,
            degraded: None,
            is_stalled: false,
            extra: Vec::new(),
            summary: summary.into(),
            scaled: Scaled::default(),
            look_again: None,
            is_passing: false,
            is_unseen: false,
        }
    }

    /// The same of a turn that has not seen how the object fares: that is told as it was seen last.
    #[must_use]
    pub fn as_seen_last(self, before: &impl Status) -> Self {
        let was_available =
            before.conditions().iter().any(|it| it.type_ == "Available" && it.status == "True");
        Self { serves: Some(was_available), scaled: before.scaled(), is_unseen: true, ..self }
    }

    /// Whether clients are served.
    pub fn is_available(&self) -> bool {
        self.serves.unwrap_or(self.ready.0)
    }

    /// It is on its way.
    pub fn progressing(summary: impl Into<String>, because: Because) -> Self {
        Self { ready: (false, because.clone()), progressing: Some(because), ..Self::ready(summary, UNSAID) }
    }

    /// Something is wrong, and it is tried again.
    pub fn degraded(summary: impl Into<String>, because: Because) -> Self {
        Self { ready: (false, because.clone()), degraded: Some(because), ..Self::ready(summary, UNSAID) }
    }

    /// Something is wrong that somebody has to change.
    pub fn stalled(summary: impl Into<String>, because: Because) -> Self {
        Self { is_stalled: true, ..Self::degraded(summary, because) }
    }
}

const UNSAID: Because = Because { reason: "", message: String::new() };

/// A status of one of the two shapes.
pub trait Status: Serialize + Default + Clone + PartialEq + Send + Sync {
    /// The conditions so far.
    fn conditions(&self) -> &[Condition];
    /// The generation that it describes.
    fn observed_generation(&self) -> Option<i64>;
    /// Replicas and what goes with them, as they were seen last.
    fn scaled(&self) -> Scaled {
        Scaled::default()
    }
    /// A status of conditions and a report.
    fn of(generation: Option<i64>, conditions: Vec<Condition>, report: &Report) -> Self;
    /// The same status with another list of conditions.
    #[must_use]
    fn with_conditions(&self, conditions: Vec<Condition>) -> Self;
}

impl Status for BasicStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn observed_generation(&self) -> Option<i64> {
        self.observed_generation
    }

    fn of(generation: Option<i64>, conditions: Vec<Condition>, report: &Report) -> Self {
        Self {
            observed_generation: generation,
            summary: Some(cut(&report.summary, LONGEST_SUMMARY)),
            conditions,
        }
    }

    fn with_conditions(&self, conditions: Vec<Condition>) -> Self {
        Self { conditions, ..self.clone() }
    }
}

impl Status for ScaledStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn observed_generation(&self) -> Option<i64> {
        self.observed_generation
    }

    fn scaled(&self) -> Scaled {
        Scaled {
            replicas: self.replicas,
            ready_replicas: self.ready_replicas,
            selector: self.selector.clone(),
            version: self.version.clone(),
            endpoint: self.endpoint.clone(),
            members: self.members.clone(),
        }
    }

    fn of(generation: Option<i64>, conditions: Vec<Condition>, report: &Report) -> Self {
        let scaled = report.scaled.clone();
        Self {
            observed_generation: generation,
            summary: Some(cut(&report.summary, LONGEST_SUMMARY)),
            conditions,
            replicas: scaled.replicas,
            ready_replicas: scaled.ready_replicas,
            selector: scaled.selector,
            version: scaled.version,
            endpoint: scaled.endpoint,
            members: scaled.members,
        }
    }

    fn with_conditions(&self, conditions: Vec<Condition>) -> Self {
        Self { conditions, ..self.clone() }
    }
}

/// The conditions of a report. A condition that says what it said before keeps its time.
pub fn conditions(
    report: &Report,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let mut say = |kind: &str, status: &str, because: &Because| {
        let earlier = before.iter().find(|condition| condition.type_ == kind);
        let kept = earlier.filter(|condition| condition.status == status);
        conditions.push(Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: because.reason.to_owned(),
            message: cut(&because.message, LONGEST),
            observed_generation: generation,
            last_transition_time: kept
                .map_or(Time(seconds(now)), |condition| condition.last_transition_time.clone()),
        });
    };
    let (is_ready, because) = &report.ready;
    say("Ready", word(Some(*is_ready)), because);
    let settled = Because::new("Settled", "nothing is under way");
    say(
        "Progressing",
        word(Some(report.progressing.is_some())),
        report.progressing.as_ref().unwrap_or(&settled),
    );
    let sound = Because::new("AsExpected", "nothing is wrong");
    say("Degraded", word(Some(report.degraded.is_some())), report.degraded.as_ref().unwrap_or(&sound));
    let available = match (report.is_available(), is_ready) {
        (true, true) => Because::new("Serves", "clients are served"),
        (true, false) => {
            Because::new("ServesMeanwhile", "clients are served, though not all is as the spec asks")
        }
        (false, true) => Because::new("ScaledToZero", "replicas is 0, as the spec asks: nobody is served"),
        (false, false) => because.clone(),
    };
    say("Available", word(Some(report.is_available())), &available);
    if report.is_stalled {
        say("Stalled", "True", report.degraded.as_ref().unwrap_or(because));
    } else if let Some(progressing) = &report.progressing {
        say("Reconciling", "True", progressing);
    }
    for extra in &report.extra {
        say(extra.kind, word(extra.is_so), &extra.because);
    }
    if report.is_unseen {
        let is_own = |condition: &&Condition| !COMMON.contains(&condition.type_.as_str());
        conditions.extend(before.iter().filter(is_own).cloned());
    }
    conditions
}

/// The conditions of an object that is paused: as they were, and that.
pub fn paused(before: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut conditions: Vec<Condition> =
        before.iter().filter(|condition| condition.type_ != "Paused").cloned().collect();
    let earlier = before.iter().find(|condition| condition.type_ == "Paused");
    conditions.push(Condition {
        type_: "Paused".to_owned(),
        status: "True".to_owned(),
        reason: "Annotated".to_owned(),
        message: "nothing is done while the annotation platform.dev/paused is \"true\"".to_owned(),
        observed_generation: generation,
        last_transition_time: earlier
            .map_or(Time(seconds(now)), |condition| condition.last_transition_time.clone()),
    });
    conditions
}

/// Conditions tell seconds; what is kept finer would differ from what comes back.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn word(is_so: Option<bool>) -> &'static str {
    match is_so {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    }
}

fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let kept: String = text.chars().take(longest - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn statuses(conditions: &[Condition]) -> Vec<String> {
        conditions.iter().map(|condition| format!("{}={}", condition.type_, condition.status)).collect()
    }

    #[test]
    fn what_each_report_says() {
        let because = || Because::new("Why", "because");
        let table = [
            (Report::ready("s", because()), "Ready=True Progressing=False Degraded=False Available=True"),
            (
                Report::progressing("s", because()),
                "Ready=False Progressing=True Degraded=False Available=False Reconciling=True",
            ),
            (
                Report { serves: Some(true), ..Report::degraded("s", because()) },
                "Ready=False Progressing=False Degraded=True Available=True",
            ),
            (
                Report::stalled("s", because()),
                "Ready=False Progressing=False Degraded=True Available=False Stalled=True",
            ),
        ];
        for (report, expected) in table {
            assert_eq!(statuses(&conditions(&report, &[], Some(1), at(1))).join(" "), expected);
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns() {
        let why = |reason| Because::new(reason, "…");
        let first = conditions(&Report::progressing("s", why("One")), &[], Some(1), at(1));
        let second = conditions(&Report::progressing("s", why("Two")), &first, Some(2), at(2));
        let third = conditions(&Report::ready("s", why("Ready")), &second, Some(2), at(3));
        let times = |conditions: &[Condition]| -> Vec<i64> {
            conditions.iter().map(|condition| condition.last_transition_time.0.as_second()).collect()
        };
        assert_eq!(times(&second), [1, 1, 1, 1, 1], "another reason, the same status");
        assert_eq!(times(&third), [3, 3, 1, 3]);
        assert_eq!(second[0].reason, "Two");
        assert_eq!(second[0].observed_generation, Some(2));
    }

    #[test]
    fn what_was_not_seen_is_told_as_it_was_seen_last() {
        let own =
            Extra { kind: "QuorumHealthy", is_so: Some(true), because: Because::new("MostAnswer", "3 of 3") };
        let scaled = Scaled { replicas: 3, ready_replicas: 3, ..Scaled::default() };
        let ready = Report::ready("3/3", Because::new("Ready", "…"));
        let ready = Report { extra: vec![own], scaled: scaled.clone(), ..ready };
        let before = ScaledStatus::of(Some(1), conditions(&ready, &[], Some(1), at(1)), &ready);
        let failed = Report::degraded("no", Because::new("ReadFailed", "no")).as_seen_last(&before);
        let now = conditions(&failed, before.conditions(), Some(2), at(2));
        assert_eq!(
            statuses(&now).join(" "),
            "Ready=False Progressing=False Degraded=True Available=True QuorumHealthy=True"
        );
        assert_eq!(failed.scaled, scaled);
        let never =
            Report::degraded("no", Because::new("ReadFailed", "no")).as_seen_last(&ScaledStatus::default());
        assert!(!never.is_available());
    }

    #[test]
    fn a_pause_is_said_once_and_taken_back() {
        let before = conditions(&Report::ready("s", Because::new("Ready", "…")), &[], Some(1), at(1));
        let once = paused(&before, Some(1), at(2));
        let twice = paused(&once, Some(1), at(3));
        assert_eq!(once, twice);
        assert_eq!(statuses(&once).last().map(String::as_str), Some("Paused=True"));
        let after = conditions(&Report::ready("s", Because::new("Ready", "…")), &twice, Some(1), at(4));
        assert_eq!(after, before);
    }

    #[test]
    fn long_messages_fit_their_field() {
        let report = Report::ready("s".repeat(600), Because::new("Ready", "ä".repeat(40_000)));
        let status = BasicStatus::of(Some(1), conditions(&report, &[], None, at(0)), &report);
        assert_eq!(status.summary.expect("a summary").chars().count(), LONGEST_SUMMARY);
        assert_eq!(status.conditions[0].message.chars().count(), LONGEST);
    }
}
