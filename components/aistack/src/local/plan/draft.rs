//! Pods before they are planned, and what every name leads to once their ports are given.

use std::collections::{BTreeMap, BTreeSet};

use aistack_operator::workload::{ENTRY_ANNOTATION, MEMBERS_PORT};
use aistack_operator::{Manifest, Manifests};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{GivePort, PlanError, ProxyPlan, Wanted};
use crate::local::rewrite::Target;

/// A pod before its ports are known.
pub(super) struct Draft<'a> {
    pub(super) name: String,
    pub(super) workload: &'a str,
    pub(super) ordinal: usize,
    stateful: bool,
    pub(super) owner: String,
    pub(super) template: &'a PodTemplateSpec,
    pub(super) claims: Vec<String>,
}

impl<'a> Draft<'a> {
    pub(super) fn container(&self) -> Result<&'a Container, PlanError> {
        let spec = self.template.spec.as_ref();
        spec.and_then(|spec| spec.containers.first())
            .ok_or_else(|| self.cluster_only("a pod without containers"))
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels =
            self.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        if self.stateful {
            labels.insert("apps.kubernetes.io/pod-index".to_owned(), self.ordinal.to_string());
        }
        labels
    }

    /// Whether both are pods of one StatefulSet or Deployment. Ours start their pods side by side.
    pub(super) fn is_sibling(&self, other: &Self) -> bool {
        self.workload == other.workload && self.stateful == other.stateful && self.ordinal != other.ordinal
    }

    pub(super) fn cluster_only(&self, what: &str) -> PlanError {
        PlanError::ClusterOnly { object: self.name.clone(), what: what.to_owned() }
    }
}

pub(super) fn drafts(manifests: &Manifests) -> Vec<Draft<'_>> {
    let mut drafts = Vec::new();
    for manifest in manifests {
        let (template, replicas, claims, stateful) = match manifest {
            Manifest::StatefulSet(set) => {
                let spec = &set.spec;
                let claims = spec
                    .volume_claim_templates
                    .iter()
                    .flatten()
                    .filter_map(|claim| claim.metadata.name.clone());
                (&spec.template, spec.replicas.unwrap_or(1), claims.collect(), true)
            }
            Manifest::Deployment(deployment) => {
                let spec = &deployment.spec;
                (&spec.template, spec.replicas.unwrap_or(1), Vec::new(), false)
            }
            _ => continue,
        };
        for ordinal in 0..usize::try_from(replicas).unwrap_or(0) {
            // A Deployment's pods have random names on a cluster; here a lone one has its Deployment's.
            let name = if !stateful && replicas == 1 {
                manifest.name().to_owned()
            } else {
                format!("{}-{ordinal}", manifest.name())
            };
            let owner = owner(manifest, template);
            drafts.push(Draft {
                name,
                workload: manifest.name(),
                ordinal,
                stateful,
                owner,
                template,
                claims: Vec::clone(&claims),
            });
        }
    }
    drafts
}

/// The object of ours that a pod belongs to, as `kubectl get` would call it.
fn owner(manifest: &Manifest, template: &PodTemplateSpec) -> String {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let label = |key: &str| labels.get(&format!("app.kubernetes.io/{key}")).cloned().unwrap_or_default();
    let kind = match label("name").as_str() {
        "tinykv" => "KVCluster",
        "vectorforge" => "VectorForge",
        "tinyinfer" | "vllm" => "InferenceService",
        "modelhub" => "ModelHub",
        _ => manifest.kind(),
    };
    format!("{kind} {}", label("instance"))
}

/// Loopback port of each pod's container port.
pub(super) type PortBook = BTreeMap<(String, u16), u16>;

