//! Versions and their files.

use aistack_api::registry::{
    Deleted, FileInfo, Lineage, ModelInfo, Update, VersionCreate, VersionInfo, VersionList,
};
use bytes::Bytes;
use futures::Stream;
use object_store::GetResult;

use super::artefacts::Written;
use super::{Registry, apply, blobs, gone, model_key};
use crate::error::ApiError;
use crate::kv::{Change, Expect, KvError, ROOT};
use crate::now_ms;

/// How often a change is decided anew when others change the same records.
const TRIES: usize = 32;

fn versions_prefix(model: &str) -> String {
    format!("{ROOT}versions/{model}/")
}

/// Numbers are padded so that key order is number order.
fn version_key(model: &str, version: u64) -> String {
    format!("{}{version:08}", versions_prefix(model))
}

fn referrer(model: &str, version: u64, path: &str) -> String {
    format!("{model}/{version}/{path}")
}

/// Refuses what names no version: a number, or `latest`.
pub fn check_version(version: &str) -> Result<(), ApiError> {
    if version == "latest" || version.parse::<u64>().is_ok_and(|_| !version.starts_with('+')) {
        return Ok(());
    }
    let message = format!("{version:?} is no version: give a number or  latest");
    Err(ApiError::invalid("invalid_version", message))
}

impl Registry {
    /// Adds a version: the next number, whoever else adds one at the same time.
    pub async fn create_version(&self, model: &str, request: VersionCreate) -> Result<VersionInfo, ApiError> {
        super::check_labels(request.labels.keys())?;
        self.check_lineage(request.lineage.as_ref()).await?;
        request.files.iter().try_for_each(|path| crate::rag::check_path(path))?;
        let mut awaiting = request.files.clone();
        awaiting.sort();
        awaiting.dedup();
        for _ in 0..TRIES {
            let (info, revision) = self.read(model).await?;
            let now = now_ms();
            let version = VersionInfo {
                model: model.to_owned(),
                version: info.latest_version.max(info.newest_version) + 1,
                description: request.description.clone(),
                labels: request.labels.clone(),
                schema: request.schema.clone(),
                lineage: request.lineage.clone(),
                files: Vec::new(),
                awaiting: awaiting.clone(),
                created_ms: now,
            };
            let next = ModelInfo { newest_version: version.version, updated_ms: now, ..info };
            let key = version_key(model, version.version);
            let expected = [Expect::At(model_key(model), revision), Expect::Absent(key.clone())];
            let changes = vec![Change::put_json(model_key(model), &next), Change::put_json(key, &version)];
            if self.kv.change(&expected, changes).await? {
                return Ok(version);
            }
        }
        Err(KvError::Contended { key: model_key(model) }.into())
    }

    /// All versions of a model, oldest first.
    pub async fn versions(&self, model: &str) -> Result<VersionList, ApiError> {
        self.get(model).await?;
        let (entries, _) = self.kv.list(&versions_prefix(model)).await?;
        let versions = entries.iter().map(crate::kv::Entry::json).collect::<Result<_, _>>()?;
        Ok(VersionList { versions })
    }

    /// One version by number or as `latest`.
    pub async fn version(&self, model: &str, version: &str) -> Result<VersionInfo, ApiError> {
        check_version(version)?;
        match version.parse() {
            Ok(number) => self.read_version(model, number).await.map(|(version, _)| version),
            Err(_) => self.latest(model).await,
        }
    }

    /// The newest version whose files are all here.
    async fn latest(&self, model: &str) -> Result<VersionInfo, ApiError> {
        let mut number = self.get(model).await?.latest_version;
        // A record of before may name one that is not whole.
        for _ in 0..2 {
            let key = version_key(model, number);
            if let Some((found, _)) = self.kv.get_json::<VersionInfo>(&key).await?
                && found.is_complete()
            {
                return Ok(found);
            }
            number = self.newest_complete(model, 0).await?;
        }
        let unfinished = self.versions(model).await?.versions.pop();
        let message = match unfinished {
            Some(last) => format!(
                "model {model} has no complete version: the upload of {model}:{} is under way or was broken off; \
                 push again with  modelhub models push {model} FILE",
                last.version
            ),
            None => {
                format!("model {model} has no version yet; add one with  modelhub models push {model} FILE")
            }
        };
        Err(ApiError::not_found("version_not_found", message))
    }

    /// Number of the newest complete version other than `except`; 0 when there is none.
    async fn newest_complete(&self, model: &str, except: u64) -> Result<u64, KvError> {
        let (entries, _) = self.kv.list(&versions_prefix(model)).await?;
        for entry in entries.iter().rev() {
            let version: VersionInfo = entry.json()?;
            if version.is_complete() && version.version != except {
                return Ok(version.version);
            }
        }
        Ok(0)
    }

