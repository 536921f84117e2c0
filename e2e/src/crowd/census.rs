//! Who of a crowd has what its spec asks for, as the objects themselves say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aistack_crds::Kind;
use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Kind, namespace and name.
type Name = (String, String, String);
/// Why an object is not settled, if it is not.
pub type Judge = fn(&DynamicObject) -> Option<String>;

#[derive(Default)]
struct Inner {
    /// What each object that is not settled says.
    all: HashMap<Name, Option<String>>,
    unsettled: usize,
}

/// A watch over all objects of our kinds.
pub struct Census {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Census {
    /// Begins one of our kinds, in a namespace or in all.
    pub fn begin(client: &Client, namespace: Option<&str>) -> Self {
        Self::of(client, namespace, Kind::ALL.map(Kind::resource).to_vec(), unsettled)
    }

    /// Begins one of other kinds.
    pub fn of(client: &Client, namespace: Option<&str>, kinds: Vec<ApiResource>, judge: Judge) -> Self {
        let (inner, changed) = (Arc::<Mutex<Inner>>::default(), Arc::<Notify>::default());
        let mut tasks = JoinSet::new();
        for kind in kinds {
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
                None => Api::all_with(client.clone(), &kind),
            };
            tasks.spawn(follow(api, kind.kind, judge, inner.clone(), changed.clone()));
        }
        Self { inner, changed, _tasks: tasks }
    }

    /// How many there are, children of stacks among them.
    pub fn len(&self) -> usize {
        self.inner.lock().all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them are settled.
    pub fn settled(&self) -> usize {
        let inner = self.inner.lock();
        inner.all.len() - inner.unsettled
    }

    /// Waits until there are so many at least and all are settled: Ready for their newest spec, or stalled for want of a component that
    /// this version does not have.
    pub async fn until_all_settled(&self, at_least: usize, patience: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let changed = self.changed.notified();
            {
                let inner = self.inner.lock();
                if inner.unsettled == 0 && inner.all.len() >= at_least {
                    return Ok(());
                }
            }
            if began.elapsed() > patience {
                bail!("after {} s not all of {at_least}: {:#?}", patience.as_secs(), self.waiting());
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), changed).await;
        }
    }

    /// What those that are not settled say, and how many say it.
    pub fn waiting(&self) -> BTreeMap<String, usize> {
        let mut said = BTreeMap::new();
        for ((kind, ..), why) in &self.inner.lock().all {
            if let Some(why) = why {
                *said.entry(format!("{kind}: {why}")).or_default() += 1;
            }
        }
        said
    }
}

async fn follow(
    api: Api<DynamicObject>,
    kind: String,
    judge: Judge,
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
) {
    let named =
        |object: &DynamicObject| (kind.clone(), object.namespace().unwrap_or_default(), object.name_any());
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                inner.lock().note(named(&object), judge(&object));
            }
            Ok(Event::Delete(object)) => inner.lock().forget(&named(&object)),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => eprintln!("census of {kind}: {error}"),
        }
        changed.notify_waiters();
    }
}

impl Inner {
    fn note(&mut self, name: Name, why: Option<String>) {
        self.unsettled += usize::from(why.is_some());
        if let Some(Some(_)) = self.all.insert(name, why) {
            self.unsettled -= 1;
        }
    }

    fn forget(&mut self, name: &Name) {
        if let Some(Some(_)) = self.all.remove(name) {
            self.unsettled -= 1;
        }
    }
}

/// Why an object is not settled.
fn unsettled(object: &DynamicObject) -> Option<String> {
    let status = &object.data["status"];
    if status["observedGeneration"].as_i64() != object.metadata.generation {
        return Some("not looked at".to_owned());
    }
    let conditions: &[Value] = status["conditions"].as_array().map_or(&[], Vec::as_slice);
    let is = |kind: &str, reason: &dyn Fn(&str) -> bool| {
        conditions.iter().any(|it| {
            it["type"] == kind && it["status"] == "True" && it["reason"].as_str().is_some_and(reason)
        })
    };
    let is_ready = is("Ready", &|_| true) && !is("Progressing", &|_| true);
    if is_ready || is("Stalled", &|reason| reason == "ComponentMissing") {
        return None;
    }
    let ready = conditions.iter().find(|it| it["type"] == "Ready");
    Some(ready.map_or("no condition Ready".to_owned(), |ready| {
        let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", text("status"), text("reason"), text("message"))
    }))
}
