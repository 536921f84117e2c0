//! One pod: its files, environment, ports and probes, with everything local filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use aistack_api::tinyinfer::TinyinferConfig;
use aistack_operator::workload::{ADMIN_PORT, MODELS_VOLUME};
use aistack_operator::{Manifest, Manifests};
use k8s_openapi::api::core::v1::{Container, EnvVar, Probe, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::draft::{Draft, PortBook};
use super::{FilePlan, Folders, PlanError, PodPlan, PortPlan, ProbePlan, VOLUMES};
use crate::local::rewrite::{Rewriter, Target};

pub(super) struct Context<'a> {
    pub(super) manifests: &'a Manifests,
    pub(super) folders: &'a Folders,
    pub(super) names: &'a BTreeMap<String, Target>,
    pub(super) ports: &'a PortBook,
}

impl Context<'_> {
    pub(super) fn pod(&self, draft: &Draft<'_>) -> Result<PodPlan, PlanError> {
        let container = draft.container()?;
        let mut folders = Vec::new();
        let mounts = self.mounts(draft, container, &mut folders)?;
        let ports = self.pod_ports(draft, container);
        let rewriter = Rewriter {
            names: self.names.clone(),
            own_ports: ports.iter().map(|port| (port.container, port.local)).collect(),
            mounts: mounts.iter().map(|mount| (mount.path.clone(), mount.local.clone())).collect(),
        };
        let mut needs = BTreeSet::new();
        let mut rewrite = |text: &str| {
            let (text, mut found) = rewriter.text(text);
            needs.append(&mut found);
            text
        };
        let mut command = container.command.iter().flatten().chain(container.args.iter().flatten());
        let program = match (&container.command, command.next()) {
            (Some(_), Some(program)) => program.clone(),
            _ => {
                return Err(draft
                    .cluster_only(&format!("the image {}", container.image.as_deref().unwrap_or_default())));
            }
        };
        let args = command.map(|arg| rewrite(arg)).collect();
        let mut env = BTreeMap::new();
        let sources = container.env_from.iter().flatten().filter_map(|source| source.config_map_ref.as_ref());
        for (name, value) in sources.flat_map(|source| self.config_map(&source.name)) {
            env.insert(name, rewrite(&value));
        }
        for variable in container.env.iter().flatten() {
            // Values may name variables before them; names of Services are known once these stand there.
            let value = expanded(&env_value(draft, variable)?, &env);
            env.insert(variable.name.clone(), rewrite(&value));
        }
        let mut files = Vec::new();
        for mount in &mounts {
            for (name, text) in self.config_files(mount) {
                let (text, mut found) = rewriter.document(&text);
                needs.append(&mut found);
                files.push(FilePlan { path: mount.local.join(name), text });
            }
        }
        needs.remove(&draft.name);
        let grace =
            draft.template.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let probe = |probe: Option<&Probe>| probe_plan(draft, probe, &ports);
        Ok(PodPlan {
            name: draft.name.clone(),
            owner: draft.owner.clone(),
            startup: probe(container.startup_probe.as_ref())?,
            liveness: probe(container.liveness_probe.as_ref())?,
            readiness: probe(container.readiness_probe.as_ref())?,
            serves: served_model(&files),
            program,
            args,
            env,
            files,
            folders,
            ports,
            grace: Duration::from_secs(u64::try_from(grace).unwrap_or(30)),
            needs: needs.into_iter().collect(),
        })
    }

    fn pod_ports(&self, draft: &Draft<'_>, container: &Container) -> Vec<PortPlan> {
        container
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let number = u16::try_from(port.container_port).ok()?;
                let local = *self.ports.get(&(draft.name.clone(), number))?;
                Some(PortPlan { name: port.name.clone().unwrap_or_default(), container: number, local })
            })
            .collect()
    }

    fn mounts(
        &self,
        draft: &Draft<'_>,
        container: &Container,
        folders: &mut Vec<PathBuf>,
    ) -> Result<Vec<Mount>, PlanError> {
        let volumes = draft.template.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
        let pod_folder = self.folders.state.join("pods").join(&draft.name);
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes.iter().find(|volume| volume.name == mount.name);
            let (local, config_map) = match volume {
                _ if draft.claims.contains(&mount.name) => {
                    // Named as the PersistentVolumeClaim would be, so that it outlives the pod.
                    (
                        self.folders
                            .state
                            .join(VOLUMES)
                            .join(format!("{}-{}-{}", mount.name, draft.workload, draft.ordinal)),
                        None,
                    )
                }
                Some(Volume { config_map: Some(source), .. }) => {
                    (pod_folder.join(&mount.name), Some(source.name.clone()))
                }
                Some(Volume { secret: Some(source), .. }) => {
                    let name = source.secret_name.clone().unwrap_or_default();
                    (self.folders.state.join("secrets").join(name), None)
                }
                Some(volume) if volume.name == MODELS_VOLUME => (self.folders.models.clone(), None),
                Some(Volume { empty_dir: Some(_), .. }) => (pod_folder.join(&mount.name), None),
                _ => return Err(draft.cluster_only(&format!("the volume {}", mount.name))),
            };
            folders.push(local.clone());
            mounts.push(Mount { path: mount.mount_path.clone(), local, config_map });
        }
        Ok(mounts)
    }

    fn config_files(&self, mount: &Mount) -> Vec<(String, String)> {
        mount.config_map.iter().flat_map(|wanted| self.config_map(wanted)).collect()
    }

    fn config_map(&self, wanted: &str) -> Vec<(String, String)> {
        self.manifests
            .iter()
            .filter_map(|manifest| match manifest {
                Manifest::ConfigMap(map) if manifest.name() == wanted => map.data.clone(),
                _ => None,
            })
            .flatten()
            .collect()
    }
}