    /// The change that takes `latest` off a version that goes, when it is that.
    async fn latest_leaves(&self, model: &str, version: u64) -> Result<Option<(Expect, Change)>, ApiError> {
        let Some((info, revision)) = self.kv.get_json::<ModelInfo>(&model_key(model)).await? else {
            return Ok(None);
        };
        if info.latest_version != version {
            return Ok(None);
        }
        let latest_version = self.newest_complete(model, version).await?;
        // Its number is not given again.
        let newest_version = info.newest_version.max(version);
        let next = ModelInfo { latest_version, newest_version, updated_ms: now_ms(), ..info };
        let change = Change::put_json(model_key(model), &next);
        Ok(Some((Expect::At(model_key(model), revision), change)))
    }

    /// Refuses a parent that is not here.
    async fn check_lineage(&self, lineage: Option<&Lineage>) -> Result<(), ApiError> {
        let Some(parent) = lineage.and_then(|lineage| lineage.parent.as_deref()) else { return Ok(()) };
        let wrong = |why: &str| ApiError::invalid("invalid_parent", format!("parent {parent}: {why}"));
        let Some((model, version)) = parent.split_once(':') else {
            return Err(wrong("write MODEL:VERSION, such as sentiment:1"));
        };
        match self.version(model, version).await {
            Err(error) if error.status.is_client_error() => Err(wrong(&error.message)),
            other => other.map(|_| ()),
        }
    }

    async fn read_version(&self, model: &str, version: u64) -> Result<(VersionInfo, i64), ApiError> {
        if let Some(found) = self.kv.get_json(&version_key(model, version)).await? {
            return Ok(found);
        }
        let latest = self.get(model).await?.latest_version;
        let message = format!(
            "model {model} has no version {version}; its latest is {latest} (modelhub models show {model})"
        );
        Err(ApiError::not_found("version_not_found", message))
    }

    /// Changes a version's description, labels, schema and lineage.
    pub async fn update_version(
        &self,
        model: &str,
        version: u64,
        update: Update,
    ) -> Result<VersionInfo, ApiError> {
        super::check_labels(update.labels.keys())?;
        self.check_lineage(update.lineage.as_ref()).await?;
        self.read_version(model, version).await?;
        let what = || gone(&format!("version {version} of {model}"));
        let decide = |info: Option<VersionInfo>| {
            let mut info = info.ok_or_else(what)?;
            apply(&mut info.description, &mut info.labels, &update);
            info.schema = update.schema.clone().or(info.schema);
            info.lineage = update.lineage.clone().or(info.lineage);
            Ok::<_, ApiError>(Some(info))
        };
        self.kv.update(&version_key(model, version), decide).await?.ok_or_else(what)
    }

    /// Deletes a version and the artefacts that nothing else refers to.
    pub async fn delete_version(&self, model: &str, version: u64) -> Result<Deleted, ApiError> {
        let mut freed_bytes = 0;
        // Files go one by one, each in a transaction of its own: a version may have more files than a transaction has room.
        for _ in 0..100_000 {
            let (info, revision) = self.read_version(model, version).await?;
            let key = version_key(model, version);
            let mut expected = vec![Expect::At(key.clone(), revision)];
            let mut changes = Vec::new();
            if let Some((expect, change)) = self.latest_leaves(model, version).await? {
                expected.push(expect);
                changes.push(change);
            }
            let Some(file) = info.files.first().cloned() else {
                changes.push(Change::Delete(key));
                if self.kv.change(&expected, changes).await? {
                    return Ok(Deleted { deleted: format!("{model}:{version}"), freed_bytes });
                }
                continue;
            };
            // A deletion that breaks off leaves a version that says what it lacks.
            let awaiting = [info.awaiting.as_slice(), std::slice::from_ref(&file.path)].concat();
            let next = VersionInfo { files: info.files[1..].to_vec(), awaiting, ..info };
            let released =
                blobs::release(&self.kv, &file.sha256, &referrer(model, version, &file.path)).await?;
            changes.push(Change::put_json(key, &next));
            let mut orphan = None;
            if let Some(blob) = released {
                expected.push(blob.expect);
                changes.push(blob.change);
                orphan = blob.orphan;
            }
            if self.kv.change(&expected, changes).await?
                && let Some((object, bytes)) = orphan
            {
                self.artefacts.delete(&object).await?;
                freed_bytes += bytes;
            }
        }
        Err(KvError::Contended { key: version_key(model, version) }.into())
    }

