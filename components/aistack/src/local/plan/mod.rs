//! From manifests to processes, without touching anything: which pods, which files, which ports, which order.

mod draft;
mod pod;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aistack_operator::manifest::{COLLECTION_LABEL, GENERATE_ANNOTATION};
use aistack_operator::{Manifest, Manifests};
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};

use self::draft::{allocate, drafts, names};
use self::pod::Context;
use super::programs::COMPONENTS;
use super::rewrite::{Rewriter, Target};

/// Where things lie on this machine.
#[derive(Clone, Debug)]
pub struct Folders {
    /// State of the stack.
    pub state: PathBuf,
    /// Model cache.
    pub models: PathBuf,
}

/// Everything that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalPlan {
    /// Name of the stack.
    pub stack: String,
    /// Pods in the order in which they start: each after those that it needs.
    pub pods: Vec<PodPlan>,
    /// Services with more than one pod behind them: port of the proxy and ports of the pods.
    pub proxies: Vec<ProxyPlan>,
    /// Collections to create once their server is ready.
    pub collections: Vec<CollectionPlan>,
    /// Secrets to fill with random text, once: file to create.
    pub generated: Vec<PathBuf>,
    /// Port of the front door; 0 when the stack has none.
    pub entry_port: u16,
}

impl LocalPlan {
    /// Makes every pod of ours write its spans to a file of its own in a folder.
    pub fn record_spans(&mut self, folder: &Path) {
        for pod in self.pods.iter_mut().filter(|pod| COMPONENTS.contains(&pod.program.as_str())) {
            let file = folder.join(format!("{}.jsonl", pod.name));
            let settings = [("OTLP_FILE", file.display().to_string()), ("INSTANCE", pod.name.clone())];
            for (setting, value) in settings {
                let name = format!("{}_SERVER__TELEMETRY__{setting}", pod.program.to_ascii_uppercase());
                pod.env.entry(name).or_insert(value);
            }
        }
    }
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodPlan {
    /// Its name.
    pub name: String,
    /// Kind and name of the object of ours that it belongs to, such as `KVCluster tinykv`.
    pub owner: String,
    /// Program to run.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment beside the inherited one.
    pub env: BTreeMap<String, String>,
    /// Files to write before each start.
    pub files: Vec<FilePlan>,
    /// Folders to create.
    pub folders: Vec<PathBuf>,
    /// Port names with container and loopback port.
    pub ports: Vec<PortPlan>,
    /// Asked until it answers once.
    pub startup: ProbePlan,
    /// Asked for as long as the pod runs; failing, the pod is restarted.
    pub liveness: ProbePlan,
    /// Asked for as long as the pod runs; failing, the pod is not Ready.
    pub readiness: ProbePlan,
    /// Time it gets after SIGTERM.
    pub grace: Duration,
    /// Pods that it talks to, which start first.
    pub needs: Vec<String>,
    /// What it serves, for people: a model's name, or empty.
    pub serves: String,
}

/// Folder, below the stack's state, of what would be PersistentVolumes.
pub const VOLUMES: &str = "volumes";

impl PodPlan {
    /// Those of its folders that outlive it.
    pub fn volumes(&self) -> impl Iterator<Item = &PathBuf> {
        self.folders.iter().filter(|folder| folder.parent().is_some_and(|parent| parent.ends_with(VOLUMES)))
    }

    /// Loopback port of a named port.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| port.name == name).map(|port| port.local)
    }
}

/// A file of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePlan {
    /// Where it is written.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlan {
    /// Its name.
    pub name: String,
    /// Number that the manifest gives.
    pub container: u16,
    /// Number on this machine.
    pub local: u16,
}

/// How a pod is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlan {
    /// Loopback port.
    pub port: u16,
    /// Path of an HTTP GET; empty asks for a TCP connection only.
    pub path: String,
    /// Time between two questions.
    pub period: Duration,
    /// Time to answer.
    pub timeout: Duration,
    /// Failures in a row that count.
    pub failures: u32,
}

/// A Service with several pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyPlan {
    /// Name of the Service.
    pub service: String,
    /// Loopback port that clients use.
    pub listen: u16,
    /// Pod name and loopback port of each pod behind it.
    pub backends: Vec<(String, u16)>,
}

/// A collection to create.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectionPlan {
    /// Name of the collection.
    pub name: String,
    /// REST address of its server.
    pub server: String,
    /// Body of the creation request.
    pub create: serde_json::Value,
    /// Bodies of the index requests.
    #[serde(default)]
    pub indexes: Vec<serde_json::Value>,
}

