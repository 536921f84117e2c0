//! What `build` yields: Kubernetes objects in the order in which they are applied.

use aistack_crds::{InferenceService, KVCluster, VectorCollection};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PodSpec, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use crate::certificate::Certificate;
use crate::scaled_object::ScaledObject;

/// Annotation of a Secret whose named keys are filled with random text once, by whoever applies it.
pub const GENERATE_ANNOTATION: &str = "platform.dev/generate";
/// Label of a ConfigMap that holds a collection to be created on a VectorForge.
pub const COLLECTION_LABEL: &str = "platform.dev/collection";

/// One object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Manifest {
    /// Text that pods read.
    ConfigMap(Box<ConfigMap>),
    /// Text that pods read and nobody else should.
    Secret(Box<Secret>),
    /// A name in front of pods.
    Service(Box<Service>),
    /// What cert-manager is asked to have signed.
    Certificate(Box<Certificate>),
    /// Pods with a name and a volume each.
    StatefulSet(Box<StatefulSet>),
    /// Pods that are all alike.
    Deployment(Box<Deployment>),
    /// A pod on every node.
    DaemonSet(Box<DaemonSet>),
    /// How many pods may be away at a time.
    PodDisruptionBudget(Box<PodDisruptionBudget>),
    /// How many pods there are, by what they do.
    HorizontalPodAutoscaler(Box<HorizontalPodAutoscaler>),
    /// The same, by KEDA.
    ScaledObject(Box<ScaledObject>),
    /// Devices that each pod claims.
    ResourceClaimTemplate(Box<ResourceClaimTemplate>),
    /// Pods that end.
    Job(Box<Job>),
    /// Jobs at their times.
    CronJob(Box<CronJob>),
    /// A volume that outlives its pods.
    PersistentVolumeClaim(Box<PersistentVolumeClaim>),
    /// A child of an AIStack.
    KVCluster(Box<KVCluster>),
    /// A child of an AIStack.
    InferenceService(Box<InferenceService>),
    /// A child of an AIStack.
    VectorCollection(Box<VectorCollection>),
}

impl Manifest {
    /// Kind, as a manifest writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConfigMap(_) => "ConfigMap",
            Self::Secret(_) => "Secret",
            Self::Service(_) => "Service",
            Self::StatefulSet(_) => "StatefulSet",
            Self::Deployment(_) => "Deployment",
            Self::DaemonSet(_) => "DaemonSet",
            Self::PodDisruptionBudget(_) => "PodDisruptionBudget",
            Self::HorizontalPodAutoscaler(_) => "HorizontalPodAutoscaler",
            Self::ScaledObject(_) => "ScaledObject",
            Self::ResourceClaimTemplate(_) => "ResourceClaimTemplate",
            Self::Certificate(_) => "Certificate",
            Self::Job(_) => "Job",
            Self::CronJob(_) => "CronJob",
            Self::PersistentVolumeClaim(_) => "PersistentVolumeClaim",
            Self::KVCluster(_) => "KVCluster",
            Self::InferenceService(_) => "InferenceService",
            Self::VectorCollection(_) => "VectorCollection",
        }
    }

    /// Name, labels and annotations.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ConfigMap(object) => &object.metadata,
            Self::Secret(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::StatefulSet(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
            Self::DaemonSet(object) => &object.metadata,
            Self::PodDisruptionBudget(object) => &object.metadata,
            Self::HorizontalPodAutoscaler(object) => &object.metadata,
            Self::ScaledObject(object) => &object.metadata,
            Self::ResourceClaimTemplate(object) => &object.metadata,
            Self::Certificate(object) => &object.metadata,
            Self::Job(object) => &object.metadata,
            Self::CronJob(object) => &object.metadata,
            Self::PersistentVolumeClaim(object) => &object.metadata,
            Self::KVCluster(object) => &object.metadata,
            Self::InferenceService(object) => &object.metadata,
            Self::VectorCollection(object) => &object.metadata,
        }
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
}

macro_rules! from_object {
    ($($kind:ident),*) => { $(
        impl From<$kind> for Manifest {
            fn from(object: $kind) -> Self {
                Self::$kind(Box::new(object))
            }
        }
    )* };
}
from_object!(
    ConfigMap,
    Secret,
    Service,
    StatefulSet,
    Deployment,
    DaemonSet,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
    ScaledObject,
    ResourceClaimTemplate,
    Certificate,
    Job,
    CronJob,
    PersistentVolumeClaim,
    KVCluster,
    InferenceService,
    VectorCollection
);

impl<'a> IntoIterator for &'a Manifests {
    type Item = &'a Manifest;
    type IntoIter = std::slice::Iter<'a, Manifest>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Objects in the order in which they are applied: what is read first comes first, workloads after what they mount.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Manifests(pub Vec<Manifest>);

impl Manifests {
    /// Adds an object.
    pub fn push(&mut self, object: impl Into<Manifest>) {
        self.0.push(object.into());
    }

    /// Adds all objects of another build.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The objects.
    pub fn iter(&self) -> std::slice::Iter<'_, Manifest> {
        self.0.iter()
    }

    /// Secrets that are among them, or that one of them asks for.
    pub(crate) fn brings(&self) -> Vec<String> {
        let secret = |manifest: &Manifest| match manifest {
            Manifest::Secret(_) => Some(manifest.name().to_owned()),
            Manifest::Certificate(asked) => Some(asked.spec.secret_name.clone()),
            _ => None,
        };
        self.0.iter().filter_map(secret).collect()
    }

    /// The pods that they make.
    pub(crate) fn pods_mut(&mut self) -> impl Iterator<Item = &mut PodSpec> {
        self.0.iter_mut().filter_map(|manifest| match manifest {
            Manifest::StatefulSet(set) => set.spec.template.spec.as_mut(),
            Manifest::Deployment(deployment) => deployment.spec.template.spec.as_mut(),
            Manifest::DaemonSet(set) => set.spec.template.spec.as_mut(),
            Manifest::Job(job) => job.spec.as_mut()?.template.spec.as_mut(),
            Manifest::CronJob(job) => job.spec.job_template.spec.as_mut()?.template.spec.as_mut(),
            _ => None,
        })
    }

    /// YAML documents that `kubectl apply -f -` takes.
    pub fn to_yaml(&self) -> String {
        let documents: Vec<String> = self
            .0
            .iter()
            .map(|manifest| serde_yaml_ng::to_string(manifest).expect("Kubernetes objects are plain data"))
            .collect();
        format!("---\n{}", documents.join("---\n"))
    }
}