pub(super) fn allocate(
    drafts: &[Draft<'_>],
    services: &[&Service],
    give: &mut GivePort<'_>,
) -> Result<PortBook, PlanError> {
    let mut book = PortBook::new();
    // The front door first: no other pod may take its port. With several pods behind it, it is the proxy's.
    for service in services {
        let pods = drafts.iter().filter(|draft| selects(service, draft)).count();
        if let (Some(number), true) = (entry_number(service), pods > 1) {
            let name = service_key(service);
            let local = give(&name, number, Wanted::Entry)?;
            book.insert((name, number), local);
        }
    }
    for entry_pass in [true, false] {
        for draft in drafts {
            let entry = entry_port_name(draft, drafts, services);
            let has_siblings = drafts.iter().any(|other| other.is_sibling(draft));
            for port in draft.container()?.ports.iter().flatten() {
                let number = u16::try_from(port.container_port).unwrap_or_default();
                let is_entry =
                    draft.ordinal == 0 && entry.is_some() && port.name.as_deref() == entry.as_deref();
                if is_entry != entry_pass {
                    continue;
                }
                let wanted = match port.name.as_deref() {
                    _ if is_entry => Wanted::Entry,
                    Some(MEMBERS_PORT) if has_siblings => Wanted::Lasting,
                    _ => Wanted::Any,
                };
                book.insert((draft.name.clone(), number), give(&draft.name, number, wanted)?);
            }
        }
    }
    Ok(book)
}

/// Key of a Service's own port in the book; no pod has a name with a slash.
fn service_key(service: &Service) -> String {
    format!("service/{}", service.metadata.name.as_deref().unwrap_or_default())
}

/// The port of a Service that people open.
fn entry_number(service: &Service) -> Option<u16> {
    let wanted = service.metadata.annotations.as_ref()?.get(ENTRY_ANNOTATION)?;
    let port =
        service.spec.as_ref()?.ports.iter().flatten().find(|port| port.name.as_ref() == Some(wanted))?;
    u16::try_from(port.port).ok()
}

fn entry_port_name(draft: &Draft<'_>, drafts: &[Draft<'_>], services: &[&Service]) -> Option<String> {
    services
        .iter()
        .filter(|service| selects(service, draft))
        .filter(|service| drafts.iter().filter(|other| selects(service, other)).count() == 1)
        .find_map(|service| service.metadata.annotations.as_ref()?.get(ENTRY_ANNOTATION).cloned())
}

fn selects(service: &Service, draft: &Draft<'_>) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let labels = draft.labels();
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// What every Service and pod name leads to, under each of the names that DNS gives it.
pub(super) fn names(
    drafts: &[Draft<'_>],
    services: &[&Service],
    book: &PortBook,
    proxies: &mut Vec<ProxyPlan>,
    give: &mut GivePort<'_>,
) -> Result<(BTreeMap<String, Target>, u16), PlanError> {
    let mut names = BTreeMap::new();
    let mut entry_port = 0;
    for service in services {
        let name = service.metadata.name.clone().unwrap_or_default();
        let namespace = service.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let pods: Vec<&Draft<'_>> = drafts.iter().filter(|draft| selects(service, draft)).collect();
        let headless = service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"));
        let mut target =
            Target { ports: BTreeMap::new(), pods: pods.iter().map(|pod| pod.name.clone()).collect() };
        for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
            let number = u16::try_from(port.port).unwrap_or_default();
            let backends: Vec<(String, u16)> = pods
                .iter()
                .filter_map(|pod| {
                    Some((
                        pod.name.clone(),
                        *book.get(&(pod.name.clone(), container_port(pod, port.target_port.as_ref())?))?,
                    ))
                })
                .collect();
            let local = match backends.as_slice() {
                [] => continue,
                [(_, only)] => *only,
                [(_, first), ..] if headless => *first,
                _ => {
                    let kept = book.get(&(service_key(service), number)).copied();
                    let listen = kept.map_or_else(|| give(&name, number, Wanted::Any), Ok)?;
                    proxies.push(ProxyPlan { service: name.clone(), listen, backends });
                    listen
                }
            };
            target.ports.insert(number, local);
            let annotations = service.metadata.annotations.as_ref();
            if annotations.and_then(|annotations| annotations.get(ENTRY_ANNOTATION)) == port.name.as_ref()
                && port.name.is_some()
            {
                entry_port = local;
            }
        }
        if headless {
            for pod in &pods {
                let ports = book
                    .iter()
                    .filter(|((owner, _), _)| *owner == pod.name)
                    .map(|((_, port), local)| (*port, *local));
                let target = Target { ports: ports.collect(), pods: BTreeSet::from([pod.name.clone()]) };
                insert_names(&mut names, &format!("{}.{name}", pod.name), &namespace, &target);
            }
        }
        insert_names(&mut names, &name, &namespace, &target);
    }
    Ok((names, entry_port))
}

fn insert_names(names: &mut BTreeMap<String, Target>, name: &str, namespace: &str, target: &Target) {
    for full in [
        name.to_owned(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster.local"),
    ] {
        names.insert(full, target.clone());
    }
}

fn container_port(draft: &Draft<'_>, target: Option<&IntOrString>) -> Option<u16> {
    match target? {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let container = draft.container().ok()?;
            let port = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name))?;
            u16::try_from(port.container_port).ok()
        }
    }
}
