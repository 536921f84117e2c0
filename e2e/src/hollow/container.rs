//! A pod's container as a process: its command, environment, files and volumes, and its readiness probe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Container, PersistentVolumeClaim, Pod, Probe, Secret, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;

use super::cell::Cell;
use super::claims;

/// Where a pod's files lie on this machine.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Folder of the pod alone.
    pub pod: PathBuf,
    /// Folders of all volumes.
    pub volumes: PathBuf,
    /// Folder of host names, a file for each namespace.
    pub hosts: PathBuf,
}

impl Place {
    /// That of the pod with this uid, in the folder of all.
    pub(super) fn of(folder: &Path, uid: &str) -> Self {
        Self {
            pod: folder.join("pods").join(uid),
            volumes: folder.join("volumes"),
            hosts: folder.join("hosts"),
        }
    }
}

/// A pod whose containers are processes.
pub(super) struct Boxed<'a> {
    pub client: &'a Client,
    pub pod: &'a Pod,
    pub place: &'a Place,
    /// Its address, of loopback.
    pub address: &'a str,
}

impl Boxed<'_> {
    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }

    /// Starts a container: what it mounts is read anew.
    pub(super) async fn start(&self, container: &Container, program: &Path) -> Result<Child> {
        let mut cell = Cell {
            root: self.place.pod.join("root"),
            mounts: Vec::new(),
            hosts: (self.place.hosts.clone(), self.namespace()),
        };
        for mount in container.volume_mounts.iter().flatten() {
            if let Some(folder) = self.volume(&mount.name).await? {
                cell.mounts.push((folder, mount.mount_path.clone()));
            }
        }
        let env = self.env(container).await?;
        let words = container.command.iter().flatten().skip(1).chain(container.args.iter().flatten());
        let args: Vec<String> = words.map(|word| expanded(word, &env)).collect();
        cell.spawn(program, &args, env, &self.log(container))
    }

    fn log(&self, container: &Container) -> PathBuf {
        self.place.pod.join(format!("{}.log", container.name))
    }

    /// The last line that it printed.
    pub(super) fn last_words(&self, container: &Container) -> String {
        let said = std::fs::read(self.log(container)).unwrap_or_default();
        String::from_utf8_lossy(&said).lines().last().unwrap_or_default().to_owned()
    }

    pub(super) async fn env(&self, container: &Container) -> Result<BTreeMap<String, String>> {
        let mut env = BTreeMap::new();
        for source in container.env_from.iter().flatten() {
            if let Some(source) = &source.config_map_ref {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace());
                env.extend(api.get(&source.name).await?.data.unwrap_or_default());
            }
            if let Some(source) = &source.secret_ref {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace());
                let data = api.get(&source.name).await?.data.unwrap_or_default();
                let text = |(key, value): (String, k8s_openapi::ByteString)| {
                    (key, String::from_utf8_lossy(&value.0).into_owned())
                };
                env.extend(data.into_iter().map(text));
            }
        }
        for variable in container.env.iter().flatten() {
            let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
            let value = match field.map(|field| field.field_path.as_str()) {
                Some("metadata.name") => self.pod.name_any(),
                Some("status.podIP") => self.address.to_owned(),
                _ => expanded(variable.value.as_deref().unwrap_or_default(), &env),
            };
            env.insert(variable.name.clone(), value);
        }
        Ok(env)
    }

    async fn volume(&self, name: &str) -> Result<Option<PathBuf>> {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let Some(volume) = volumes.into_iter().find(|volume| volume.name == name) else { return Ok(None) };
        if let Some(claim) = &volume.persistent_volume_claim {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.namespace());
            let claim = api.get(&claim.claim_name).await?;
            let folder = claims::folder(&self.place.volumes, &claim);
            return folder.is_dir().then_some(Some(folder)).context("its volume is not there yet");
        }
        let folder = self.place.pod.join("volumes").join(name);
        std::fs::create_dir_all(&folder)?;
        self.fill(volume, &folder).await?;
        Ok(Some(folder))
    }

    /// Has what ConfigMaps and Secrets say now in the files that were made of them, as the kubelet does from time to time.
    pub(super) async fn refresh(&self) -> Result<()> {
        for volume in self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let folder = self.place.pod.join("volumes").join(&volume.name);
            if volume.secret.is_some() && folder.is_dir() {
                self.fill(volume, &folder).await?;
            }
        }
        Ok(())
    }

    async fn fill(&self, volume: &Volume, folder: &Path) -> Result<()> {
        if let Some(source) = &volume.config_map {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace());
            for (key, text) in api.get(&source.name).await?.data.unwrap_or_default() {
                // Here all pods have the machine's addresses; each listens on its own.
                write(&folder.join(key), text.replace("0.0.0.0", self.address).as_bytes())?;
            }
        }
        if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref()) {
            let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace());
            for (key, bytes) in api.get(name).await?.data.unwrap_or_default() {
                write(&folder.join(key), &bytes.0)?;
            }
        }
        Ok(())
    }
}

/// A file that is read while it is written is the old or the new one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, path).with_context(|| format!("write {}", path.display()))
}

/// Fills in `$(NAME)`.
fn expanded(text: &str, env: &BTreeMap<String, String>) -> String {
    env.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

/// Whether a container says that clients may come. One without a probe does.
pub(super) async fn is_ready(container: &Container, address: &str) -> bool {
    let Some(probe) = &container.readiness_probe else { return true };
    let timeout = Duration::from_secs(5);
    matches!(tokio::time::timeout(timeout, ask(container, probe, address)).await, Ok(Ok(true)))
}

async fn ask(container: &Container, probe: &Probe, address: &str) -> Result<bool> {
    let get = probe.http_get.as_ref().context("it is asked by HTTP")?;
    let port = match &get.port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port)
            .context("a port of that name")?,
    };
    let mut stream = TcpStream::connect(format!("{address}:{port}")).await?;
    let path = get.path.as_deref().unwrap_or("/");
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(answer[9] == b'2')
}
