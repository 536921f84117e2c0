//! KEDA's ScaledObject, as far as one is asked for: KEDA makes an autoscaler of it, `keda-hpa-NAME`, and sees to what that looks at.
//! <https://keda.sh/docs/latest/reference/scaledobject-spec/>

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// Annotation: so many pods there are, and nobody scales, for as long as it is there.
pub const PAUSED_REPLICAS: &str = "autoscaling.keda.sh/paused-replicas";

/// What is scaled, between which bounds, and by what.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keda.sh",
    version = "v1alpha1",
    kind = "ScaledObject",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ScaledObjectSpec {
    /// The workload.
    pub scale_target_ref: ScaleTarget,
    /// Fewest pods.
    pub min_replica_count: i32,
    /// Most pods.
    pub max_replica_count: i32,
    /// What is looked at.
    pub triggers: Vec<Trigger>,
    /// How the number of pods moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advanced: Option<Advanced>,
}

/// What KEDA passes on to the autoscaler that it makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advanced {
    horizontal_pod_autoscaler_config: AutoscalerConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct AutoscalerConfig {
    behavior: HorizontalPodAutoscalerBehavior,
}

impl Advanced {
    pub(crate) fn of(behavior: HorizontalPodAutoscalerBehavior) -> Self {
        Self { horizontal_pod_autoscaler_config: AutoscalerConfig { behavior } }
    }
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleTarget {
    /// Where its kind is.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One thing that is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// Who looks.
    #[serde(rename = "type")]
    pub type_: String,
    /// How its figure is shared between pods.
    pub metric_type: String,
    /// Its settings.
    pub metadata: BTreeMap<String, String>,
}

impl Trigger {
    fn new(type_: &str, metric_type: &str, settings: &[(&str, String)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Self { type_: type_.to_owned(), metric_type: metric_type.to_owned(), metadata: settings.collect() }
    }

    /// So much of what a query comes to for each pod.
    pub(crate) fn of_query(server: &str, query: String, average: i32) -> Self {
        let settings = [
            ("serverAddress", server.to_owned()),
            ("query", query),
            ("threshold", average.to_string()),
            // Where Prometheus has lost sight of the pods, their number stays: nothing is not zero.
            ("ignoreNullValues", false.to_string()),
        ];
        Self::new("prometheus", "AverageValue", &settings)
    }

    /// Such a share of the CPU that pods request.
    pub(crate) fn of_cpu(percent: i32) -> Self {
        Self::new("cpu", "Utilization", &[("value", percent.to_string())])
    }
}

/// What has a workload's Deployment scaled; while it `is_asleep`, to no pods.
pub(crate) fn of(
    workload: &Workload,
    bounds: RangeInclusive<i32>,
    trigger: Trigger,
    is_asleep: bool,
) -> ScaledObject {
    let mut metadata = workload.owner.metadata(&workload.name);
    if is_asleep {
        // It would call pods back, up to the fewest.
        metadata.annotations.get_or_insert_default().insert(PAUSED_REPLICAS.to_owned(), "0".to_owned());
    }
    let spec = ScaledObjectSpec {
        scale_target_ref: ScaleTarget {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: workload.name.clone(),
        },
        min_replica_count: *bounds.start(),
        max_replica_count: *bounds.end(),
        triggers: vec![trigger],
        advanced: None,
    };
    ScaledObject { metadata, spec }
}
