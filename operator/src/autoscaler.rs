//! An autoscaler in front of a workload, whose number of pods nobody else writes then.

use std::ops::RangeInclusive;

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget, PodsMetricSource,
    ResourceMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::workload::Workload;

/// So much of a metric for each pod.
pub(crate) fn of_pods(metric: &str, average: i32) -> MetricSpec {
    MetricSpec {
        type_: "Pods".to_owned(),
        pods: Some(PodsMetricSource {
            metric: MetricIdentifier { name: metric.to_owned(), selector: None },
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(Quantity(average.to_string())),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// Such a share of the CPU that pods request.
pub(crate) fn of_cpu(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// However little there is to do, the pods that are there stay.
pub(crate) fn never_fewer() -> HorizontalPodAutoscalerBehavior {
    let disabled =
        HPAScalingRules { select_policy: Some("Disabled".to_owned()), ..HPAScalingRules::default() };
    HorizontalPodAutoscalerBehavior { scale_down: Some(disabled), scale_up: None }
}

/// The autoscaler of a workload that is a Deployment or a StatefulSet.
pub(crate) fn of(
    workload: &Workload,
    kind: &str,
    bounds: RangeInclusive<i32>,
    metric: MetricSpec,
) -> HorizontalPodAutoscaler {
    HorizontalPodAutoscaler {
        metadata: workload.owner.metadata(&workload.name),
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: kind.to_owned(),
                name: workload.name.clone(),
            },
            min_replicas: Some(*bounds.start()),
            max_replicas: *bounds.end(),
            metrics: Some(vec![metric]),
            ..HorizontalPodAutoscalerSpec::default()
        },
        status: None,
    }
}
