//! The controller of AIStacks: it makes children and sums them up.

use std::time::Duration;

use aistack_crds::{AIStack, Kind};

use super::meanwhile::{self, Meanwhile};
use super::{ValidatedStack, build, validate};
use crate::kernel::apply::{Applied, AppliedChild};
use crate::kernel::child::{ChildKind, Pods, Progress, Said};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra, Report};
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::kernel::{Controller, ObjectName};
use crate::manifest::Manifests;
use crate::probe::{self, Reached};
use crate::problem::Problem;
use crate::report;

/// How often servers of somebody else's are asked whether they are there.
const PROBED: Duration = Duration::from_mins(1);

/// The controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct StackController;

/// A server of somebody else's that the stack uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Condition that tells of it.
    condition: &'static str,
    /// Where it is.
    endpoint: String,
    reached: Reached,
}

/// What is seen beside the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    externals: Vec<External>,
    meanwhile: Meanwhile,
}

impl Controller for StackController {
    type Object = AIStack;
    type Found = Found;
    type Validated = ValidatedStack;

    const KIND: Kind = Kind::AIStack;

    fn references(&self, object: &AIStack) -> Vec<Reference> {
        let spec = &object.spec;
        let kv = spec.kv_store.iter().flat_map(|kv| {
            let key = kv.secret_ref.iter().map(|key| &key.name);
            key.chain(kv.tls.iter().map(|tls| &tls.secret_name))
        });
        let vector = spec.vector_store.iter().flat_map(|vector| {
            let key = vector.secret_ref.iter().map(|key| &key.name);
            key.chain(vector.tls.iter().map(|tls| &tls.secret_name))
        });
        let hubs = spec.modelhub.iter().chain(&spec.model_hub);
        let hub =
            hubs.flat_map(|hub| hub.secret_ref.iter().map(|key| &key.name).chain(&hub.artefacts_secret_name));
        let sql = spec.sql.iter().filter_map(|sql| sql.secret_ref.as_ref()).map(|key| &key.name);
        let engine = spec.inference.iter().flat_map(|engine| {
            let key = engine.secret_ref.iter().map(|key| &key.name);
            key.chain(engine.tls.iter().map(|tls| &tls.secret_name))
        });
        // One that an issuer is asked for is awaited by its cluster.
        let own = spec.tinykv.iter().filter_map(|kv| kv.tls.as_ref()?.secret_name.as_ref());
        let secret =
            |name: &String| Reference::Secret(ObjectName::new(report::namespace(object), name.as_str()));
        kv.chain(vector).chain(hub).chain(sql).chain(engine).chain(own).map(secret).collect()
    }

    async fn dereference(&self, cluster: &Cluster, object: &AIStack) -> Result<Found, StepError> {
        let (spec, namespace) = (&object.spec, report::namespace(object));
        let kv = async {
            let kv = spec.kv_store.as_ref()?;
            let asked = kv.endpoints.iter().map(|endpoint| async {
                let url = format!("{}/health", endpoint.trim_end_matches('/'));
                probe::http(cluster, &namespace, &url, kv.tls.as_ref()).await
            });
            let answers = futures::future::join_all(asked).await;
            // One member that answers is enough: clients go to another when one is gone.
            let one = answers.iter().find(|answer| **answer == Reached::Yes).or(answers.first()).cloned();
            let reached = one.unwrap_or_else(|| Reached::No("no endpoint is named".to_owned()));
            Some(External { condition: "KvStoreReachable", endpoint: kv.endpoints.join(", "), reached })
        };
        let vector = async {
            let vector = spec.vector_store.as_ref()?;
            let url = format!("{}/healthz", vector.endpoint.trim_end_matches('/'));
            let reached = probe::http(cluster, &namespace, &url, vector.tls.as_ref()).await;
            Some(External { condition: "VectorStoreReachable", endpoint: vector.endpoint.clone(), reached })
        };
        let sql = async {
            let sql = spec.sql.as_ref()?;
            let reached = probe::connect(cluster, &sql.endpoint, 5432).await;
            Some(External { condition: "SqlReachable", endpoint: probe::shown(&sql.endpoint), reached })
        };
        // Side by side: one that hangs takes the step's patience from none of the others.
        let (kv, vector, sql) = futures::join!(kv, vector, sql);
        let externals = [kv, vector, sql].into_iter().flatten().collect();
        Ok(Found { externals, meanwhile: meanwhile::look(cluster, object).await? })
    }

    fn validate(&self, object: &AIStack, _: &Found) -> Result<ValidatedStack, Vec<Problem>> {
        validate(object)
    }

    fn build(&self, stack: &ValidatedStack, found: &Found) -> Option<Manifests> {
        let built = build::beside(stack, &found.meanwhile);
        let mut manifests = built.children;
        manifests.append(built.own);
        Some(manifests)
    }

