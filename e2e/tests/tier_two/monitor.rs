//! Watches over what the operator's hand takes away: never two voters at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use aistack_crds::KVCluster;
use anyhow::{Result, ensure};
use e2e::{Story, wait};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event as Told;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, LogParams};
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

#[derive(Default)]
struct State {
    /// Pods that a fault took, by uid.
    by_fault: BTreeSet<String>,
    /// Pods that the operator took and whose successors are not ready yet: ordinal to the uid that went.
    away: BTreeMap<u16, String>,
    /// Ordinals below this one belong to voters.
    wanted: u16,
    wrong: Vec<String>,
    taken: usize,
}

/// A watch over a KVCluster's pods.
pub struct Monitor {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Monitor {
    /// Begins to watch a cluster of so many voters.
    pub fn over(story: &Story, cluster: &str, wanted: u16) -> Self {
        let state = Arc::new(Mutex::new(State { wanted, ..State::default() }));
        let task = tokio::spawn(follow(story.api(), format!("{cluster}-"), state.clone()));
        Self { state, task }
    }

    /// From now on so many are voters: those that are to go do not count, those that come count once they vote.
    pub fn expect(&self, wanted: u16) {
        let mut state = self.state.lock();
        state.wanted = wanted;
        state.away.retain(|ordinal, _| *ordinal < wanted);
    }

    /// A fault takes this pod.
    pub fn fault(&self, uid: &str) {
        self.state.lock().by_fault.insert(uid.to_owned());
    }

    /// How many pods of voters the operator took, if never two at a time.
    pub fn end(self) -> Result<usize> {
        self.task.abort();
        let state = self.state.lock();
        ensure!(state.wrong.is_empty(), "{}", state.wrong.join("\n"));
        Ok(state.taken)
    }
}

async fn follow(api: Api<Pod>, prefix: String, state: Arc<Mutex<State>>) {
    let mut pods = watcher::watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = pods.next().await {
        let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
        let name = pod.name_any();
        let Some(ordinal) = name.strip_prefix(&prefix).and_then(|ordinal| ordinal.parse().ok()) else {
            continue;
        };
        state.lock().see(ordinal, &pod);
    }
}

impl State {
    fn see(&mut self, ordinal: u16, pod: &Pod) {
        let uid = pod.uid().unwrap_or_default();
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_ready = conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True");
        let is_leaving = pod.metadata.deletion_timestamp.is_some();
        if is_leaving && ordinal < self.wanted && !self.by_fault.contains(&uid) {
            if self.away.get(&ordinal) == Some(&uid) {
                return;
            }
            // What was down anyway is not taken away.
            if !is_ready {
                return;
            }
            self.away.insert(ordinal, uid);
            self.taken += 1;
            if self.away.len() > 1 {
                self.wrong.push(format!("by our hand away at a time: {:?}", self.away.keys()));
            }
        } else if is_ready && !is_leaving && self.away.get(&ordinal).is_some_and(|gone| *gone != uid) {
            self.away.remove(&ordinal);
        }
    }
}

/// How often the operator said that it did something for a reason.
pub async fn told(story: &Story, cluster: &str, reason: &str) -> Result<i64> {
    let events = story.api::<Told>().list(&ListParams::default()).await?.items;
    let about = |event: &&Told| {
        event.reason.as_deref() == Some(reason)
            && event.regarding.as_ref().is_some_and(|about| about.name.as_deref() == Some(cluster))
    };
    Ok(events
        .iter()
        .filter(about)
        .map(|event| event.series.as_ref().map_or(1, |series| i64::from(series.count)))
        .sum())
}

/// Waits until a cluster has so many voters, and there is nothing left to be done.
pub async fn until_at_rest(story: &Story, cluster: &str, voters: usize) -> Result<KVCluster> {
    let what = format!("{cluster} has {voters} voters and rests");
    let rests = |kv: &KVCluster| {
        let Some(status) = &kv.status else { return false };
        let is = |kind: &str, word: &str| {
            status.conditions.iter().any(|condition| {
                condition.type_ == kind
                    && condition.status == word
                    && condition.observed_generation == kv.metadata.generation
            })
        };
        is("Ready", "True")
            && is("Progressing", "False")
            && is("Degraded", "False")
            && status.members.iter().filter(|member| member.ready).count() == voters
            && status.members.len() == voters
            && status.ready_replicas == i32::try_from(voters).unwrap_or(0)
    };
    match wait::object(&story.api(), &story.client, cluster, &what, rests).await {
        Ok(rests) => Ok(rests),
        Err(error) => Err(error.context(last_words(story).await)),
    }
}

/// What the pods printed last.
async fn last_words(story: &Story) -> String {
    let pods: Api<Pod> = story.api();
    let tail = LogParams { tail_lines: Some(15), ..LogParams::default() };
    let mut words = String::new();
    for pod in pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
        let name = pod.name_any();
        let said = pods.logs(&name, &tail).await.unwrap_or_else(|error| error.to_string());
        let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
        let _ = writeln!(words, "{name}, {phase}:\n{said}");
    }
    words
}