/// Why manifests cannot run as processes.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No loopback port could be had.
    #[error("no free port for {pod}: {source}")]
    Port {
        /// Pod that needs it.
        pod: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The port by which other members know a pod is taken.
    #[error(
        "port {port} is taken{by}, and the other members know {pod} by it\n  stop what has it, and start the stack again"
    )]
    MemberTaken {
        /// The pod.
        pod: String,
        /// The port.
        port: u16,
        /// ` by NAME (pid N)`, when that can be seen.
        by: String,
    },
    /// The front door's port is taken.
    #[error("port {port} is taken{by}")]
    EntryTaken {
        /// The port.
        port: u16,
        /// ` by NAME (pid N)`, when that can be seen.
        by: String,
    },
    /// A manifest uses something that only a cluster has.
    #[error("{object}: {what} works on a cluster only")]
    ClusterOnly {
        /// The object.
        object: String,
        /// What it uses.
        what: String,
    },
    /// A collection's request is broken.
    #[error("ConfigMap {name}: {source}")]
    Collection {
        /// Name of the ConfigMap.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// Which loopback port a container port may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The front door's: the number that people know.
    Entry,
    /// One that other members keep on disk: the same at every start.
    Lasting,
    /// Any.
    Any,
}

/// Hands out a loopback port for a pod's container port.
pub type GivePort<'a> = dyn FnMut(&str, u16, Wanted) -> Result<u16, PlanError> + 'a;

/// Plans the manifests of a stack. `give_port(pod, container port, which)` hands out loopback ports.
pub fn plan(
    stack: &str,
    manifests: &Manifests,
    folders: &Folders,
    give_port: &mut GivePort<'_>,
) -> Result<LocalPlan, PlanError> {
    let drafts = drafts(manifests);
    let services: Vec<&Service> = manifests
        .iter()
        .filter_map(|manifest| match manifest {
            Manifest::Service(service) => Some(service.as_ref()),
            _ => None,
        })
        .collect();
    let ports = allocate(&drafts, &services, give_port)?;
    let mut proxies = Vec::new();
    let (names, entry_port) = names(&drafts, &services, &ports, &mut proxies, give_port)?;
    let context = Context { manifests, folders, names: &names, ports: &ports };
    let mut pods = drafts.iter().map(|draft| context.pod(draft)).collect::<Result<Vec<_>, _>>()?;
    for (pod, draft) in pods.iter_mut().zip(&drafts) {
        // Members name one another and start together: none is ready before most are there.
        pod.needs.retain(|need| !drafts.iter().any(|other| other.name == *need && other.is_sibling(draft)));
    }
    Ok(LocalPlan {
        stack: stack.to_owned(),
        pods: in_order(pods),
        proxies,
        collections: collections(manifests, &names)?,
        generated: generated(manifests, folders),
        entry_port,
    })
}

fn collections(
    manifests: &Manifests,
    names: &BTreeMap<String, Target>,
) -> Result<Vec<CollectionPlan>, PlanError> {
    let rewriter = Rewriter { names: names.clone(), ..Rewriter::default() };
    let mut collections = Vec::new();
    for manifest in manifests {
        let Manifest::ConfigMap(map) = manifest else { continue };
        let labelled =
            manifest.metadata().labels.as_ref().is_some_and(|labels| labels.contains_key(COLLECTION_LABEL));
        for text in map.data.iter().flat_map(BTreeMap::values).filter(|_| labelled) {
            let mut collection: CollectionPlan = serde_json::from_str(text)
                .map_err(|source| PlanError::Collection { name: manifest.name().to_owned(), source })?;
            collection.server = rewriter.text(&collection.server).0;
            collections.push(collection);
        }
    }
    Ok(collections)
}

fn generated(manifests: &Manifests, folders: &Folders) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for manifest in manifests.iter().filter(|manifest| manifest.kind() == "Secret") {
        let keys = manifest
            .metadata()
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(GENERATE_ANNOTATION));
        for key in keys.iter().flat_map(|keys| keys.split(',')) {
            files.push(secret_file(&folders.state, manifest.name(), key.trim()));
        }
    }
    files
}

/// Where a Secret's key lies on this machine.
pub fn secret_file(state: &Path, secret: &str, key: &str) -> PathBuf {
    state.join("secrets").join(secret).join(key)
}

/// Each pod after those that it needs; pods that need one another start together.
fn in_order(mut pods: Vec<PodPlan>) -> Vec<PodPlan> {
    let mut ordered: Vec<PodPlan> = Vec::new();
    while !pods.is_empty() {
        let ready = pods.iter().position(|pod| {
            pod.needs.iter().all(|need| {
                ordered.iter().any(|done| done.name == *need) || !pods.iter().any(|other| other.name == *need)
            })
        });
        if let Some(index) = ready {
            ordered.push(pods.remove(index));
        } else {
            // A circle: waiting would last for ever, so the first one does not wait for those behind it.
            let mut pod = pods.remove(0);
            pod.needs.retain(|need| ordered.iter().any(|done| done.name == *need));
            ordered.push(pod);
        }
    }
    ordered
}
