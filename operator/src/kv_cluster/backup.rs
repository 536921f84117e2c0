//! Backups of a KVCluster: a CronJob that takes them, one that tries the newest, and what founding members begin with.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaimVolumeSource, PodSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{COMPONENT, ValidatedKvCluster};
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

    /// The folder of one cluster in it: what keeps the newest few counts all that lie beside them.
    pub(super) fn of_cluster(self, namespace: &str, name: &str) -> Self {
        let (url, query) = match self.url.split_once('?') {
            Some((url, query)) => (url, format!("?{query}")),
            None => (self.url.as_str(), String::new()),
        };
        let url = format!("{}/{namespace}/{name}{query}", url.trim_end_matches('/'));
        Self { url, ..self }
    }

    /// Gives a pod what it needs to get there.
    fn open(&self, spec: &mut PodSpec, container: &mut Container, access: Access) {
        if let Some(secret) = &self.secret {
            container.env_from.get_or_insert_default().push(pod::all_of(secret));
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
                read_only: (access == Access::Read).then_some(true),
                ..VolumeMount::default()
            });
        }
    }
}

/// Seconds after which a backup or a drill has failed. One that hangs, on a claim or an image that is not there, would keep all later
/// ones from being begun.
const LONGEST: i64 = 60 * 60;

/// What a pod does where backups lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// When backups are taken and tried, and how many are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub cron: String,
    pub place: Place,
    pub keep: i32,
    /// When the newest is restored to see whether it can be.
    pub drill: Option<String>,
}

/// Name of the CronJob that takes backups.
pub(super) fn taker(kv: &ValidatedKvCluster) -> String {
    format!("{}-backup", kv.name)
}

/// Name of the CronJob that tries them.
pub(super) fn driller(kv: &ValidatedKvCluster) -> String {
    format!("{}-drill", kv.name)
}

/// Hours within which the next is done, of whatever is done at those times: twice what may lie between two. `None`: of certain months
/// only.
pub(super) fn due_within(cron: &str) -> Option<u64> {
    Some(2 * hours_between(cron)?)
}

/// The CronJobs of a schedule. `secret`: what members are known by.
pub(super) fn cron_jobs(
    kv: &ValidatedKvCluster,
    schedule: &Schedule,
    secret: Option<&String>,
) -> Vec<CronJob> {
    let drill =
        schedule.drill.as_ref().map(|cron| drilling(kv, schedule, cron).cron_job(kv, &schedule.place));
    [taking(kv, schedule, secret).cron_job(kv, &schedule.place)].into_iter().chain(drill).collect()
}

/// What is done with backups at its time.
struct Chore<'a> {
    name: String,
    cron: &'a str,
    args: Vec<String>,
    secrets: Vec<SecretFile>,
    access: Access,
    /// Bytes that it may put into its own folder; `None`: nobody asks.
    room: Option<u64>,
}

fn taking<'a>(kv: &ValidatedKvCluster, schedule: &'a Schedule, secret: Option<&String>) -> Chore<'a> {
    let mut args = ["backup", "--endpoints", &kv.endpoint(), "--keep"].map(str::to_owned).to_vec();
    args.push(schedule.keep.to_string());
    let mut secrets = Vec::new();
    if let Some(secret) = secret {
        let file = SecretFile { volume: "tls", secret: secret.clone(), key: "ca.crt".to_owned() };
        args.extend(["--cacert".to_owned(), file.path()]);
        secrets.push(file);
    }
    Chore { name: taker(kv), cron: &schedule.cron, args, secrets, access: Access::Write, room: None }
}

fn drilling<'a>(kv: &ValidatedKvCluster, schedule: &Schedule, cron: &'a str) -> Chore<'a> {
    let mut args = vec!["drill".to_owned()];
    if let Some(hours) = due_within(&schedule.cron) {
        // One that failed is told of as that; here, that none is taken any more.
        args.extend(["--max-age-hours".to_owned(), hours.to_string()]);
    }
    // The file, and what a member would have on its volume.
    let room = Some(kv.claim.size.bytes().saturating_mul(2));
    Chore { name: driller(kv), cron, args, secrets: Vec::new(), access: Access::Read, room }
}

impl Chore<'_> {
    fn cron_job(self, kv: &ValidatedKvCluster, place: &Place) -> CronJob {
        let owner = Owner { component: BACKUP.to_owned(), ..kv.owner.clone() };
        let mut workload = Workload::that_ends(self.name.clone(), owner.clone(), kv.image.clone(), COMPONENT);
        workload.args = self.args;
        workload.args.push(place.url.clone());
        workload.secrets = self.secrets;
        workload.overrides = kv.pod.clone();
        let mut template = pod::template(&workload, DataVolume::None);
        if let Some(spec) = &mut template.spec {
            spec.restart_policy = Some("Never".to_owned());
            if let Some(room) = self.room {
                pod::limit_scratch(spec, Quantity(room.to_string()));
            }
            let mut containers = std::mem::take(&mut spec.containers);
            for container in &mut containers {
                (container.startup_probe, container.liveness_probe, container.readiness_probe) =
                    (None, None, None);
                place.open(spec, container, self.access);
            }
            spec.containers = containers;
        }
        let job = JobSpec {
            backoff_limit: Some(2),
            active_deadline_seconds: Some(LONGEST),
            template,
            ..JobSpec::default()
        };
        CronJob {
            metadata: owner.metadata(&self.name),
            spec: CronJobSpec {
                schedule: self.cron.to_owned(),
                time_zone: Some("Etc/UTC".to_owned()),
                concurrency_policy: Some("Forbid".to_owned()),
                // Named, so that whoever suspends it does not leave a group without backups that says that it has them.
                suspend: Some(false),
                starting_deadline_seconds: Some(600),
                successful_jobs_history_limit: Some(1),
                failed_jobs_history_limit: Some(3),
                job_template: JobTemplateSpec { spec: Some(job), ..JobTemplateSpec::default() },
            },
            ..CronJob::default()
        }
    }
}

