//! The routes: kept in the store, followed by every gateway, and moved on by whoever sees first that they must.

mod judge;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aistack_api::modelhub::EngineConfig;
use aistack_api::traffic::{
    CanaryAction, CanaryPhase, CanaryState, TargetState, TrafficDeleted, TrafficRoute, TrafficState,
};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::canary;
use super::known::{Activity, Known, Record};
use super::metrics::TrafficMetrics;
use super::room::Room;
use super::target::{CanaryWatch, Split, Target, TargetStats};
use crate::error::ApiError;
use crate::gateway::engine::Engine;
use crate::gateway::engines::Engines;
use crate::gateway::route::closest;
use crate::kv::{Change, Expect, Kv, KvError, ROOT};
use crate::now_ms;

/// How often targets are asked whether they are there while requests wait for them.
const HURRIED: Duration = Duration::from_millis(50);
/// For how long a gateway's word that requests wait with it, or are in flight, holds.
const HELD_MS: u64 = 15_000;

/// What a change must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// No route.
    Absent,
    /// The route of this revision.
    At(i64),
}

/// All routes.
pub struct Traffic {
    kv: Kv,
    engines: Arc<Engines>,
    metrics: TrafficMetrics,
    connect_timeout: Duration,
    /// Name of this gateway.
    instance: String,
    known: Mutex<BTreeMap<String, Known>>,
    reading: tokio::sync::Mutex<()>,
    alarm: Arc<Notify>,
    entered: Arc<Notify>,
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traffic").field("instance", &self.instance).finish_non_exhaustive()
    }
}

fn prefix() -> String {
    format!("{ROOT}traffic/")
}

fn key(model: &str) -> String {
    format!("{}{model}", prefix())
}

fn activity_prefix() -> String {
    format!("{ROOT}activity/")
}

impl Traffic {
    /// Routes of a store, for some engines; `instance` is this gateway's name.
    pub fn new(
        kv: Kv,
        engines: Arc<Engines>,
        metrics: TrafficMetrics,
        connect_timeout: Duration,
        instance: String,
    ) -> Self {
        Self {
            kv,
            engines,
            metrics,
            connect_timeout,
            instance,
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            alarm: Arc::default(),
            entered: Arc::default(),
        }
    }

    /// Sets a route. The same again changes nothing.
    pub async fn put(&self, model: &str, route: TrafficRoute, expected: Expected) -> Result<(), ApiError> {
        check_model(model)?;
        route.validate().map_err(|error| ApiError::invalid("invalid_route", error.to_string()))?;
        self.check_engines(model, &route)?;
        self.change(model, expected, |before| {
            let kept = before.filter(|record| record.route.canary == route.canary);
            let canary = route.canary.as_ref().map(|_| {
                kept.and_then(|record| record.canary.clone()).unwrap_or_else(|| canary::begin(now_ms()))
            });
            Ok(Record { route: route.clone(), canary })
        })
        .await
    }

    /// Moves a canary by hand.
    pub async fn command(&self, model: &str, action: CanaryAction) -> Result<(), ApiError> {
        let none = || {
            let message = format!("model {model} has no canary: a route names one under  canary");
            ApiError::not_found("no_canary", message)
        };
        self.change(model, Expected::Any, |before| {
            let (mut record, plan) = before
                .and_then(|record| record.route.canary.clone().map(|plan| (record.clone(), plan)))
                .ok_or_else(none)?;
            let (step, begun_ms) =
                record.canary.as_ref().map_or((0, 0), |state| (state.step, state.begun_ms));
            let reason = "by hand".to_owned();
            let state = |phase, step| CanaryState { phase, step, since_ms: now_ms(), begun_ms, reason };
            record.canary = Some(match action {
                CanaryAction::Promote => state(CanaryPhase::Succeeded, plan.steps.len().saturating_sub(1)),
                CanaryAction::Rollback => state(CanaryPhase::RolledBack, step),
                CanaryAction::Restart => canary::begin(now_ms()),
            });
            Ok(record)
        })
        .await
    }

