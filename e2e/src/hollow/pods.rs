//! Pods from scheduled to gone.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_of};
use kube::{Client, ResourceExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::container::{self, Boxed, Place};
use super::member::Member;
use super::{HollowNode, Programs};

/// Between two looks at whether a process is ready.
const PROBE: Duration = Duration::from_millis(200);
/// Between two looks at Secrets that are mounted, in probes.
const REFRESH: u32 = 5;
/// Longest wait before a process that ended is started again.
const BACKOFF: Duration = Duration::from_secs(2);

/// A pod that runs a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its address.
    pub address: String,
    /// Its process, while there is one.
    pub process: Option<u32>,
    /// Whether its readiness probe was answered last.
    pub is_ready: bool,
}

impl Live {
    /// Sends its process a signal. One that ended meanwhile gets none.
    pub fn signal(&self, signal: Signal) {
        if let Some(id) = self.process.and_then(|id| i32::try_from(id).ok()) {
            let _ = kill(Pid::from_raw(id), signal);
        }
    }
}

/// All pods of all nodes.
pub(super) struct Pods {
    client: Client,
    nodes: HashMap<String, HollowNode>,
    programs: Programs,
    folder: PathBuf,
    count: AtomicU32,
    live: Mutex<HashMap<String, (String, Live)>>,
    /// Namespaces whose pods run no processes.
    stood_in: Mutex<HashSet<String>>,
    tasks: Mutex<JoinSet<()>>,
    /// Who writes the names of a namespace's hosts: one who began earlier must not end later.
    names: Mutex<()>,
}

