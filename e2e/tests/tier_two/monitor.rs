//! Watches over what the operator's hand takes away: never two voters at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use aistack_crds::KVCluster;
use anyhow::{Result, ensure};
use e2e::hollow::Live;
use e2e::{Bed, Story, wait};
use etcd_client::{Client, ConnectOptions};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event as Told;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, LogParams};
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// How long a member may take to say who votes.
const PATIENCE: Duration = Duration::from_millis(500);

/// What became of a member's pod.
#[derive(Debug)]
struct Happening {
    ordinal: u16,
    uid: String,
    what: What,
}

#[derive(Debug)]
enum What {
    /// It was ready, and goes; who had a vote when it was told to.
    Goes(BTreeSet<u16>),
    Ready,
}

#[derive(Default)]
struct State {
    /// Pods that a fault took, by uid.
    by_fault: BTreeSet<String>,
    /// In the order in which the API server told it. Whose hand took a pod is known later.
    happened: Vec<Happening>,
}

/// A watch over a KVCluster's pods.
pub struct Monitor {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Monitor {
    /// Begins to watch.
    pub fn over(bed: &'static Bed, story: &Story, cluster: &str) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let watched = Watched { bed, namespace: story.namespace.clone(), prefix: format!("{cluster}-") };
        let task = tokio::spawn(watched.follow(story.api(), state.clone()));
        Self { state, task }
    }

    /// A fault took this pod.
    pub fn fault(&self, uid: &str) {
        self.state.lock().by_fault.insert(uid.to_owned());
    }

    /// How many pods of voters the operator took, if never two at a time.
    pub fn end(self) -> Result<usize> {
        self.task.abort();
        let state = self.state.lock();
        let (taken, wrong) = state.judged();
        ensure!(wrong.is_empty(), "{}\n{:#?}", wrong.join("\n"), state.happened);
        Ok(taken)
    }
}

struct Watched {
    bed: &'static Bed,
    namespace: String,
    prefix: String,
}

impl Watched {
    async fn follow(self, api: Api<Pod>, state: Arc<Mutex<State>>) {
        let mut pods = watcher::watcher(api, watcher::Config::default()).boxed();
        let (mut voters, mut known) = (BTreeSet::new(), BTreeSet::new());
        while let Some(event) = pods.next().await {
            let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
            let Some(ordinal) = self.ordinal(&pod.name_any()) else { continue };
            let uid = pod.uid().unwrap_or_default();
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let is_ready = conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True");
            let is_leaving = pod.metadata.deletion_timestamp.is_some();
            // What was down anyway is not taken away.
            if !is_ready || !known.insert((uid.clone(), is_leaving)) {
                continue;
            }
            let what = if is_leaving {
                voters = self.voters().await.unwrap_or(voters);
                What::Goes(voters.clone())
            } else {
                What::Ready
            };
            state.lock().happened.push(Happening { ordinal, uid, what });
        }
    }

    fn ordinal(&self, name: &str) -> Option<u16> {
        name.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// Who votes, as whichever member is furthest says; `None`: nobody answers.
    async fn voters(&self) -> Option<BTreeSet<u16>> {
        let live = self.bed.hollow.live(&self.namespace);
        let asked = live.iter().filter(|live| self.ordinal(&live.name).is_some());
        let lists =
            futures::future::join_all(asked.map(|live| tokio::time::timeout(PATIENCE, list(live)))).await;
        let lists = lists.into_iter().filter_map(|list| list.ok()?.ok());
        let (_, names) = lists.max_by_key(|(index, _)| *index)?;
        Some(names.iter().filter_map(|name| self.ordinal(name)).collect())
    }
}

/// How far a member is, and who votes as it knows.
async fn list(live: &Live) -> Result<(u64, Vec<String>)> {
    let options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
    let mut client = Client::connect([format!("http://{}:2379", live.address)], Some(options)).await?;
    let index = client.status().await?.raft_index();
    let list = client.member_list().await?;
    let voters = list.members().iter().filter(|member| !member.is_learner());
    Ok((index, voters.map(|member| member.name().to_owned()).collect()))
}

impl State {
    /// How many pods of voters went by our hand, and where two were away at a time by it.
    fn judged(&self) -> (usize, Vec<String>) {
        let (mut taken, mut wrong) = (0, Vec::new());
        // Pods whose successors are not ready yet: ordinal to the uid that went.
        let mut away: BTreeMap<u16, &str> = BTreeMap::new();
        for Happening { ordinal, uid, what } in &self.happened {
            match what {
                What::Goes(voters) => {
                    away.retain(|ordinal, _| voters.contains(ordinal));
                    if self.by_fault.contains(uid) || !voters.contains(ordinal) {
                        continue;
                    }
                    away.insert(*ordinal, uid);
                    taken += 1;
                    if away.len() > 1 {
                        wrong.push(format!("by our hand away at a time: {:?}", away.keys()));
                    }
                }
                What::Ready if away.get(ordinal).is_some_and(|gone| *gone != uid) => {
                    away.remove(ordinal);
                }
                What::Ready => {}
            }
        }
        (taken, wrong)
    }
}

#[test]
fn two_voters_away_by_our_hand_are_seen() {
    let goes = |ordinal: u16, uid: &str, voters: u16| Happening {
        ordinal,
        uid: uid.to_owned(),
        what: What::Goes((0..voters).collect()),
    };
    let ready = |ordinal: u16, uid: &str| Happening { ordinal, uid: uid.to_owned(), what: What::Ready };
    let table = [
        ("one after the other", vec![goes(3, "a", 5), ready(3, "b"), goes(4, "c", 5)], (2, true)),
        ("two of five", vec![goes(3, "a", 5), goes(4, "c", 5)], (2, false)),
        (
            "the same one is ready for a moment",
            vec![goes(3, "a", 5), ready(3, "a"), goes(4, "c", 5)],
            (2, false),
        ),
        ("a fault's is not ours", vec![goes(3, "fault", 5), goes(4, "c", 5)], (1, true)),
        ("one that has no vote any more", vec![goes(4, "a", 4), goes(3, "c", 4)], (1, true)),
        ("one that left while it was away", vec![goes(4, "a", 5), goes(3, "c", 4)], (2, true)),
    ];
    for (name, happened, (taken, is_right)) in table {
        let state = State { by_fault: BTreeSet::from(["fault".to_owned()]), happened };
        let judged = state.judged();
        assert_eq!((judged.0, judged.1.is_empty()), (taken, is_right), "{name}");
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
