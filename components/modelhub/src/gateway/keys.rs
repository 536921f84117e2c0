//! API keys: made once, shown once, kept as SHA-256 digests in the key-value store, counted per key.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::quota::{Gate, KeyLimits, Refusal};
use super::usage::Usage;
use crate::error::ApiError;
use crate::kv::{Change, Expect, Kv, KvError, ROOT};

/// A key as it is stored: everything but the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Public part; names the key in commands and logs.
    pub id: String,
    /// What its maker called it.
    pub name: String,
    /// SHA-256 of the whole key, in hex.
    pub sha256: String,
    /// What it may do.
    #[serde(default)]
    pub limits: KeyLimits,
    /// Creation time, Unix milliseconds.
    pub created_ms: u64,
}

/// What a key has used since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyUsage {
    /// Requests that reached an engine.
    pub requests: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
}

impl KeyUsage {
    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
        }
    }
}

/// A key in use.
#[derive(Debug)]
pub struct KeyState {
    /// Its record.
    pub record: KeyRecord,
    gate: Mutex<Gate>,
    unsaved: [AtomicU64; 3],
}

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody in particular; only where keys are not required.
    Anonymous,
    /// The administrator.
    Admin,
    /// A key's holder.
    Key(Arc<KeyState>),
}

/// All keys of the store, kept current by a watch.
#[derive(Debug)]
pub struct Keys {
    kv: Kv,
    required: bool,
    admin: ArcSwapOption<[u8; 32]>,
    by_digest: ArcSwap<HashMap<[u8; 32], Arc<KeyState>>>,
    /// Whether the store was ever read.
    are_read: AtomicBool,
    /// Moment that the gates count from.
    epoch: Instant,
}

/// Prefix of the keys' records.
fn keys_prefix() -> String {
    format!("{ROOT}keys/")
}

fn usage_key(id: &str) -> String {
    format!("{ROOT}usage/{id}")
}

impl Keys {
    /// Keys of a store; `admin` is the administrator's key in plain text, if there is one.
    pub fn new(kv: Kv, required: bool, admin: Option<&str>) -> Self {
        let admin = ArcSwapOption::new(admin.map(digest));
        let by_digest = ArcSwap::from_pointee(HashMap::new());
        Self { kv, required, admin, by_digest, are_read: AtomicBool::new(false), epoch: Instant::now() }
    }

    /// Replaces the administrator's key.
    pub fn set_admin(&self, key: &str) {
        self.admin.store(Some(digest(key)));
    }