    fn report(&self, stack: &ValidatedStack, found: &Found, applied: &Applied) -> Report {
        let mut parts = parts(applied);
        parts.extend(absent(&self.build(stack, found).unwrap_or_default(), applied));
        let mut report = summed_up(&parts, &found.externals);
        report.extra = found.externals.iter().map(External::condition).collect();
        report.look_again = (!found.externals.is_empty()).then_some(PROBED);
        if applied.0.iter().any(awaits_pods) {
            report.look_again = Some(report::PENDING);
        }
        report::with_gaps(report, stack.gaps())
    }
}

impl External {
    fn condition(&self) -> Extra {
        let (is_so, because) = match &self.reached {
            Reached::Yes => (true, Because::new("Answers", format!("{} answers", self.endpoint))),
            Reached::No(why) => (false, Because::new("Unreachable", format!("{}: {why}", self.endpoint))),
        };
        Extra { kind: self.condition, is_so: Some(is_so), because }
    }
}

/// A part of a stack and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    name: String,
    is_ready: bool,
    /// Clients are served, be it ready or not.
    is_available: bool,
    /// Nothing more will happen until somebody changes something.
    is_broken: bool,
    /// Why it is not ready, in a word or a sentence.
    why: String,
    /// What is under way, be it ready or not.
    progressing: Option<Said>,
    /// What is wrong, be it ready or not.
    degraded: Option<Said>,
}

impl Part {
    /// What it waits for, where it is not ready.
    fn waits(&self) -> Option<String> {
        (!self.is_ready).then(|| self.why.clone())
    }
}

fn parts(applied: &Applied) -> Vec<Part> {
    applied.0.iter().filter_map(part).collect()
}

/// Parts that there are not, as where somebody else's object has the name.
fn absent(wanted: &Manifests, applied: &Applied) -> Vec<Part> {
    let is_there = |kind: ChildKind, name: &str| applied.progress(kind, name).is_some();
    let parts =
        wanted.iter().filter_map(|manifest| Some((ChildKind::from_name(manifest.kind())?, manifest.name())));
    let parts = parts.filter(|(kind, _)| {
        kind.of_ours().is_some() || matches!(kind, ChildKind::StatefulSet | ChildKind::Deployment)
    });
    let away = parts.filter(|(kind, name)| !is_there(*kind, name));
    away.map(|(_, name)| Part { name: name.to_owned(), why: "it is not there".to_owned(), ..Part::default() })
        .collect()
}

fn part(child: &AppliedChild) -> Option<Part> {
    let name = child.key.object.name.clone();
    Some(match &child.progress {
        Progress::Present
        | Progress::Job(_)
        | Progress::Times(..)
        | Progress::Certificate(_)
        | Progress::Autoscaler(_)
        | Progress::ScaledObject(..) => return None,
        Progress::Pods(pods) => of_pods(name, pods),
        Progress::Ours(own) => Part {
            is_ready: own.is_ready,
            is_available: own.is_available,
            is_broken: own.is_stalled,
            why: if own.said.reason.is_empty() { "just created".to_owned() } else { own.said.reason.clone() },
            progressing: own.progressing.clone(),
            degraded: own.degraded.clone(),
            name,
        },
    })
}

fn of_pods(name: String, pods: &Pods) -> Part {
    let said = |because: Because| Said { reason: because.reason.to_owned(), message: because.message };
    let degraded = pods.trouble.clone().map(said);
    let why = degraded.as_ref().map(|said| said.message.clone());
    Part {
        is_ready: pods.is_complete(),
        is_available: pods.ready > 0,
        is_broken: pods.failure.is_some(),
        why: pods.failure.clone().or(why).unwrap_or_else(|| pods.awaited()),
        progressing: None,
        degraded,
        name,
    }
}

/// Nobody is told why pods of the stack's own do not come: it is asked again.
fn awaits_pods(child: &AppliedChild) -> bool {
    matches!(&child.progress, Progress::Pods(pods) if !pods.is_complete())
}