    /// Takes a route away: what is configured for the model counts again.
    pub async fn remove(&self, model: &str, expected: Expected) -> Result<TrafficDeleted, ApiError> {
        let Some((_, revision)) = self.kv.get_json::<Record>(&key(model)).await? else {
            return Err(self.unknown(model));
        };
        check_expected(model, expected, Some(revision))?;
        let mut changes = vec![Change::Delete(key(model))];
        let told = self.activity().await?;
        changes
            .extend(told.into_iter().filter(|(_, of, _)| of == model).map(|(key, ..)| Change::Delete(key)));
        if !self.kv.change(&[Expect::At(key(model), revision)], changes).await? {
            return Err(changed_meanwhile(model));
        }
        self.reload().await?;
        Ok(TrafficDeleted { deleted: model.to_owned() })
    }

    /// One route and how it fares.
    pub async fn state(&self, model: &str) -> Result<TrafficState, ApiError> {
        let all = self.states().await?;
        all.into_iter().find(|state| state.model == model).ok_or_else(|| self.unknown(model))
    }

    /// All routes, sorted by model.
    pub async fn states(&self) -> Result<Vec<TrafficState>, ApiError> {
        self.reload().await?;
        let told = self.activity().await?;
        let now = now_ms();
        let known = self.known.lock();
        Ok(known.iter().map(|(model, known)| self.describe(model, known, &told, now)).collect())
    }

    fn describe(
        &self,
        model: &str,
        known: &Known,
        told: &[(String, String, Activity)],
        now: u64,
    ) -> TrafficState {
        let room = &known.split.room;
        let others = told.iter().filter(|(key, of, _)| of == model && *key != self.activity_key(model));
        let others: Vec<&Activity> = others.map(|(.., activity)| activity).collect();
        let fresh = || others.iter().filter(|other| now.saturating_sub(other.at_ms) < HELD_MS);
        let busy = fresh().any(|other| other.in_flight > 0).then_some(now);
        let mine = told.iter().find(|(key, ..)| *key == self.activity_key(model)).map(|(.., mine)| mine);
        let last = others.iter().map(|other| other.last_request_ms);
        let last = last
            .chain(mine.map(|mine| mine.last_request_ms))
            .chain(room.last_request_ms(now))
            .chain(busy)
            .max();
        let targets = known.split.targets.iter().map(|target| {
            let (requests, failed, refused) = target.stats.counted();
            let ready = target.engine.healthy();
            let trouble = if ready { String::new() } else { target.engine.trouble().to_string() };
            TargetState {
                name: target.name.clone(),
                percent: target.percent,
                ready,
                trouble,
                requests,
                failed,
                refused,
            }
        });
        TrafficState {
            model: model.to_owned(),
            revision: known.revision,
            route: known.record.route.clone(),
            targets: targets.collect(),
            canary: known.canary(now),
            held: room.held() + fresh().map(|other| other.held).sum::<u64>(),
            idle_ms: last.map(|last| now.saturating_sub(last)),
        }
    }

    async fn change(
        &self,
        model: &str,
        expected: Expected,
        decide: impl Fn(Option<&Record>) -> Result<Record, ApiError>,
    ) -> Result<(), ApiError> {
        let key = key(model);
        let decide = |before: Option<Record>| {
            let next = decide(before.as_ref())?;
            Ok::<_, ApiError>((before.as_ref() != Some(&next)).then_some(next))
        };
        if expected == Expected::Any {
            self.kv.update(&key, decide).await?;
        } else {
            let found = self.kv.get_json::<Record>(&key).await?;
            let (before, revision) = found.unzip();
            check_expected(model, expected, revision)?;
            if let Some(next) = decide(before)? {
                let expect = match revision {
                    Some(revision) => Expect::At(key.clone(), revision),
                    None => Expect::Absent(key.clone()),
                };
                if !self.kv.change(&[expect], vec![Change::put_json(key, &next)]).await? {
                    return Err(changed_meanwhile(model));
                }
            }
        }
        self.reload().await?;
        Ok(())
    }