    /// Names the caller of a request, or refuses.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let Some(key) = presented(headers) else {
            if self.required {
                let message = "this server asks for an API key: send  Authorization: Bearer <key>  (modelhub keys create makes one)";
                return Err(ApiError::new(StatusCode::UNAUTHORIZED, "missing_api_key", message));
            }
            return Ok(Caller::Anonymous);
        };
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        if self.admin.load().as_ref().is_some_and(|admin| same(admin, &digest)) {
            return Ok(Caller::Admin);
        }
        if let Some(state) = self.by_digest.load().get(&digest) {
            return Ok(Caller::Key(state.clone()));
        }
        if self.required || key.starts_with(PREFIX) {
            if !self.are_read.load(Ordering::Relaxed) {
                let message = "the keys could not be read yet: the key-value store does not answer";
                return Err(ApiError::unavailable("kv_store_unavailable", message, 2));
            }
            let message = "this API key is unknown or was revoked: modelhub keys list shows the valid ones";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
        }
        // Where no key is asked for, OpenAI clients still send a placeholder.
        Ok(Caller::Anonymous)
    }

    /// Refuses callers who may not manage keys, models and rags.
    pub fn require_admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match self.caller(headers)? {
            Caller::Admin => Ok(()),
            Caller::Anonymous | Caller::Key(_) if self.admin.load().is_none() => Ok(()),
            Caller::Anonymous | Caller::Key(_) => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "admin_key_required",
                "this needs the administrator's key: set AISTACK_API_KEY to the content of keys.admin_key_file",
            )),
        }
    }

    /// Lets a caller's request in, within the key's limits.
    pub fn admit(self: &Arc<Self>, caller: &Caller, tokens: u64) -> Result<Option<Admission>, ApiError> {
        let Caller::Key(state) = caller else { return Ok(None) };
        let entered = state.gate.lock().enter(tokens, self.epoch.elapsed());
        entered.map_err(|refusal| too_many(&state.record, &refusal))?;
        Ok(Some(Admission { key: state.clone(), reserved: tokens, used: None }))
    }

    /// Makes a key and returns it with its record. It cannot be shown again.
    pub async fn create(&self, name: &str, limits: KeyLimits) -> Result<(String, KeyRecord), ApiError> {
        check_new(name, &limits)?;
        let id = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let secret = uuid::Uuid::new_v4().simple().to_string() + &uuid::Uuid::new_v4().simple().to_string();
        let key = format!("{PREFIX}{id}-{secret}");
        let record = KeyRecord {
            sha256: hex::encode(Sha256::digest(key.as_bytes())),
            id: id.clone(),
            name: name.to_owned(),
            limits,
            created_ms: crate::now_ms(),
        };
        let at = format!("{}{id}", keys_prefix());
        if !self.kv.change(&[Expect::Absent(at.clone())], vec![Change::put_json(at.clone(), &record)]).await?
        {
            return Err(KvError::Contended { key: at }.into());
        }
        self.reload().await?;
        Ok((key, record))
    }

    /// All keys with what they used, unsaved counts of this process included.
    pub async fn list(&self) -> Result<Vec<(KeyRecord, KeyUsage)>, ApiError> {
        self.save_usage().await?;
        let (entries, _) = self.kv.list(&keys_prefix()).await?;
        let mut out = Vec::with_capacity(entries.len());
        for entry in entries {
            let record: KeyRecord = entry.json()?;
            let usage =
                self.kv.get_json(&usage_key(&record.id)).await?.map_or_else(KeyUsage::default, |(u, _)| u);
            out.push((record, usage));
        }
        Ok(out)
    }

    /// Revokes a key at once here, and within the watch's delay elsewhere.
    pub async fn revoke(&self, id: &str) -> Result<KeyRecord, ApiError> {
        let at = format!("{}{id}", keys_prefix());
        let Some((record, _)) = self.kv.get_json::<KeyRecord>(&at).await? else {
            let message = format!("there is no key {id}: modelhub keys list shows the ids");
            return Err(ApiError::not_found("key_not_found", message));
        };
        self.kv.change(&[], vec![Change::Delete(at), Change::Delete(usage_key(id))]).await?;
        self.reload().await?;
        Ok(record)
    }

    /// Reads all keys anew; returns the store's revision.
    pub async fn reload(&self) -> Result<i64, KvError> {
        let (entries, revision) = self.kv.list(&keys_prefix()).await?;
        let before = self.by_digest.load();
        let mut next = HashMap::with_capacity(entries.len());
        for entry in entries {
            let record: KeyRecord = match entry.json() {
                Ok(record) => record,
                Err(error) => {
                    // The others work all the same.
                    tracing::warn!(%error, "the key does not work");
                    continue;
                }
            };
            let mut digest = [0; 32];
            if hex::decode_to_slice(&record.sha256, &mut digest).is_err() {
                tracing::warn!(key = record.id, "its digest is not readable; the key does not work");
                continue;
            }
            // A key that goes on keeps its buckets and counts.
            let kept = before.get(&digest).filter(|state| state.record.limits == record.limits).cloned();
            let state = kept.unwrap_or_else(|| {
                let gate = Mutex::new(Gate::new(record.limits.clone(), self.epoch.elapsed()));
                Arc::new(KeyState { record, gate, unsaved: Default::default() })
            });
            next.insert(digest, state);
        }
        self.by_digest.store(Arc::new(next));
        self.are_read.store(true, Ordering::Relaxed);
        Ok(revision)
    }

    /// Follows the store for ever, and says each time that all of it is known.
    pub async fn follow(self: Arc<Self>, known: impl Fn() + Send) {
        loop {
            let followed = async {
                let revision = self.reload().await?;
                known();
                self.kv.changed(&keys_prefix(), revision).await
            };
            if let Err(error) = followed.await {
                tracing::warn!(%error, "API keys are not followed; those known stay valid");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }

    /// Adds what was counted here to the store's totals.
    pub async fn save_usage(&self) -> Result<(), KvError> {
        let states: Vec<Arc<KeyState>> = self.by_digest.load().values().cloned().collect();
        for state in states {
            let counted = state.take_unsaved();
            if counted == KeyUsage::default() {
                continue;
            }
            let at = usage_key(&state.record.id);
            let saved = self
                .kv
                .update(&at, |total: Option<KeyUsage>| {
                    Ok::<_, KvError>(Some(total.unwrap_or_default().plus(counted)))
                })
                .await;
            if let Err(error) = saved {
                state.count(counted);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Saves usage every few seconds, for ever.
    pub async fn save_usage_regularly(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            if let Err(error) = self.save_usage().await {
                tracing::warn!(%error, "usage is kept in memory until the store is back");
            }
        }
    }
}

/// What our keys begin with.
const PREFIX: &str = "mh-";

impl KeyState {
    fn count(&self, usage: KeyUsage) {
        let parts = [usage.requests, usage.prompt_tokens, usage.completion_tokens];
        for (counter, part) in self.unsaved.iter().zip(parts) {
            counter.fetch_add(part, Ordering::Relaxed);
        }
    }

    fn take_unsaved(&self) -> KeyUsage {
        let [requests, prompt_tokens, completion_tokens] =
            [0, 1, 2].map(|i: usize| self.unsaved[i].swap(0, Ordering::Relaxed));
        KeyUsage { requests, prompt_tokens, completion_tokens }
    }
}

/// A request inside a key's limits; leaving settles the account.
#[derive(Debug)]
pub struct Admission {
    key: Arc<KeyState>,
    reserved: u64,
    used: Option<Usage>,
}

impl Admission {
    /// Notes what was used, on top of what was noted before.
    pub fn settle(&mut self, usage: Usage) {
        let before = self.used.unwrap_or_default();
        self.used = Some(Usage {
            prompt: before.prompt + usage.prompt,
            completion: before.completion + usage.completion,
            reported: usage.reported,
        });
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let used = self.used.unwrap_or_default();
        self.key.gate.lock().leave(self.reserved, used.prompt + used.completion);
        if self.used.is_some() {
            self.key.count(KeyUsage {
                requests: 1,
                prompt_tokens: used.prompt,
                completion_tokens: used.completion,
            });
        }
    }
}

fn digest(key: &str) -> Arc<[u8; 32]> {
    Arc::new(Sha256::digest(key.as_bytes()).into())
}

/// Refuses keys that nobody could tell apart, and limits that let nothing through.
fn check_new(name: &str, limits: &KeyLimits) -> Result<(), ApiError> {
    if name.trim().is_empty() {
        return Err(ApiError::invalid(
            "invalid_name",
            "a key needs a name that says whose it is, such as  ci",
        ));
    }
    let parts = [
        ("requests_per_minute", limits.requests_per_minute),
        ("tokens_per_minute", limits.tokens_per_minute),
        ("concurrency", limits.concurrency),
    ];
    if let Some((limit, _)) = parts.into_iter().find(|(_, value)| *value == Some(0)) {
        let message =
            format!("{limit} is 0, which would let nothing through: give 1 or more, or leave it out");
        return Err(ApiError::invalid("invalid_limit", message));
    }
    Ok(())
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().ok()?;
        // A scheme's case means nothing; a key sent without one is a key all the same, and not nobody.
        let key = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        return Some(key.map_or(text, |(_, key)| key).trim());
    }
    headers.get("x-api-key")?.to_str().ok()
}

/// Equality whose time does not depend on where two digests differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

fn too_many(record: &KeyRecord, refusal: &Refusal) -> ApiError {
    let Refusal { limit, value, retry_after } = refusal;
    let message = format!(
        "key {} ({}) is limited to {value} {limit}; try again in {retry_after} s",
        record.id, record.name
    );
    ApiError {
        retry_after: Some(*retry_after),
        ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
    }
}