/// Hours that may lie between two times of a schedule, rounded up to what it is: hourly, daily, weekly, monthly. `None`: of certain
/// months only.
fn hours_between(cron: &str) -> Option<u64> {
    let fields: Vec<&str> = cron.split(' ').collect();
    let [_, hour, day, month, weekday] = fields.as_slice() else { return None };
    let is_any = |field: &str| matches!(field, "*" | "?");
    let every = || if is_any(hour) { Some(1) } else { hour.strip_prefix("*/")?.parse().ok() };
    is_any(month).then_some(match (is_any(day), is_any(weekday)) {
        (true, true) => every().unwrap_or(24),
        (true, false) => 7 * 24,
        // The 31st comes again after two months.
        (false, _) => 62 * 24,
    })
}

/// Label of pods that may fetch one: the chart's network policies let them out.
pub(super) const RESTORES: &str = "platform.dev/restores";

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
    place.open(spec, &mut first, Access::Write);
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

    #[test]
    fn each_cluster_has_a_folder_of_its_own() {
        let table = [
            ("s3://bucket/path", "s3://bucket/path/n/kv".to_owned()),
            ("s3://bucket/path/", "s3://bucket/path/n/kv".to_owned()),
            ("s3://bucket", "s3://bucket/n/kv".to_owned()),
            ("https://host/path?key=a/b", "https://host/path/n/kv?key=a/b".to_owned()),
            ("pvc://backups", format!("file://{FOLDER}/n/kv")),
        ];
        for (url, expected) in table {
            let place = Place::of(url, None).expect("a place").of_cluster("n", "kv");
            assert_eq!(place.url, expected, "{url}");
        }
    }

    #[test]
    fn how_old_the_newest_may_be_follows_from_the_schedule() {
        let table = [
            ("*/10 * * * *", Some(1)),
            ("0 */6 * * *", Some(6)),
            ("0 3 * * *", Some(24)),
            ("0 3,15 * * ?", Some(24)),
            ("0 3 * * 0", Some(7 * 24)),
            ("0 3 1,15 * *", Some(62 * 24)),
            ("0 3 */2 * 1", Some(62 * 24)),
            ("0 3 1 */3 *", None),
        ];
        for (cron, expected) in table {
            assert_eq!(hours_between(cron), expected, "{cron}");
        }
    }

    #[test]
    fn a_drill_reads_what_backups_wrote_and_has_room_for_one() {
        let text = r#"{"storage": "1.5Gi", "quota": "1Gi", "backup": {"schedule": "0 3 * * *", "destination": "pvc://shelf/kv",
            "secretName": "keys", "drill": {"schedule": "0 5 * * 0"}}}"#;
        let mut object = aistack_crds::KVCluster::new("kv", serde_json::from_str(text).expect("a spec"));
        object.metadata.namespace = Some("n".to_owned());
        let kv = super::super::validate(&object, "").expect("valid");
        let jobs = cron_jobs(&kv, kv.backup.as_ref().expect("a schedule"), None);
        let drill =
            jobs.iter().find(|job| job.metadata.name.as_deref() == Some("kv-drill")).expect("a drill");
        assert_eq!((jobs.len(), drill.spec.schedule.as_str()), (2, "0 5 * * 0"));
        let is_named = jobs.iter().all(|job| job.spec.suspend == Some(false));
        assert!(is_named, "one that somebody suspends is taken for drift, and goes on");
        let pod = drill.spec.job_template.spec.as_ref().and_then(|job| job.template.spec.as_ref());
        let pod = serde_json::to_value(pod).expect("plain data");
        let container = &pod["containers"][0];
        let place = format!("file://{FOLDER}/kv/n/kv");
        assert_eq!(container["args"], serde_json::json!(["drill", "--max-age-hours", "48", place]));
        assert_eq!(container["envFrom"][0]["secretRef"]["name"], "keys");
        let named = |list: &serde_json::Value, name: &str| {
            list.as_array().into_iter().flatten().find(|it| it["name"] == name).cloned().unwrap_or_default()
        };
        assert_eq!(named(&pod["volumes"], "tmp")["emptyDir"]["sizeLimit"], (3_u64 << 30).to_string());
        assert_eq!(named(&container["volumeMounts"], VOLUME)["readOnly"], true);
    }
}
