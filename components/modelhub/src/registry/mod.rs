//! The model registry: metadata in the key-value store, artefacts content-addressed in an object store.
//!
//! Every change is one transaction that holds only if what it was decided on still holds, so concurrent writers do not lose
//! each other's updates. An artefact's record counts its referrers in the same transaction, and its object has a name of
//! its own, so that a deletion can never take an object that a concurrent upload just brought.

mod artefacts;
mod blobs;
mod door;
mod versions;

use aistack_api::registry::{Deleted, Labels, ModelCreate, ModelInfo, ModelList, Update};

pub use artefacts::{ArtefactError, Artefacts};
pub use door::router;
pub use versions::check_version;

use crate::error::ApiError;
use crate::kv::{Change, Expect, Kv, ROOT};
use crate::now_ms;

/// The registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    kv: Kv,
    artefacts: Artefacts,
}

fn model_key(name: &str) -> String {
    format!("{ROOT}models/{name}")
}

impl Registry {
    /// A registry on a key-value store and an object store.
    pub fn new(kv: Kv, artefacts: Artefacts) -> Self {
        Self { kv, artefacts }
    }

    /// Registers a model.
    pub async fn create(&self, request: ModelCreate) -> Result<ModelInfo, ApiError> {
        crate::rag::check_name(&request.name)?;
        check_labels(request.labels.keys())?;
        let now = now_ms();
        let model = ModelInfo {
            name: request.name,
            description: request.description,
            labels: request.labels,
            latest_version: 0,
            newest_version: 0,
            created_ms: now,
            updated_ms: now,
        };
        let key = model_key(&model.name);
        if self.kv.change(&[Expect::Absent(key.clone())], vec![Change::put_json(key, &model)]).await? {
            return Ok(model);
        }
        let message =
            format!("model {} exists already; add a version to it with  modelhub models push", model.name);
        Err(ApiError::conflict("model_exists", message))
    }

    /// All models that carry all the given labels.
    pub async fn list(&self, wanted: &Labels) -> Result<ModelList, ApiError> {
        let (entries, _) = self.kv.list(&model_key("")).await?;
        let mut models = Vec::with_capacity(entries.len());
        for entry in entries {
            let model: ModelInfo = entry.json()?;
            if wanted.iter().all(|(name, value)| model.labels.get(name) == Some(value)) {
                models.push(model);
            }
        }
        Ok(ModelList { models })
    }

    /// One model.
    pub async fn get(&self, name: &str) -> Result<ModelInfo, ApiError> {
        self.read(name).await.map(|(model, _)| model)
    }

    async fn read(&self, name: &str) -> Result<(ModelInfo, i64), ApiError> {
        if let Some(found) = self.kv.get_json(&model_key(name)).await? {
            return Ok(found);
        }
        let all = self.list(&Labels::new()).await?.models;
        let near = crate::gateway::closest(name, all.iter().map(|m| m.name.as_str()));
        let hint = match (near.is_empty(), all.is_empty()) {
            (false, _) => format!("did you mean {}?", near.join(" or ")),
            (true, false) => "modelhub models list shows those that are".to_owned(),
            (true, true) => format!("register it with  modelhub models push {name} FILE"),
        };
        Err(ApiError::not_found("model_not_found", format!("model {name} is not in the registry; {hint}")))
    }

    /// Changes a model's description and labels.
    pub async fn update(&self, name: &str, update: Update) -> Result<ModelInfo, ApiError> {
        if update.schema.is_some() || update.lineage.is_some() {
            let message = "schema and lineage belong to a version: PATCH …/versions/{version}";
            return Err(ApiError::invalid("not_of_a_model", message));
        }
        check_labels(update.labels.keys())?;
        self.get(name).await?;
        let decide = |model: Option<ModelInfo>| {
            let mut model = model.ok_or_else(|| gone(name))?;
            apply(&mut model.description, &mut model.labels, &update);
            model.updated_ms = now_ms();
            Ok::<_, ApiError>(Some(model))
        };
        self.kv.update(&model_key(name), decide).await?.ok_or_else(|| gone(name))
    }

    /// Deletes a model with all its versions.
    pub async fn delete(&self, name: &str) -> Result<Deleted, ApiError> {
        self.get(name).await?;
        let mut freed_bytes = 0;
        for version in self.versions(name).await?.versions {
            freed_bytes += self.delete_version(name, version.version).await?.freed_bytes;
        }
        self.kv.change(&[], vec![Change::Delete(model_key(name))]).await?;
        Ok(Deleted { deleted: name.to_owned(), freed_bytes })
    }
}

/// Refuses labels that nobody could name.
fn check_labels<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), ApiError> {
    if names.into_iter().any(|name| name.trim().is_empty()) {
        return Err(ApiError::invalid("invalid_label", "a label without a name: write NAME=VALUE"));
    }
    Ok(())
}

fn gone(name: &str) -> ApiError {
    ApiError::not_found("model_not_found", format!("{name} was deleted meanwhile"))
}

fn apply(description: &mut String, labels: &mut Labels, update: &Update) {
    if let Some(text) = &update.description {
        text.clone_into(description);
    }
    for (label, value) in &update.labels {
        match value {
            Some(value) => labels.insert(label.clone(), value.clone()),
            None => labels.remove(label),
        };
    }
}
