//! The controller of InferenceServices.

use std::time::Duration;

use aistack_crds::{InferenceService, Kind};

use super::{ApiKey, Engine, ValidatedInferenceService, build, validate};
use crate::kernel::apply::Applied;
use crate::kernel::child::{ChildKind, Pods, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Report, Scaled};
use crate::kernel::controller::StepError;
use crate::kernel::references::Reference;
use crate::kernel::{Controller, ObjectName};
use crate::manifest::Manifests;
use crate::probe::{self, Reached};
use crate::problem::Problem;
use crate::report;

/// How often a server of somebody else's is asked whether it is there.
const PROBED: Duration = Duration::from_mins(1);

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct InferenceController;

impl Controller for InferenceController {
    type Object = InferenceService;
    type Found = Option<Reached>;
    type Validated = ValidatedInferenceService;

    const KIND: Kind = Kind::InferenceService;

    fn references(&self, object: &InferenceService) -> Vec<Reference> {
        let secret = |name: &str| Reference::Secret(ObjectName::new(report::namespace(object), name));
        let spec = &object.spec;
        let key = spec.secret_ref.iter().map(|key| secret(&key.name));
        key.chain(spec.tls.iter().map(|tls| secret(&tls.secret_name))).collect()
    }

    async fn dereference(
        &self,
        cluster: &Cluster,
        object: &InferenceService,
    ) -> Result<Option<Reached>, StepError> {
        let Some(endpoint) = &object.spec.endpoint else { return Ok(None) };
        let url = format!("{}/v1/models", endpoint.trim_end_matches('/'));
        let tls = object.spec.tls.as_ref();
        Ok(Some(probe::http(cluster, &report::namespace(object), &url, tls).await))
    }

    fn validate(
        &self,
        object: &InferenceService,
        _: &Option<Reached>,
    ) -> Result<ValidatedInferenceService, Vec<Problem>> {
        validate(object, "")
    }

    fn build(&self, service: &ValidatedInferenceService, _: &Option<Reached>) -> Option<Manifests> {
        Some(build(service))
    }

    fn report(
        &self,
        service: &ValidatedInferenceService,
        found: &Option<Reached>,
        applied: &Applied,
    ) -> Report {
        let report = match &service.engine {
            Engine::External(endpoint) => external(service, endpoint, found.as_ref()),
            Engine::Tinyinfer(serving) | Engine::Vllm(serving) => {
                let pods = match applied.progress(ChildKind::Deployment, &service.workload_name()) {
                    Some(Progress::Pods(pods)) => pods.clone(),
                    _ => Pods { wanted: i32::from(serving.replicas), ..Pods::default() },
                };
                let summary = format!("{}/{} {}", pods.ready, pods.wanted, service.model);
                let mut report = report::of_pods(summary, &pods);
                report.scaled = Scaled {
                    replicas: pods.replicas,
                    ready_replicas: pods.ready,
                    selector: Some(report::selector(&service.owner)),
                    version: (pods.is_complete() && pods.ready > 0).then(|| report::tag(&serving.image)),
                    endpoint: Some(service.endpoint()),
                    ..Scaled::default()
                };
                report
            }
        };
        report::with_gaps(report, service.gaps())
    }
}

/// A server of somebody else's is reported, never owned.
fn external(service: &ValidatedInferenceService, endpoint: &str, reached: Option<&Reached>) -> Report {
    let key = if *service.secret() == ApiKey::Open { "" } else { ", with a key" };
    let summary = format!("{} at {endpoint}{key}", service.model);
    let mut report = match reached {
        Some(Reached::Yes) => {
            Report::ready(summary, Because::new("Reachable", format!("{endpoint} answers")))
        }
        Some(Reached::No(why)) => {
            Report::degraded(summary, Because::new("Unreachable", format!("{endpoint}: {why}")))
        }
        None => Report::progressing(summary, Because::new("NotAskedYet", format!("{endpoint} is asked"))),
    };
    report.scaled.endpoint = Some(endpoint.to_owned());
    report.look_again = Some(PROBED);
    report
}