    /// Reads all routes anew, and lets requests take them; returns the store's revision.
    pub async fn reload(&self) -> Result<i64, KvError> {
        // One reading at a time: an older one must not be learned after a newer one.
        let _one = self.reading.lock().await;
        let (entries, revision) = self.kv.list(&prefix()).await?;
        let mut fresh = Vec::new();
        {
            let mut known = self.known.lock();
            let mut next = BTreeMap::new();
            let mut is_changed = false;
            for entry in entries {
                let Some(model) = entry.key.strip_prefix(&prefix()).map(str::to_owned) else { continue };
                let before = known.remove(&model);
                match before {
                    Some(before) if before.revision >= entry.revision => {
                        next.insert(model, before);
                    }
                    before => {
                        let record = match entry.json() {
                            Ok(record) => record,
                            Err(error) => {
                                tracing::warn!(%error, model, "the route does not count");
                                continue;
                            }
                        };
                        is_changed = true;
                        match self.learn(&model, record, entry.revision, before) {
                            Ok((known, engines)) => {
                                fresh.extend(engines);
                                next.insert(model, known);
                            }
                            Err(error) => tracing::warn!(%error, model, "the route does not count"),
                        }
                    }
                }
            }
            for (model, gone) in std::mem::replace(&mut *known, next) {
                is_changed = true;
                gone.split.targets.iter().for_each(|target| self.metrics.forget_target(&model, &target.name));
            }
            if is_changed {
                self.engines.manage(known.values().map(|known| known.split.clone()).collect());
            }
        }
        self.engines.all_are_read();
        if !fresh.is_empty() {
            self.engines.check_these(&fresh).await;
        }
        Ok(revision)
    }

    fn engine(&self, model: &str, route: &TrafficRoute, target: usize) -> Result<Arc<Engine>, ApiError> {
        let target = &route.targets[target];
        let config = EngineConfig {
            name: format!("{model}@{}", target.name),
            endpoint: target.endpoint.clone(),
            models: vec![model.to_owned()],
            task: route.task,
            api_key_file: None,
            tls: None,
        };
        let made = Engine::new(&config, self.connect_timeout);
        made.map(Arc::new).map_err(|error| ApiError::invalid("invalid_route", error.to_string()))
    }

    fn check_engines(&self, model: &str, route: &TrafficRoute) -> Result<(), ApiError> {
        (0..route.targets.len()).try_for_each(|i| self.engine(model, route, i).map(drop))
    }

    /// Makes a route of a record. What was counted and the connections of targets that stay are kept. Also returns the engines
    /// that are new.
    fn learn(
        &self,
        model: &str,
        record: Record,
        revision: i64,
        before: Option<Known>,
    ) -> Result<(Known, Vec<Arc<Engine>>), ApiError> {
        let route = &record.route;
        let old_targets = || before.iter().flat_map(|known| &known.split.targets);
        let old: HashMap<String, &Target> = old_targets().map(|t| (t.name.clone(), t)).collect();
        let mut targets = Vec::with_capacity(route.targets.len());
        let mut fresh = Vec::new();
        for (i, wanted) in route.targets.iter().enumerate() {
            let old = old.get(&wanted.name);
            let same =
                old.filter(|old| old.engine.endpoint == wanted.endpoint && old.engine.task == route.task);
            let engine = if let Some(old) = same {
                old.engine.clone()
            } else {
                let engine = self.engine(model, route, i)?;
                // What was asked under another name is known: a version that takes over is asked at once.
                let known = old_targets().find(|old| {
                    old.engine.endpoint == wanted.endpoint
                        && old.engine.task == route.task
                        && old.engine.healthy()
                });
                if let Some(known) = known {
                    engine.take_after(&known.engine);
                }
                fresh.push(engine.clone());
                engine
            };
            let stats = match old {
                Some(old) => old.stats.clone(),
                None => Arc::new(TargetStats::new(self.metrics.of_target(model, &wanted.name))),
            };
            targets.push(Target {
                name: wanted.name.clone(),
                engine,
                headers: wanted.headers.clone(),
                copies: wanted.shadow.then_some(wanted.weight),
                percent: 0.0,
                stats,
            });
        }
        for (name, _) in
            old.iter().filter(|(name, _)| route.targets.iter().all(|target| target.name != **name))
        {
            self.metrics.forget_target(model, name);
        }
        let room = before.as_ref().map_or_else(
            || Arc::new(Room::new(self.metrics.of_room(model), self.entered.clone())),
            |known| known.split.room.clone(),
        );
        // What was seen, and concluded, of a canary counts for the run that it was seen of, whichever gateway was told to begin anew.
        let begun_ms = record.canary.as_ref().map_or(0, |state| state.begun_ms);
        let seen = route.canary.as_ref().and_then(|plan| {
            let watch = before.as_ref()?.watch.clone()?;
            watch.is_of(plan, begun_ms).then_some(watch)
        });
        let running = record.canary.as_ref().is_some_and(|state| state.phase == CanaryPhase::Running);
        let is_same_run = seen.is_some() && running;
        let watch = route.canary.as_ref().map(|plan| {
            seen.unwrap_or_else(|| {
                self.metrics.canary_begins(model, &plan.target);
                Arc::new(CanaryWatch::new(plan, begun_ms, self.alarm.clone()))
            })
        });
        let split = Split { model: model.to_owned(), targets, hold: route.hold, room };
        let kept = before.filter(|before| before.record.route.canary == record.route.canary);
        let (condemned, noted) = kept.map_or((None, None), |known| (known.condemned, known.noted));
        let condemned = condemned.filter(|_| is_same_run);
        let mut known = Known { record, revision, split: Arc::new(split), watch, condemned, noted };
        known.share();
        Ok((known, fresh))
    }