impl Pods {
    pub(super) fn new(client: Client, nodes: Vec<HollowNode>, programs: Programs, folder: &Path) -> Self {
        Self {
            client,
            nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
            programs,
            folder: folder.to_owned(),
            count: AtomicU32::new(0),
            live: Mutex::default(),
            names: Mutex::default(),
            stood_in: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    pub(super) fn live(&self, namespace: &str) -> Vec<Live> {
        let all = self.live.lock();
        let mut live: Vec<Live> =
            all.values().filter(|(of, _)| of == namespace).map(|(_, live)| live.clone()).collect();
        live.sort_by(|a, b| a.name.cmp(&b.name));
        live
    }

    /// A pod that runs a process, and the file that one of its containers prints to.
    pub(super) fn log(&self, namespace: &str, pod: &str, container: &str) -> Option<(Live, PathBuf)> {
        let live = self.live(namespace).into_iter().find(|live| live.name == pod)?;
        let file = Place::of(&self.folder, &live.uid).pod.join(format!("{container}.log"));
        Some((live, file))
    }

    pub(super) fn stand_in(&self, namespace: &str) {
        self.stood_in.lock().insert(namespace.to_owned());
    }

    pub(super) fn kill_all(&self) {
        self.tasks.lock().abort_all();
        for (_, live) in self.live.lock().values() {
            live.signal(Signal::SIGKILL);
        }
    }

    /// Follows all pods; each has a task that lives as long as it does.
    pub(super) async fn follow(self: Arc<Self>) {
        let api: Api<Pod> = Api::all(self.client.clone());
        let mut events = watch_of(api, watcher::Config::default()).default_backoff().boxed();
        let mut known: HashMap<String, watch::Sender<Pod>> = HashMap::new();
        // Those that a new list has: who is not among them went while nobody watched.
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            if let Ok(Event::InitApply(pod)) = &event {
                listed.extend(pod.uid());
            }
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitDone) => known.retain(|uid, _| listed.contains(uid)),
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
                    let Some(node) = self.nodes.get(&node) else { continue };
                    let uid = pod.uid().unwrap_or_default();
                    if let Some(sender) = known.get(&uid) {
                        sender.send_replace(pod);
                        continue;
                    }
                    let (sender, receiver) = watch::channel(pod);
                    known.insert(uid, sender);
                    let mut tasks = self.tasks.lock();
                    while tasks.try_join_next().is_some() {}
                    tasks.spawn(self.clone().tend(node.clone(), receiver));
                }
                Ok(Event::Delete(pod)) => {
                    known.remove(&pod.uid().unwrap_or_default());
                }
                Err(error) => eprintln!("hollow pods: {error}"),
            }
        }
    }

    async fn tend(self: Arc<Self>, node: HollowNode, mut pod: watch::Receiver<Pod>) {
        let first = pod.borrow().clone();
        let container = first.spec.as_ref().and_then(|spec| spec.containers.first());
        let command = container.and_then(|container| container.command.as_ref()?.first());
        let namespace = first.namespace().unwrap_or_default();
        let is_stood_in = self.stood_in.lock().contains(&namespace);
        let done = match command.and_then(|command| self.programs.get(command)) {
            Some(program) if !is_stood_in => {
                let done = self.run(&first, program, &mut pod).await;
                self.live.lock().remove(&first.uid().unwrap_or_default());
                self.name_hosts(&namespace);
                done
            }
            _ if is_stood_in && command.is_some_and(|command| command == "tinykv") => {
                self.stand_in_for(&first, &mut pod).await
            }
            _ => self.pretend(&first, &node, &mut pod).await,
        };
        if let Err(error) = done {
            eprintln!("hollow pod {}: {error:#}", first.name_any());
            until_leaving(&mut pod).await;
        }
        self.bury(&first).await;
    }

    /// Nothing runs, and it is ready.
    async fn pretend(&self, first: &Pod, node: &HollowNode, pod: &mut watch::Receiver<Pod>) -> Result<()> {
        let phase = first.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        if phase == "Pending" && first.metadata.deletion_timestamp.is_none() {
            tokio::time::sleep(node.start).await;
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            let address =
                format!("10.{}.{}.{}", 64 + number / 62_500, (number / 250) % 250, number % 250 + 1);
            let ends =
                first.spec.as_ref().is_some_and(|spec| spec.restart_policy.as_deref() == Some("Never"));
            let state = if ends { State::Ended(0) } else { State::Ready };
            self.report(first, &address, state, 0).await;
        }
        until_leaving(pod).await;
        tokio::time::sleep(node.stop).await;
        Ok(())
    }

    /// Nothing runs, and something answers for the member of a KVCluster that it is.
    async fn stand_in_for(&self, first: &Pod, pod: &mut watch::Receiver<Pod>) -> Result<()> {
        let address = self.local();
        let namespace = first.namespace().unwrap_or_default();
        let place = Place::of(&self.folder, &first.uid().unwrap_or_default());
        let boxed = Boxed { client: &self.client, pod: first, place: &place, address: &address };
        let container = first.spec.as_ref().and_then(|spec| spec.containers.first());
        let env = boxed.env(container.context("a container")?).await?;
        let peers = env.get("TINYKV_PEERS").with_context(|| format!("peers of {namespace}"))?;
        let member = Member::new(&first.name_any(), peers)?;
        let reported = async {
            self.report(first, &address, State::Ready, 0).await;
            until_leaving(pod).await;
        };
        tokio::select! {
            ended = member.serve(&address) => ended?,
            () = reported => {}
        }
        Ok(())
    }

    /// An address of this machine that nobody else has: of 10.200.0.0/14 where all of that is local (as in a network namespace with
    /// `ip route add local 10.200.0.0/14 dev lo`), else of loopback, which Kubernetes wants in no endpoints.
    fn local(&self) -> String {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (net, host) = (number / 62_500, format!("{}.{}", (number / 250) % 250, number % 250 + 1));
        let is_local = |address: &String| std::net::TcpListener::bind(format!("{address}:0")).is_ok();
        let routed = Some(format!("10.{}.{host}", 200 + net)).filter(is_local);
        routed.unwrap_or(format!("127.{}.{host}", 80 + net))
    }

    /// Runs it, again when it ends, until it is told to go.
    async fn run(&self, first: &Pod, program: &Path, pod: &mut watch::Receiver<Pod>) -> Result<()> {
        let address = self.local();
        let uid = first.uid().unwrap_or_default();
        let live = Live {
            name: first.name_any(),
            uid: uid.clone(),
            address: address.clone(),
            process: None,
            is_ready: false,
        };
        let namespace = first.namespace().unwrap_or_default();
        self.live.lock().insert(uid.clone(), (namespace.clone(), live));
        self.name_hosts(&namespace);
        let place = Place::of(&self.folder, &uid);
        let boxed = Boxed { client: &self.client, pod: first, place: &place, address: &address };
        let mut child = None;
        tokio::select! {
            ended = self.keep_running(&boxed, program, &mut child) => ended?,
            () = until_leaving(pod) => {}
        }
        // It leaves its Services before it is told.
        self.note(first, child.as_ref().and_then(Child::id), false);
        if let Some(child) = &mut child {
            let grace = pod.borrow().metadata.deletion_grace_period_seconds.unwrap_or(30);
            end(child, Duration::from_secs(grace.unsigned_abs())).await;
        }
        until_leaving(pod).await;
        Ok(())
    }

    async fn keep_running(&self, boxed: &Boxed<'_>, program: &Path, child: &mut Option<Child>) -> Result<()> {
        let spec = boxed.pod.spec.as_ref().context("a spec")?;
        self.report(boxed.pod, boxed.address, State::Waiting, 0).await;
        for container in spec.init_containers.iter().flatten() {
            self.until_done(boxed, container, program, child).await?;
        }
        let container = spec.containers.first().context("a container")?;
        let ends = spec.restart_policy.as_deref() != Some("Always");
        let mut pause = PROBE;
        for restarts in 0.. {
            match boxed.start(container, program).await {
                Ok(started) => {
                    self.note(boxed.pod, started.id(), false);
                    let started = child.insert(started);
                    self.report(boxed.pod, boxed.address, State::Running, restarts).await;
                    let status = self.watch(boxed, container, started, restarts).await?;
                    self.note(boxed.pod, None, false);
                    if ends {
                        self.report(boxed.pod, boxed.address, State::Ended(status), restarts).await;
                        return Ok(());
                    }
                }
                Err(error) => eprintln!("hollow pod {}: {error:#}", boxed.pod.name_any()),
            }
            self.report(boxed.pod, boxed.address, State::Waiting, restarts + 1).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF);
        }
        Ok(())
    }

    async fn until_done(
        &self,
        boxed: &Boxed<'_>,
        container: &Container,
        program: &Path,
        child: &mut Option<Child>,
    ) -> Result<()> {
        for restarts in 0.. {
            match boxed.start(container, program).await {
                Ok(started) => {
                    self.note(boxed.pod, started.id(), false);
                    let code = child.insert(started).wait().await?.code().unwrap_or(137);
                    let words = boxed.last_words(container);
                    self.tell(boxed.pod, first_status(container, code, &words, restarts)).await;
                    if code == 0 {
                        return Ok(());
                    }
                }
                Err(error) => eprintln!("hollow pod {}: {error:#}", boxed.pod.name_any()),
            }
            tokio::time::sleep(BACKOFF).await;
        }
        Ok(())
    }

    /// Asks a process how it is until it ends; says with which code.
    async fn watch(
        &self,
        boxed: &Boxed<'_>,
        container: &Container,
        child: &mut Child,
        restarts: u32,
    ) -> Result<i32> {
        let mut was_ready = false;
        for probe in 1.. {
            tokio::select! {
                ended = child.wait() => return Ok(ended?.code().unwrap_or(137)),
                () = tokio::time::sleep(PROBE) => {}
            }
            let is_ready = container::is_ready(container, boxed.address).await;
            if is_ready != was_ready {
                let state = if is_ready { State::Ready } else { State::Running };
                self.note(boxed.pod, child.id(), is_ready);
                self.report(boxed.pod, boxed.address, state, restarts).await;
                was_ready = is_ready;
            }
            if probe % REFRESH == 0
                && let Err(error) = boxed.refresh().await
            {
                eprintln!("hollow pod {}: {error:#}", boxed.pod.name_any());
            }
        }
        Ok(0)
    }

    fn note(&self, pod: &Pod, process: Option<u32>, is_ready: bool) {
        if let Some((_, live)) = self.live.lock().get_mut(&pod.uid().unwrap_or_default()) {
            (live.process, live.is_ready) = (process, is_ready);
        }
    }

    /// What the headless Services of a namespace answer, ready or not.
    fn name_hosts(&self, namespace: &str) {
        let _alone = self.names.lock();
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for live in self.live(namespace) {
            let owner = live.name.rsplit_once('-').map_or(live.name.as_str(), |(owner, _)| owner);
            let name = format!("{}.{owner}-members", live.name);
            let names = [
                live.address.as_str(),
                &name,
                &format!("{name}.{namespace}.svc"),
                &format!("{owner}.{namespace}.svc"),
                owner,
            ];
            text += &names.join(" ");
            text.push('\n');
        }
        if let Err(error) = container::write(&self.folder.join("hosts").join(namespace), text.as_bytes()) {
            eprintln!("hollow hosts: {error:#}");
        }
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }

    async fn report(&self, pod: &Pod, address: &str, state: State, restarts: u32) {
        self.tell(pod, status(pod, address, state, restarts)).await;
    }

    async fn tell(&self, pod: &Pod, status: Value) {
        let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let (api, name) = (self.api(pod), pod.name_any());
        let (params, patch) = (PatchParams::default(), Patch::Merge(&status));
        insist(&name, || async { api.patch_status(&name, &params, &patch).await.map(drop) }).await;
    }

    /// It is gone: its name is free.
    async fn bury(&self, pod: &Pod) {
        let only_this = Preconditions { uid: pod.uid(), resource_version: None };
        let params =
            DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() }.grace_period(0);
        let (api, name) = (self.api(pod), pod.name_any());
        insist(&name, || async { api.delete(&name, &params).await.map(drop) }).await;
    }
}

