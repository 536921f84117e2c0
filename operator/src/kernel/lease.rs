//! Which of several operators leads: a Lease, held by whoever renews it in time.
//!
//! The times are client-go's. Candidates watch the Lease, so that one that is given back is taken at once; one whose holder
//! is gone is taken when it was not renewed for its duration by the candidate's own clock, since clocks differ.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};

/// The label of an operator's Lease.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/name", "aistack-operator");
/// The annotation that names the namespace which its holder looks after; empty for all of them.
pub const WATCHED: &str = "platform.dev/watches";

/// How a Lease is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are; no two processes may be the same.
    pub identity: String,
    /// The namespace that who leads looks after; none for all of them.
    pub watched: Option<String>,
    /// How long it holds after it was renewed.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// How long it is tried to renew it before we give up; less than the duration, so that no two lead.
    pub deadline: Duration,
}

impl LeaseSettings {
    /// Fifteen seconds, renewed each five, given up after ten.
    pub fn new(namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: "aistack-operator".to_owned(),
            identity: identity.into(),
            watched: None,
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
        }
    }
}

/// We lead no more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another took it.
    #[error("the Lease {lease} is held by {holder}")]
    Taken {
        /// Which.
        lease: String,
        /// By whom.
        holder: String,
    },
    /// It could not be renewed in time.
    #[error("the Lease {lease} could not be renewed for {} s: {reason}", .deadline.as_secs())]
    Expired {
        /// Which.
        lease: String,
        /// How long.
        deadline: Duration,
        /// Why.
        reason: String,
    },
}

/// The candidate. Its client is its own: reconciliations by the thousand must not keep a Lease from being renewed.
pub struct Election {
    api: Api<Lease>,
    settings: LeaseSettings,
}

/// The Lease as we wrote it last.
pub struct Held {
    lease: Lease,
    renewed: Instant,
}

impl Election {
    /// A candidate that has not asked yet.
    pub fn new(client: Client, settings: LeaseSettings) -> Self {
        Self { api: Api::namespaced(client, &settings.namespace), settings }
    }

