//! The controller of AIStacks: it makes children and sums them up.

use std::time::Duration;

use aistack_crds::{AIStack, Kind};

use super::{ValidatedStack, build, validate};
use crate::kernel::apply::{Applied, AppliedChild};
use crate::kernel::child::Progress;
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

impl Controller for StackController {
    type Object = AIStack;
    type Found = Vec<External>;
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
        let hub = hubs.filter_map(|hub| hub.secret_ref.as_ref()).map(|key| &key.name);
        let sql = spec.sql.iter().filter_map(|sql| sql.secret_ref.as_ref()).map(|key| &key.name);
        let secret =
            |name: &String| Reference::Secret(ObjectName::new(report::namespace(object), name.as_str()));
        kv.chain(vector).chain(hub).chain(sql).map(secret).collect()
    }

    async fn dereference(&self, cluster: &Cluster, object: &AIStack) -> Result<Vec<External>, StepError> {
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
        Ok([kv, vector, sql].into_iter().flatten().collect())
    }

    fn validate(&self, object: &AIStack, _: &Vec<External>) -> Result<ValidatedStack, Vec<Problem>> {
        validate(object)
    }

    fn build(&self, stack: &ValidatedStack, _: &Vec<External>) -> Option<Manifests> {
        let built = build(stack);
        let mut manifests = built.children;
        manifests.append(built.own);
        Some(manifests)
    }

    fn report(&self, stack: &ValidatedStack, found: &Vec<External>, applied: &Applied) -> Report {
        let mut report = summed_up(&parts(applied), found);
        report.extra = found.iter().map(External::condition).collect();
        report.look_again = (!found.is_empty()).then_some(PROBED);
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
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: String,
    is_ready: bool,
    is_broken: bool,
    why: String,
}

fn parts(applied: &Applied) -> Vec<Part> {
    applied.0.iter().filter_map(part).collect()
}

fn part(child: &AppliedChild) -> Option<Part> {
    let name = child.key.object.name.clone();
    Some(match &child.progress {
        Progress::Present
        | Progress::Job(_)
        | Progress::Times(_)
        | Progress::Certificate(_)
        | Progress::Autoscaler(_)
        | Progress::ScaledObject(..) => return None,
        Progress::Pods(pods) => Part {
            is_ready: pods.is_complete(),
            is_broken: pods.failure.is_some(),
            why: pods.failure.clone().unwrap_or(format!("{} of {} pods are ready", pods.ready, pods.wanted)),
            name,
        },
        Progress::Ours(own) => Part {
            is_ready: own.is_ready,
            is_broken: own.is_stalled,
            why: if own.reason.is_empty() { "just created".to_owned() } else { own.reason.clone() },
            name,
        },
    })
}

fn summed_up(parts: &[Part], externals: &[External]) -> Report {
    let away: Vec<&External> = externals.iter().filter(|external| external.reached != Reached::Yes).collect();
    let waiting: Vec<&Part> = parts.iter().filter(|part| !part.is_ready).collect();
    let all = parts.len() + externals.len();
    let ready = all - waiting.len() - away.len();
    let named = waiting.iter().map(|part| format!("{}: {}", part.name, part.why));
    let named: Vec<String> =
        named.chain(away.iter().map(|external| format!("{}: unreachable", external.endpoint))).collect();
    if named.is_empty() {
        return Report::ready(
            format!("Ready {ready}/{all}"),
            Because::new("Ready", format!("all {all} parts are ready")),
        );
    }
    let summary = format!("{ready}/{all} ready; {}", named.join("; "));
    let message = named.join("; ");
    if waiting.iter().any(|part| part.is_broken) {
        return Report::degraded(summary, Because::new("PartFailed", message));
    }
    if waiting.is_empty() {
        return Report::degraded(summary, Because::new("Unreachable", message));
    }
    let mut report = Report::progressing(summary, Because::new("WaitingForParts", message.clone()));
    if !away.is_empty() {
        report.degraded = Some(Because::new("Unreachable", message));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, is_ready: bool, is_broken: bool) -> Part {
        Part { name: name.to_owned(), is_ready, is_broken, why: "WaitingForPods".to_owned() }
    }

    #[test]
    fn one_line_sums_up_a_stack() {
        let etcd =
            |reached| External { condition: "KvStoreReachable", endpoint: "http://e".to_owned(), reached };
        let table = [
            (vec![part("tinykv", true, false), part("chat", true, false)], vec![], "Ready 2/2", "Ready"),
            (
                vec![part("tinykv", true, false), part("chat", false, false)],
                vec![],
                "1/2 ready; chat: WaitingForPods",
                "WaitingForParts",
            ),
            (vec![part("tinykv", false, true)], vec![], "0/1 ready; tinykv: WaitingForPods", "PartFailed"),
            (
                vec![part("chat", true, false)],
                vec![etcd(Reached::No("refused".to_owned()))],
                "1/2 ready; http://e: unreachable",
                "Unreachable",
            ),
            (vec![part("chat", true, false)], vec![etcd(Reached::Yes)], "Ready 2/2", "Ready"),
        ];
        for (parts, externals, summary, reason) in table {
            let report = summed_up(&parts, &externals);
            assert_eq!((report.summary.as_str(), report.ready.1.reason), (summary, reason));
        }
    }
}