/// Tells the API server of a pod, again until it listens or knows another of that name, or none: as a kubelet does.
async fn insist<F: Future<Output = kube::Result<()>>>(pod: &str, tell: impl Fn() -> F) {
    let mut pause = PROBE;
    loop {
        match tell().await {
            Ok(()) => return,
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return,
            Err(error) => eprintln!("hollow pod {pod}: {error}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF);
    }
}

/// As SIGTERM and, when that does not help, SIGKILL do.
async fn end(child: &mut Child, grace: Duration) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        // One that was stopped hears nothing.
        let _ = kill(Pid::from_raw(id), Signal::SIGCONT);
    }
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Until the pod is told to go, or is gone without a word.
async fn until_leaving(pod: &mut watch::Receiver<Pod>) {
    while pod.borrow_and_update().metadata.deletion_timestamp.is_none() {
        if pod.changed().await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ready,
    Ended(i32),
}

/// How that ended which runs before a pod's own container, and its last words if it failed.
fn first_status(container: &Container, code: i32, words: &str, restarts: u32) -> Value {
    let now = Timestamp::now().to_string();
    let words = if code == 0 { "" } else { words };
    let ended =
        json!({"terminated": {"exitCode": code, "message": words, "startedAt": now, "finishedAt": now}});
    let (state, last) = match code {
        0 => (ended, Value::Null),
        _ => (json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended),
    };
    json!({"initContainerStatuses": [{"name": container.name, "image": container.image, "imageID": "",
        "ready": code == 0, "restartCount": restarts, "state": state, "lastState": last}]})
}

fn status(pod: &Pod, address: &str, state: State, restarts: u32) -> Value {
    let now = Timestamp::now().to_string();
    let phase = match state {
        State::Waiting if restarts == 0 => "Pending",
        State::Waiting | State::Running | State::Ready => "Running",
        State::Ended(0) => "Succeeded",
        State::Ended(_) => "Failed",
    };
    let condition = |kind: &str| {
        let is_so = state == State::Ready || kind == "Initialized" || kind == "PodScheduled";
        json!({"type": kind, "status": if is_so { "True" } else { "False" }, "lastTransitionTime": now})
    };
    let container = |container: &Container| {
        let state_of = match state {
            State::Waiting => json!({"waiting": {"reason": "ContainerCreating"}}),
            State::Running | State::Ready => json!({"running": {"startedAt": now}}),
            State::Ended(code) => {
                json!({"terminated": {"exitCode": code, "startedAt": now, "finishedAt": now}})
            }
        };
        let is_ready = state == State::Ready;
        json!({"name": container.name, "image": container.image, "imageID": "", "ready": is_ready, "started": is_ready,
            "restartCount": restarts, "state": state_of})
    };
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(container);
    json!({
        "phase": phase,
        "startTime": now,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}