    /// Follows the store for ever, and says each time that all of it is known.
    pub async fn follow(self: Arc<Self>, known: impl Fn() + Send) {
        loop {
            let followed = async {
                let revision = self.reload().await?;
                known();
                self.kv.changed(&prefix(), revision).await
            };
            if let Err(error) = followed.await {
                tracing::warn!(%error, "routes are not followed; those known go on");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }

    /// Asks targets often whether they are there, while requests wait for them.
    pub async fn hurry(self: Arc<Self>) {
        loop {
            self.entered.notified().await;
            loop {
                let splits: Vec<Arc<Split>> =
                    self.known.lock().values().map(|known| known.split.clone()).collect();
                let awaited: Vec<Arc<Engine>> = splits
                    .iter()
                    .filter(|split| split.room.held() > 0)
                    .flat_map(|split| split.targets.iter().map(|target| target.engine.clone()))
                    .filter(|engine| !engine.healthy())
                    .collect();
                if awaited.is_empty() {
                    break;
                }
                self.engines.check_these(&awaited).await;
                tokio::time::sleep(HURRIED).await;
            }
        }
    }

    /// Tells the store that requests come, and at once that they wait: whoever starts and stops targets reads it.
    pub async fn tell_regularly(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if let Err(error) = self.tell().await {
                tracing::debug!(%error, "what comes and waits is told later");
            }
        }
    }

    async fn tell(&self) -> Result<(), KvError> {
        let now = now_ms();
        let due: Vec<(String, Activity)> = {
            let known = self.known.lock();
            known.iter().filter_map(|(model, known)| Some((model.clone(), known.news(now)?))).collect()
        };
        for (model, activity) in due {
            let change = Change::put_json(self.activity_key(&model), &activity);
            self.kv.change(&[], vec![change]).await?;
            if let Some(known) = self.known.lock().get_mut(&model) {
                known.noted = Some(activity);
            }
        }
        Ok(())
    }

    fn activity_key(&self, model: &str) -> String {
        format!("{}{}/{model}", activity_prefix(), self.instance)
    }

    /// What all gateways say, with key and model.
    async fn activity(&self) -> Result<Vec<(String, String, Activity)>, KvError> {
        let (entries, _) = self.kv.list(&activity_prefix()).await?;
        let prefix = activity_prefix();
        let read = |entry: crate::kv::Entry| {
            let (_, model) = entry.key.strip_prefix(&prefix)?.split_once('/')?;
            Some((entry.key.clone(), model.to_owned(), entry.json().ok()?))
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    fn unknown(&self, model: &str) -> ApiError {
        let known = self.known.lock();
        let near = closest(model, known.keys().map(String::as_str));
        let hint = match near.as_slice() {
            [] => "modelhub traffic show lists those that have".to_owned(),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        ApiError::not_found("no_route", format!("model {model} has no route of its own; {hint}"))
    }
}

fn check_model(model: &str) -> Result<(), ApiError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if model.is_empty() || model.len() > 256 || !model.chars().all(is_plain) {
        let message = "a model's name has up to 256 letters, digits and any of ._-/:@";
        return Err(ApiError::invalid("invalid_model", message));
    }
    Ok(())
}

fn check_expected(model: &str, expected: Expected, found: Option<i64>) -> Result<(), ApiError> {
    let holds = match expected {
        Expected::Any => true,
        Expected::Absent => found.is_none(),
        Expected::At(revision) => found == Some(revision),
    };
    if holds { Ok(()) } else { Err(changed_meanwhile(model)) }
}

fn changed_meanwhile(model: &str) -> ApiError {
    let message =
        format!("the route of {model} is not the one that was expected: read it again, and decide anew");
    ApiError::new(StatusCode::PRECONDITION_FAILED, "route_changed", message)
}
