//! Work that ends: a Job, its configuration, and a volume that outlives it.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::manifest::Manifests;
use crate::pod::{self, DATA_VOLUME, DataVolume};
use crate::workload::{DATA_DIR, Workload};

/// A claim that a Job reads or writes, or a ConfigMap that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// What it is.
    pub source: Source,
    /// Name of the volume in the pod.
    pub volume: &'static str,
    /// Where the pod finds it.
    pub path: String,
    /// Whether it is only read.
    pub is_read_only: bool,
}

/// Where a volume comes from, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A claim.
    Claim(String),
    /// A ConfigMap.
    ConfigMap(String),
}

impl Mounted {
    /// What a Job makes, in a claim of its own.
    pub(crate) fn own(claim: String) -> Self {
        Self {
            source: Source::Claim(claim),
            volume: DATA_VOLUME,
            path: DATA_DIR.to_owned(),
            is_read_only: false,
        }
    }

    /// What another Job made.
    pub(crate) fn of_another(claim: String, volume: &'static str) -> Self {
        Self::input(Source::Claim(claim), volume)
    }

    /// What somebody wrote.
    pub(crate) fn config_map(name: String, volume: &'static str) -> Self {
        Self::input(Source::ConfigMap(name), volume)
    }

    fn input(source: Source, volume: &'static str) -> Self {
        Self { source, volume, path: format!("/var/lib/aistack-inputs/{volume}"), is_read_only: true }
    }

    /// The volume.
    pub(crate) fn volume(&self) -> Volume {
        let volume = Volume { name: self.volume.to_owned(), ..Volume::default() };
        match &self.source {
            Source::Claim(claim) => {
                let read_only = self.is_read_only.then_some(true);
                let source = PersistentVolumeClaimVolumeSource { claim_name: claim.clone(), read_only };
                Volume { persistent_volume_claim: Some(source), ..volume }
            }
            Source::ConfigMap(name) => {
                let source = ConfigMapVolumeSource { name: name.clone(), ..ConfigMapVolumeSource::default() };
                Volume { config_map: Some(source), ..volume }
            }
        }
    }

    /// Where a container has it.
    pub(crate) fn mount(&self) -> VolumeMount {
        VolumeMount {
            name: self.volume.to_owned(),
            mount_path: self.path.clone(),
            read_only: self.is_read_only.then_some(true),
            ..VolumeMount::default()
        }
    }
}

/// A claim for what a Job makes.
pub(crate) fn claim(workload: &Workload, name: &str, size: &str) -> PersistentVolumeClaim {
    let requests = BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))]);
    PersistentVolumeClaim {
        metadata: workload.owner.metadata(name),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// The Job of a workload, and the files that it reads.
pub(crate) fn build(workload: &Workload, mounted: &[Mounted]) -> Manifests {
    let mut manifests = Manifests::default();
    let data = workload.config.iter().map(|file| (file.name.clone(), file.text.clone())).collect();
    manifests.push(ConfigMap {
        metadata: workload.owner.metadata(workload.config_name()),
        data: Some(data),
        ..ConfigMap::default()
    });
    let mut template = pod::template(workload, DataVolume::None);
    if let Some(spec) = &mut template.spec {
        spec.restart_policy = Some("Never".to_owned());
        spec.volumes.get_or_insert_default().extend(mounted.iter().map(Mounted::volume));
        for container in &mut spec.containers {
            // What ends is judged by how it ends.
            (container.startup_probe, container.liveness_probe, container.readiness_probe) =
                (None, None, None);
            container.volume_mounts.get_or_insert_default().extend(mounted.iter().map(Mounted::mount));
        }
    }
    manifests.push(Job {
        metadata: workload.owner.metadata(&workload.name),
        spec: Some(JobSpec { backoff_limit: Some(3), template, ..JobSpec::default() }),
        ..Job::default()
    });
    manifests
}