    /// Takes a file in.
    pub async fn upload<S, E>(
        &self,
        model: &str,
        version: u64,
        path: &str,
        body: S,
        announced: Option<&str>,
    ) -> Result<FileInfo, ApiError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        crate::rag::check_path(path)?;
        self.read_version(model, version).await?;
        let written = self.artefacts.write(body, announced).await?;
        let added = self.add_file(model, version, path, &written.sha256, Some(&written)).await;
        if added.is_err() {
            self.clean_up(&written).await;
        }
        added
    }

    /// Deletes an object that was not registered. A store that broke off may have registered it after all, so its record is
    /// asked; where nobody knows, the object stays.
    async fn clean_up(&self, written: &Written) {
        let registered = match blobs::find(&self.kv, &written.sha256).await {
            Ok(blob) => blob.is_some_and(|blob| blob.object == written.object),
            Err(_) => true,
        };
        if registered {
            tracing::warn!(object = written.object, "an upload failed at its last step; its object stays");
        } else if let Err(error) = self.artefacts.delete(&written.object).await {
            tracing::warn!(object = written.object, %error, "an upload that failed could not be deleted");
        }
    }

    /// Adds a file whose content is here already.
    pub async fn link(
        &self,
        model: &str,
        version: u64,
        path: &str,
        sha256: &str,
    ) -> Result<FileInfo, ApiError> {
        crate::rag::check_path(path)?;
        self.add_file(model, version, path, sha256, None).await
    }

    async fn add_file(
        &self,
        model: &str,
        version: u64,
        path: &str,
        sha256: &str,
        written: Option<&Written>,
    ) -> Result<FileInfo, ApiError> {
        for _ in 0..TRIES {
            let (mut info, revision) = self.read_version(model, version).await?;
            let me = referrer(model, version, path);
            if let Some(present) = info.files.iter().find(|f| f.path == path) {
                if present.sha256 != sha256 {
                    let message = format!(
                        "{model}:{version} holds another {path} already; versions do not change: push a new version"
                    );
                    return Err(ApiError::conflict("file_exists", message));
                }
                let present = present.clone();
                // Sent twice: the fresh copy is not needed.
                if let Some(written) = written {
                    self.artefacts.delete(&written.object).await?;
                }
                return Ok(present);
            }
            let Some((blob, bytes)) = blobs::refer(&self.kv, sha256, &me, written).await? else {
                let message = format!("no artefact with SHA-256 {sha256} is here; upload the file with PUT");
                return Err(ApiError::not_found("artefact_not_found", message));
            };
            let file = FileInfo { path: path.to_owned(), sha256: sha256.to_owned(), bytes };
            info.files.push(file.clone());
            info.files.sort_by(|a, b| a.path.cmp(&b.path));
            info.awaiting.retain(|awaited| awaited != path);
            let key = version_key(model, version);
            let mut expected = vec![Expect::At(key.clone(), revision), blob.expect];
            let mut changes = vec![Change::put_json(key, &info), blob.change];
            if info.is_complete() {
                let (owner, revision) = self.read(model).await?;
                if owner.latest_version < version {
                    let next = ModelInfo { latest_version: version, updated_ms: now_ms(), ..owner };
                    expected.push(Expect::At(model_key(model), revision));
                    changes.push(Change::put_json(model_key(model), &next));
                }
            }
            if self.kv.change(&expected, changes).await? {
                if let Some((object, _)) = blob.orphan {
                    self.artefacts.delete(&object).await?;
                }
                return Ok(file);
            }
        }
        Err(KvError::Contended { key: version_key(model, version) }.into())
    }

    /// Opens a file for reading.
    pub async fn download(
        &self,
        model: &str,
        version: &str,
        path: &str,
    ) -> Result<(FileInfo, GetResult), ApiError> {
        let info = self.version(model, version).await?;
        let Some(file) = info.files.iter().find(|f| f.path == path) else {
            let names: Vec<&str> = info.files.iter().map(|f| f.path.as_str()).take(10).collect();
            let message =
                format!("{model}:{} has no file {path}; it has: {}", info.version, names.join(", "));
            return Err(ApiError::not_found("file_not_found", message));
        };
        let Some(blob) = blobs::find(&self.kv, &file.sha256).await? else {
            let message = format!("the artefact {} of {path} is not recorded any more", file.sha256);
            return Err(ApiError::not_found("artefact_not_found", message));
        };
        Ok((file.clone(), self.artefacts.read(&blob.object).await?))
    }
}