    /// Waits until we lead.
    pub async fn acquire(&self) -> Held {
        let fields = format!("metadata.name={}", self.settings.name);
        let changes = watcher(self.api.clone(), watcher::Config::default().fields(&fields)).default_backoff();
        tokio::pin!(changes);
        // What the present holder's Lease looked like, and since when it does.
        let mut seen: Option<(String, Instant)> = None;
        loop {
            let attempt = tokio::time::timeout(self.settings.deadline, self.attempt(&mut seen)).await;
            let wait = match attempt.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into()))) {
                Ok(Attempt::Won(held)) => return *held,
                Ok(Attempt::HeldFor(wait)) => wait,
                Err(error) => {
                    tracing::warn!(%error, lease = self.settings.name, "the Lease could not be asked for");
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = changes.next() => {}
            }
        }
    }

    async fn attempt(&self, seen: &mut Option<(String, Instant)>) -> Result<Attempt, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.settings.name).await? else {
            let lease = self.mine(None);
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if !holder.is_empty() && holder != self.settings.identity {
            let version = lease.resource_version().unwrap_or_default();
            let since = match seen {
                Some((known, since)) if *known == version => *since,
                _ => seen.insert((version, Instant::now())).1,
            };
            let duration =
                Duration::from_secs(spec.lease_duration_seconds.unwrap_or(15).unsigned_abs().into());
            let left = duration.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Ok(Attempt::HeldFor(left));
            }
        }
        let lease = self.mine(Some(lease));
        won(self.api.replace(&self.settings.name, &PostParams::default(), &lease).await)
    }

    /// Renews it until that fails for too long, or another has it.
    pub async fn keep(&self, held: &mut Held) -> Lost {
        loop {
            tokio::time::sleep(self.settings.renew.saturating_sub(held.renewed.elapsed())).await;
            let reason = loop {
                let began = Instant::now();
                match self.renew(held).await {
                    Ok(None) => {
                        held.renewed = began;
                        break None;
                    }
                    Ok(Some(lost)) => return lost,
                    Err(error) if held.renewed.elapsed() >= self.settings.deadline => break Some(error),
                    Err(error) => {
                        tracing::warn!(%error, "the Lease could not be renewed; it is tried again");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            };
            if let Some(reason) = reason {
                return Lost::Expired {
                    lease: self.settings.name.clone(),
                    deadline: self.settings.deadline,
                    reason: super::apply::said(&reason),
                };
            }
        }
    }

    async fn renew(&self, held: &mut Held) -> Result<Option<Lost>, kube::Error> {
        if let Some(spec) = &mut held.lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let left =
            self.settings.deadline.saturating_sub(held.renewed.elapsed()).max(Duration::from_millis(100));
        // One bound for both calls: without an answer to either, another leads soon.
        let wrote = tokio::time::timeout(left, self.write(&mut held.lease)).await;
        wrote.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
    }

    async fn write(&self, held: &mut Lease) -> Result<Option<Lost>, kube::Error> {
        match self.api.replace(&self.settings.name, &PostParams::default(), held).await {
            Ok(lease) => {
                *held = lease;
                Ok(None)
            }
            // Somebody else wrote it; that may have been anything, such as a label.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let lease = self.api.get(&self.settings.name).await?;
                let holder =
                    lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
                if holder != self.settings.identity {
                    return Ok(Some(Lost::Taken { lease: self.settings.name.clone(), holder }));
                }
                *held = lease;
                Err(kube::Error::Api(status))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives it back, so that the next one need not wait.
    pub async fn release(&self, mut held: Held) {
        if let Some(spec) = &mut held.lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        let replaced = self.api.replace(&self.settings.name, &params, &held.lease);
        match tokio::time::timeout(Duration::from_secs(5), replaced).await {
            Ok(Ok(_)) => tracing::info!(lease = self.settings.name, "gave the Lease back"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be given back; it expires"),
            Err(_) => tracing::warn!("the Lease could not be given back in time; it expires"),
        }
    }

    fn mine(&self, before: Option<Lease>) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let turns = before.as_ref().and_then(|lease| lease.spec.as_ref()?.lease_transitions);
        let mut metadata = before.map_or_else(
            || ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata,
        );
        // By these `kubectl aistack doctor` finds it, whatever the release is called.
        metadata.labels.get_or_insert_default().insert(LABEL.0.to_owned(), LABEL.1.to_owned());
        let watched = self.settings.watched.clone().unwrap_or_default();
        metadata.annotations.get_or_insert_default().insert(WATCHED.to_owned(), watched);
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.identity.clone()),
                acquire_time: now.clone(),
                renew_time: now,
                lease_duration_seconds: Some(i32::try_from(self.settings.duration.as_secs()).unwrap_or(15)),
                lease_transitions: Some(turns.map_or(0, |turns| turns.saturating_add(1))),
                ..LeaseSpec::default()
            }),
        }
    }
}

enum Attempt {
    Won(Box<Held>),
    HeldFor(Duration),
}

/// Another candidate may have been quicker: then it is asked again.
fn won(written: Result<Lease, kube::Error>) -> Result<Attempt, kube::Error> {
    match written {
        Ok(lease) => Ok(Attempt::Won(Box::new(Held { lease, renewed: Instant::now() }))),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Ok(Attempt::HeldFor(Duration::from_millis(50)))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;

    /// Each try is answered with a conflict, and the look at who wrote is never answered.
    #[tokio::test]
    async fn a_lease_that_cannot_be_looked_at_is_given_up() {
        let answer = |request: http::Request<Body>| async move {
            if request.method() == http::Method::GET {
                std::future::pending::<()>().await;
            }
            let body =
                serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409});
            let answer =
                http::Response::builder().status(409).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, std::convert::Infallible>(answer.expect("an answer"))
        };
        let settings = LeaseSettings {
            renew: Duration::from_millis(1),
            deadline: Duration::from_millis(50),
            ..LeaseSettings::new("n", "me")
        };
        let election = Election::new(Client::new(tower::service_fn(answer), "n"), settings);
        let mut held = Held { lease: election.mine(None), renewed: Instant::now() };
        let lost = tokio::time::timeout(Duration::from_secs(20), election.keep(&mut held)).await;
        assert!(matches!(lost, Ok(Lost::Expired { .. })), "{lost:?}");
    }
}