/// A line for several parts.
fn joined<'a>(parts: &'a [Part], said: impl Fn(&'a Part) -> Option<String>) -> Option<String> {
    let said: Vec<String> =
        parts.iter().filter_map(|part| Some(format!("{}: {}", part.name, said(part)?))).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn summed_up(parts: &[Part], externals: &[External]) -> Report {
    if parts.is_empty() && externals.is_empty() {
        let said = "nothing runs: no component that the spec names is in this version";
        return Report::degraded(said, Because::new("ComponentMissing", said));
    }
    let away: Vec<String> = externals
        .iter()
        .filter(|external| external.reached != Reached::Yes)
        .map(|external| format!("{}: unreachable", external.endpoint))
        .collect();
    let progressing = joined(parts, |part| match &part.progressing {
        Some(said) if part.is_ready => Some(format!("{}, {}", said.reason, said.message)),
        _ => part.waits().filter(|_| !part.is_broken),
    });
    Report {
        serves: Some(away.is_empty() && parts.iter().all(|part| part.is_available)),
        progressing: progressing.map(|message| Because::new("WaitingForParts", message)),
        degraded: wrong(parts, &away),
        ..standing(parts, &away, parts.len() + externals.len())
    }
}

/// Whether all of it is ready, in a line and in conditions.
fn standing(parts: &[Part], away: &[String], all: usize) -> Report {
    let unready: Vec<String> = joined(parts, Part::waits).into_iter().chain(away.iter().cloned()).collect();
    if unready.is_empty() {
        let said = |part: &Part| {
            let said = part.degraded.as_ref().or(part.progressing.as_ref())?;
            Some(said.reason.clone())
        };
        let but = joined(parts, said).map_or(String::new(), |but| format!("; {but}"));
        let because = Because::new("Ready", format!("all {all} parts are ready"));
        return Report::ready(format!("Ready {all}/{all}{but}"), because);
    }
    let reason = if parts.iter().any(|part| part.is_broken) {
        "PartFailed"
    } else if parts.iter().all(|part| part.is_ready) {
        "Unreachable"
    } else {
        "WaitingForParts"
    };
    let ready = all - parts.iter().filter(|part| !part.is_ready).count() - away.len();
    let unready = unready.join("; ");
    Report::progressing(format!("{ready}/{all} ready; {unready}"), Because::new(reason, unready))
}

/// What is wrong with parts, the worst first.
fn wrong(parts: &[Part], away: &[String]) -> Option<Because> {
    let failed = joined(parts, |part| part.is_broken.then(|| part.why.clone()));
    let failed = failed.map(|message| Because::new("PartFailed", message));
    let away = (!away.is_empty()).then(|| Because::new("Unreachable", away.join("; ")));
    let troubled =
        joined(parts, |part| part.degraded.as_ref().map(|said| format!("{}, {}", said.reason, said.message)));
    failed.or(away).or_else(|| troubled.map(|message| Because::new("PartDegraded", message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, is_ready: bool, is_broken: bool) -> Part {
        Part {
            name: name.to_owned(),
            is_ready,
            is_broken,
            why: "WaitingForPods".to_owned(),
            ..Part::default()
        }
    }

    fn said(reason: &str) -> Said {
        Said { reason: reason.to_owned(), message: "…".to_owned() }
    }

    #[test]
    fn one_line_sums_up_a_stack() {
        let etcd =
            |reached| External { condition: "KvStoreReachable", endpoint: "http://e".to_owned(), reached };
        let ready = || part("tinykv", true, false);
        let rolling = Part { progressing: Some(said("Rolling")), ..part("chat", true, false) };
        let stuck = Part { degraded: Some(said("Unschedulable")), ..rolling.clone() };
        let table = [
            (vec![ready(), part("chat", true, false)], vec![], "Ready 2/2", "Ready - -"),
            (vec![ready(), rolling], vec![], "Ready 2/2; chat: Rolling", "Ready WaitingForParts -"),
            (
                vec![ready(), stuck],
                vec![],
                "Ready 2/2; chat: Unschedulable",
                "Ready WaitingForParts PartDegraded",
            ),
            (
                vec![ready(), part("chat", false, false)],
                vec![],
                "1/2 ready; chat: WaitingForPods",
                "WaitingForParts WaitingForParts -",
            ),
            (
                vec![part("tinykv", false, true)],
                vec![],
                "0/1 ready; tinykv: WaitingForPods",
                "PartFailed - PartFailed",
            ),
            (
                vec![part("chat", true, false)],
                vec![etcd(Reached::No("refused".to_owned()))],
                "1/2 ready; http://e: unreachable",
                "Unreachable - Unreachable",
            ),
            (vec![part("chat", true, false)], vec![etcd(Reached::Yes)], "Ready 2/2", "Ready - -"),
            (
                vec![],
                vec![],
                "nothing runs: no component that the spec names is in this version",
                "ComponentMissing - ComponentMissing",
            ),
        ];
        for (parts, externals, summary, reasons) in table {
            let report = summed_up(&parts, &externals);
            let reason = |because: &Option<Because>| because.as_ref().map_or("-", |because| because.reason);
            let (progressing, degraded) = (reason(&report.progressing), reason(&report.degraded));
            assert_eq!(report.summary, summary);
            assert_eq!(format!("{} {progressing} {degraded}", report.ready.1.reason), reasons);
        }
    }
}
