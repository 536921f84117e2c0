//! Nodes without machines: pods that the scheduler gives to them come up after a while, and go when they are told to.
//!
//! They do for objects what a kubelet and a provisioner of volumes do: heartbeats, pods' statuses, bound and grown claims. Most pods
//! are hollow: nothing runs, and they are ready. Those whose program is named in [`Programs`] run it, as a process in a mount namespace
//! with the pod's own files, volumes, host names and loopback address ([`container`]), except in namespaces where [`Hollow::stand_in`] has
//! something cheaper answer for them ([`member`]). What processes print, the API server may ask for ([`logs`]).

mod cell;
mod claims;
mod container;
mod logs;
mod member;
mod node;
mod pods;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use tempfile::TempDir;
use tokio::task::JoinSet;

pub use pods::Live;
use pods::Pods;

/// What a hollow node is.
#[derive(Clone, Debug)]
pub struct HollowNode {
    /// Its name.
    pub name: String,
    /// Cores.
    pub cpu: u32,
    /// Memory in GiB.
    pub memory_gib: u32,
    /// GPUs, and the product that GPU feature discovery would label the node with.
    pub gpus: Option<(u32, String)>,
    /// From scheduled to ready, of a pod that runs nothing.
    pub start: Duration,
    /// From told to go to gone, of the same.
    pub stop: Duration,
}

impl HollowNode {
    /// A large node without GPUs whose pods come up at once.
    pub fn new(name: &str) -> Self {
        let at_once = Duration::ZERO;
        Self { name: name.to_owned(), cpu: 1000, memory_gib: 4000, gpus: None, start: at_once, stop: at_once }
    }
}

/// Programs that run for real, by the name that a container's command begins with.
pub type Programs = BTreeMap<String, PathBuf>;

/// Hollow nodes that live until they are dropped.
pub struct Hollow {
    tasks: JoinSet<()>,
    pods: Arc<Pods>,
    folder: TempDir,
}

impl Hollow {
    /// Brings nodes up, with a default StorageClass.
    pub async fn start(client: Client, nodes: Vec<HollowNode>, programs: Programs) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hollow-").tempdir()?;
        std::fs::create_dir_all(folder.path().join("hosts"))?;
        claims::storage_class(&client).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(claims::follow(client.clone(), folder.path().join("volumes")));
        let (door, port) = logs::Door::open().await?;
        for node in &nodes {
            node::register(&client, node, port).await?;
            tasks.spawn(node::beat(client.clone(), node.name.clone()));
        }
        let pods = Arc::new(Pods::new(client, nodes, programs, folder.path()));
        tasks.spawn(door.serve(pods.clone()));
        tasks.spawn(pods.clone().follow());
        Ok(Self { tasks, pods, folder })
    }

    /// Where the files of its pods lie.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The pods of a namespace that run a process.
    pub fn live(&self, namespace: &str) -> Vec<Live> {
        self.pods.live(namespace)
    }

    /// In this namespace no pod runs a process: members of KVClusters are stood in for.
    pub fn stand_in(&self, namespace: &str) {
        self.pods.stand_in(namespace);
    }

    /// Takes all of them away, as a power cut does.
    pub fn stop(mut self) {
        self.tasks.abort_all();
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.pods.kill_all();
    }
}

/// The programs of this build, if this machine lets processes have file systems of their own; else why not.
pub fn programs() -> Result<Programs, String> {
    let allowed = Command::new("unshare").args(["--mount", "true"]).output();
    if !allowed.is_ok_and(|done| done.status.success()) {
        return Err("only root may give processes file systems of their own here".to_owned());
    }
    let found = beside("tinykv").map_err(|error| format!("{error:#}"))?;
    Ok(Programs::from([("tinykv".to_owned(), found)]))
}

/// A binary of this workspace, which the build put beside the tests.
fn beside(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).unwrap_or(Path::new("."));
    let found = [folder.join(name), folder.join("release").join(name)].into_iter().find(|path| path.exists());
    let found = found.with_context(|| format!("{name} is not built: cargo build --release --bins"))?;
    ensure!(found.is_file(), "{} is no program", found.display());
    Ok(found)
}