struct Mount {
    path: String,
    local: PathBuf,
    config_map: Option<String>,
}

fn env_value(draft: &Draft<'_>, variable: &EnvVar) -> Result<String, PlanError> {
    if let Some(value) = &variable.value {
        return Ok(value.clone());
    }
    let field = variable
        .value_from
        .as_ref()
        .and_then(|from| from.field_ref.as_ref())
        .map(|field| field.field_path.as_str());
    match field {
        Some("metadata.name") => Ok(draft.name.clone()),
        Some("status.podIP" | "status.hostIP") => Ok("127.0.0.1".to_owned()),
        _ => Err(draft.cluster_only(&format!("the source of the environment variable {}", variable.name))),
    }
}

/// Fills in `$(NAME)` as the kubelet does: `$$` stands for `$`, and what names no variable stays as it is.
fn expanded(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let named = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((value, after)) = named.and_then(|(name, after)| Some((env.get(name)?, after))) {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn probe_plan(draft: &Draft<'_>, probe: Option<&Probe>, ports: &[PortPlan]) -> Result<ProbePlan, PlanError> {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
    };
    let local = |port: &IntOrString| {
        ports.iter().find(|plan| match port {
            IntOrString::Int(number) => i32::from(plan.container) == *number,
            IntOrString::String(name) => plan.name == *name,
        })
    };
    let admin = IntOrString::String(ADMIN_PORT.to_owned());
    let (port, path) = match probe {
        Some(Probe { http_get: Some(get), .. }) => {
            (&get.port, get.path.clone().unwrap_or_else(|| "/".to_owned()))
        }
        Some(Probe { tcp_socket: Some(socket), .. }) => (&socket.port, String::new()),
        Some(_) => return Err(draft.cluster_only("an exec or gRPC probe")),
        // Without a probe a pod is ready as soon as its port answers.
        None => (&admin, String::new()),
    };
    let port = local(port).or(ports.first()).map(|plan| plan.local);
    Ok(ProbePlan {
        port: port.ok_or_else(|| draft.cluster_only("a pod without ports"))?,
        path,
        period: seconds(probe.and_then(|probe| probe.period_seconds), 10),
        timeout: seconds(probe.and_then(|probe| probe.timeout_seconds), 1),
        failures: probe
            .and_then(|probe| probe.failure_threshold)
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(3),
    })
}

/// The model that a pod's config names, for the table that people look at.
fn served_model(files: &[FilePlan]) -> String {
    files
        .iter()
        .filter(|file| file.path.file_name().is_some_and(|name| name == "tinyinfer.yaml"))
        .find_map(|file| serde_yaml_ng::from_str::<TinyinferConfig>(&file.text).ok())
        .map(|config| config.model)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of Kubernetes' own documentation of dependent environment variables, and the ends of a text.
    #[test]
    fn variables_name_those_before_them() {
        let env = BTreeMap::from([("POD".to_owned(), "tinykv-1".to_owned())]);
        let table = [
            ("http://$(POD).members:2379", "http://tinykv-1.members:2379"),
            ("$$(POD) $(NONE) $POD", "$(POD) $(NONE) $POD"),
            ("$(POD)$(POD)", "tinykv-1tinykv-1"),
            ("5$", "5$"),
            ("$(POD", "$(POD"),
            ("", ""),
        ];
        for (text, wanted) in table {
            assert_eq!(expanded(text, &env), wanted, "{text}");
        }
    }
}
