//! Backups of a KVCluster in object storage, through its Secret: what is said when a key is wrong, that mending it is enough, and that a
//! bucket that lets nothing go makes no second backup of one. The bucket is a double that knows a key by its name; servers that check
//! signatures, and the other protocols, are in `e2e/peers/storages`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use aistack_crds::KVCluster;
use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use e2e::story::{message, says};
use e2e::{Story, wait};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;

use super::clients::Writers;
use super::day_two::{founded, is_done, now};
use super::drill::said;
use super::monitor::until_at_rest;

/// The one key that is let in.
const KEY: &str = "team";

#[derive(Default)]
struct Inside {
    objects: BTreeMap<String, Bytes>,
    /// Nothing is deleted.
    is_locked: bool,
}

/// A bucket of S3's protocol, as far as backups ask.
#[derive(Clone)]
struct Bucket {
    url: String,
    inside: Arc<Mutex<Inside>>,
}

impl Bucket {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let bucket = Self { url: format!("http://{}", listener.local_addr()?), inside: Arc::default() };
        let router = Router::new().fallback(answer).with_state(bucket.clone());
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("bucket: {error}");
            }
        });
        Ok(bucket)
    }

    fn names(&self) -> Vec<String> {
        self.inside.lock().objects.keys().cloned().collect()
    }
}

fn refused(status: StatusCode, code: &str) -> Response {
    (status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>")).into_response()
}

async fn answer(
    State(bucket): State<Bucket>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let signed = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !signed.contains(&format!("Credential={KEY}/")) {
        return refused(StatusCode::FORBIDDEN, "InvalidAccessKeyId");
    }
    let mut inside = bucket.inside.lock();
    let name = uri.path().trim_start_matches("/backups").trim_start_matches('/').to_owned();
    match (method, name.is_empty()) {
        (Method::GET, true) => {
            let mut list = "<ListBucketResult>".to_owned();
            for (name, bytes) in &inside.objects {
                let size = bytes.len();
                let _ = write!(
                    list,
                    "<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                );
            }
            (list + "</ListBucketResult>").into_response()
        }
        (Method::POST, true) if inside.is_locked => refused(StatusCode::FORBIDDEN, "AccessDenied"),
        (Method::POST, true) => {
            let asked = String::from_utf8_lossy(&body).into_owned();
            inside.objects.retain(|name, _| !asked.contains(&format!("<Key>{name}</Key>")));
            "<DeleteResult></DeleteResult>".into_response()
        }
        (Method::PUT, false) => {
            inside.objects.insert(name, body);
            [(header::ETAG, "\"one\"")].into_response()
        }
        (Method::GET, false) => match inside.objects.get(&name) {
            Some(bytes) => {
                let told =
                    [(header::ETAG, "\"one\""), (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")];
                (told, bytes.clone()).into_response()
            }
            None => refused(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        _ => refused(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

async fn give_key(story: &Story, key: &str) -> Result<()> {
    story.edit::<Secret>("keys", &json!({"stringData": {"AWS_ACCESS_KEY_ID": key}})).await
}

/// Waits until the object says so of its last backup.
async fn until_backed_up(story: &Story, reason: &str) -> Result<()> {
    let is_said = |kv: &KVCluster| {
        let conditions = kv.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
        says(conditions, "BackedUp", reason)
    };
    story.until::<KVCluster>("kv", &format!("BackedUp: {reason}"), is_said).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_go_to_a_bucket_and_come_back() -> Result<()> {
    let Some((bed, story)) = founded("bucket", 1).await? else { return Ok(()) };
    let bucket = Bucket::start().await?;
    let writers = Writers::begin(bed, "bucket", 3);
    wait::until("there is something", || async { Ok((writers.done() > 20).then_some(())) }).await?;
    writers.end(bed, "bucket").await?;
    let keys = json!({"metadata": {"name": "keys"}, "stringData": {"AWS_ACCESS_KEY_ID": "another",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": bucket.url}});
    story.api::<Secret>().create(&PostParams::default(), &serde_json::from_value(keys)?).await?;
    let backup =
        json!({"schedule": "* * * * *", "destination": "s3://backups/kv", "keep": 1, "secretName": "keys"});
    story.edit::<KVCluster>("kv", &json!({"spec": {"backup": backup}})).await?;
    story.until::<CronJob>("kv-backup", "its schedule", |_| true).await?;
    let wrong = said(&story, &now(&story, "backup").await?, "Failed").await?;
    let words = "the credentials are wrong, or are not allowed this; they come from the environment (AWS_ACCESS_KEY_ID";
    ensure!(wrong.contains(words), "{wrong}");
    until_backed_up(&story, "BackupFailed").await?;
    ensure!(bucket.names().is_empty(), "nothing is there: {:?}", bucket.names());
    give_key(&story, KEY).await?;
    until_backed_up(&story, "Taken").await?;

    // From here on by hand.
    let daily = json!({"spec": {"backup": {"schedule": "0 3 * * *"}}});
    story.edit::<KVCluster>("kv", &daily).await?;
    let is_idle = |job: &CronJob| {
        let active = job.status.as_ref().and_then(|status| status.active.as_ref());
        job.spec.schedule == "0 3 * * *" && active.is_none_or(Vec::is_empty)
    };
    story.until::<CronJob>("kv-backup", "none is under way", is_idle).await?;
    bucket.inside.lock().is_locked = true;
    let before = bucket.names();
    let job = now(&story, "backup").await?;
    story.until(&job, "the backup is taken, and the older one stays", is_done).await?;
    let warned = said(&story, &job, "Succeeded").await?;
    ensure!(warned.contains("warning: older backups were not deleted (--keep)"), "{warned}");
    let now_there = bucket.names();
    ensure!(now_there.len() == before.len() + 1, "one more of {before:?}: {now_there:?}");

    // A cluster begins with the newest, once its key is the right one.
    give_key(&story, "another").await?;
    let newest = now_there.last().context("a backup")?;
    let source = format!("s3://backups/{newest}");
    let copy = json!({"apiVersion": "platform.dev/v1", "kind": "KVCluster", "metadata": {"name": "copy"},
        "spec": {"replicas": 1, "storage": "1Gi", "restore": {"source": source, "secretName": "keys"}}});
    story.apply(&copy.to_string()).await?;
    let told = |kv: &KVCluster| {
        let conditions = kv.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
        message(conditions, "Degraded").contains("the credentials are wrong")
    };
    story.until::<KVCluster>("copy", "it says why its first member does not begin", told).await?;
    give_key(&story, KEY).await?;
    until_at_rest(&story, "copy", 1).await?;
    let live =
        bed.hollow.live("bucket").into_iter().find(|live| live.name == "copy-0").context("a member")?;
    let mut client = etcd_client::Client::connect([format!("http://{}:2379", live.address)], None).await?;
    let prefix = etcd_client::GetOptions::new().with_prefix();
    let found = client.get("writer-", Some(prefix)).await?;
    ensure!(found.kvs().len() == 3, "what was there is there: {found:?}");
    story.operator.stop().await
}
