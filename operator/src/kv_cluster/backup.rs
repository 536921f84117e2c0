//! Backups of a KVCluster: a CronJob that takes them, and what founding members begin with.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, PersistentVolumeClaimVolumeSource, PodSpec, SecretEnvSource, Volume,
    VolumeMount,
};

use super::{COMPONENT, Tls, ValidatedKvCluster};
use crate::meta::Owner;
use crate::pod::{self, DataVolume};
use crate::workload::{ConfigFile, SecretFile, Workload};

/// What a backup's pods are called in labels: they are no members.
const BACKUP: &str = "tinykv-backup";
/// Where a volume for backups is found.
const FOLDER: &str = "/var/lib/aistack-backups";
/// Name of that volume in pods.
const VOLUME: &str = "backups";
/// Scheme of a claim that is there.
const CLAIM: &str = "pvc://";

/// Where backups lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    url: String,
    claim: Option<String>,
    secret: Option<String>,
}

impl Place {
    /// Of a URL that the schema took; `None`: it names no claim.
    pub(super) fn of(url: &str, secret: Option<&String>) -> Option<Self> {
        let secret = secret.cloned();
        let Some(rest) = url.strip_prefix(CLAIM) else {
            return Some(Self { url: url.to_owned(), claim: None, secret });
        };
        let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
        let url = format!("file://{FOLDER}/{path}");
        let is_inside = !path.split('/').any(|part| part == "..");
        (!claim.is_empty() && is_inside).then(|| Self { url, claim: Some(claim.to_owned()), secret })
    }

    /// Gives a pod what it needs to get there.
    fn open(&self, spec: &mut PodSpec, container: &mut Container) {
        if let Some(secret) = &self.secret {
            let source = SecretEnvSource { name: secret.clone(), optional: None };
            let source = EnvFromSource { secret_ref: Some(source), ..EnvFromSource::default() };
            container.env_from.get_or_insert_default().push(source);
        }
        if let Some(claim) = &self.claim {
            spec.volumes.get_or_insert_default().push(Volume {
                name: VOLUME.to_owned(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    read_only: None,
                }),
                ..Volume::default()
            });
            container.volume_mounts.get_or_insert_default().push(VolumeMount {
                name: VOLUME.to_owned(),
                mount_path: FOLDER.to_owned(),
                ..VolumeMount::default()
            });
        }
    }
}

/// When backups are taken, and how many are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub cron: String,
    pub place: Place,
    pub keep: i32,
}

/// The CronJob of a schedule.
pub(super) fn cron_job(kv: &ValidatedKvCluster, schedule: &Schedule) -> CronJob {
    let owner = Owner { component: BACKUP.to_owned(), ..kv.owner.clone() };
    let name = format!("{}-backup", kv.name);
    let mut workload = Workload::that_ends(name.clone(), owner.clone(), kv.image.clone(), COMPONENT);
    workload.args = vec![
        "backup".to_owned(),
        "--endpoints".to_owned(),
        kv.endpoint(),
        "--keep".to_owned(),
        schedule.keep.to_string(),
    ];
    if let Tls::Secret(secret) = &kv.tls {
        let file = SecretFile { volume: "tls", secret: secret.clone(), key: "ca.crt".to_owned() };
        workload.args.extend(["--cacert".to_owned(), file.path()]);
        workload.secrets.push(file);
    }
    workload.args.push(schedule.place.url.clone());
    workload.overrides = kv.pod.clone();
    let mut template = pod::template(&workload, DataVolume::None);
    if let Some(spec) = &mut template.spec {
        spec.restart_policy = Some("Never".to_owned());
        let mut containers = std::mem::take(&mut spec.containers);
        for container in &mut containers {
            (container.startup_probe, container.liveness_probe, container.readiness_probe) =
                (None, None, None);
            schedule.place.open(spec, container);
        }
        spec.containers = containers;
    }
    let job = JobSpec { backoff_limit: Some(2), template, ..JobSpec::default() };
    CronJob {
        metadata: owner.metadata(&name),
        spec: CronJobSpec {
            schedule: schedule.cron.clone(),
            time_zone: Some("Etc/UTC".to_owned()),
            concurrency_policy: Some("Forbid".to_owned()),
            starting_deadline_seconds: Some(600),
            successful_jobs_history_limit: Some(1),
            failed_jobs_history_limit: Some(3),
            job_template: JobTemplateSpec { spec: Some(job), ..JobTemplateSpec::default() },
            ..CronJobSpec::default()
        },
        ..CronJob::default()
    }
}

/// Has members that found a cluster begin with a backup. Those that have data, or join, pass it by.
pub(super) fn begin_with(place: &Place, config: &ConfigFile, spec: &mut PodSpec) {
    let Some(member) = spec.containers.first() else { return };
    let mut first = Container {
        name: "restore".to_owned(),
        args: Some(vec![
            "--config".to_owned(),
            config.path(),
            "restore".to_owned(),
            place.url.clone(),
            "--when-new".to_owned(),
        ]),
        ports: None,
        startup_probe: None,
        liveness_probe: None,
        readiness_probe: None,
        ..member.clone()
    };
    place.open(spec, &mut first);
    spec.init_containers = Some(vec![first]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let read = |url: &str| Place::of(url, None).map(|place| (place.url, place.claim));
        let claim = |path: &str| Some((format!("file://{FOLDER}/{path}"), Some("backups".to_owned())));
        assert_eq!(read("s3://bucket/path"), Some(("s3://bucket/path".to_owned(), None)));
        assert_eq!(read("pvc://backups/kv/a.db"), claim("kv/a.db"));
        assert_eq!(read("pvc://backups"), claim(""));
        assert_eq!(read("pvc:///path"), None);
        assert_eq!(read("pvc://backups/../x"), None);
    }
}
