//! Which artefact has which digest, and who refers to it.

use serde::{Deserialize, Serialize};

use super::artefacts::Written;
use crate::kv::{Change, Expect, Kv, KvError, ROOT};

/// An artefact's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Name of the object that holds it.
    pub object: String,
    /// Its length.
    pub bytes: u64,
    /// Files that refer to it, as `model/version/path`.
    pub referrers: Vec<String>,
}

fn blob_key(sha256: &str) -> String {
    format!("{ROOT}blobs/{sha256}")
}

/// A change of an artefact's record, to be made in one transaction with the version's.
#[derive(Debug)]
pub struct BlobChange {
    /// What must still hold.
    pub expect: Expect,
    /// What to write.
    pub change: Change,
    /// An object that nothing refers to once the transaction is through.
    pub orphan: Option<(String, u64)>,
}

/// The record of an artefact.
pub async fn find(kv: &Kv, sha256: &str) -> Result<Option<Blob>, KvError> {
    Ok(kv.get_json(&blob_key(sha256)).await?.map(|(blob, _)| blob))
}

/// Adds a referrer. `written` is a fresh object with that content; when another one exists already, the fresh one is the orphan.
/// `None` when there is neither.
pub async fn refer(
    kv: &Kv,
    sha256: &str,
    referrer: &str,
    written: Option<&Written>,
) -> Result<Option<(BlobChange, u64)>, KvError> {
    let key = blob_key(sha256);
    if let Some((mut blob, revision)) = kv.get_json::<Blob>(&key).await? {
        if !blob.referrers.iter().any(|r| r == referrer) {
            blob.referrers.push(referrer.to_owned());
        }
        let orphan = written.filter(|w| w.object != blob.object).map(|w| (w.object.clone(), w.bytes));
        let change = Change::put_json(key.clone(), &blob);
        return Ok(Some((BlobChange { expect: Expect::At(key, revision), change, orphan }, blob.bytes)));
    }
    let Some(written) = written else { return Ok(None) };
    let blob =
        Blob { object: written.object.clone(), bytes: written.bytes, referrers: vec![referrer.to_owned()] };
    let change = Change::put_json(key.clone(), &blob);
    Ok(Some((BlobChange { expect: Expect::Absent(key), change, orphan: None }, blob.bytes)))
}

/// Removes a referrer; the last one takes the record with it.
pub async fn release(kv: &Kv, sha256: &str, referrer: &str) -> Result<Option<BlobChange>, KvError> {
    let key = blob_key(sha256);
    let Some((mut blob, revision)) = kv.get_json::<Blob>(&key).await? else { return Ok(None) };
    blob.referrers.retain(|r| r != referrer);
    let (change, orphan) = if blob.referrers.is_empty() {
        (Change::Delete(key.clone()), Some((blob.object, blob.bytes)))
    } else {
        (Change::put_json(key.clone(), &blob), None)
    };
    Ok(Some(BlobChange { expect: Expect::At(key, revision), change, orphan }))
}
