//! Collections, aliases, payload indexes.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{JsonBody, Params, TimeoutParams, UrlPath, WriteParams};
use crate::engine::AliasChange;
use crate::qdrant::error::DoorError;
use crate::qdrant::json::answer::{Answer, InfoJson, UpdateJson};
use crate::qdrant::json::collection::{CreateJson, UpdateJson as ChangeJson};
use crate::qdrant::json::index::CreateIndexJson;
use crate::qdrant::ops::Door;

type Shared = State<Arc<Door>>;
type Reply<T> = Result<Answer<T>, DoorError>;

pub(super) async fn list(State(door): Shared) -> Reply<Value> {
    let started = Instant::now();
    let names = door.run(None, |door| Ok(door.engine.collections())).await?;
    let collections: Vec<Value> = names.into_iter().map(|name| json!({ "name": name })).collect();
    Ok(Answer::new(started, json!({ "collections": collections })))
}

pub(super) async fn create(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<TimeoutParams>,
    JsonBody(request): JsonBody<CreateJson>,
) -> Reply<bool> {
    let started = Instant::now();
    let created = door.run(params.timeout, move |door| door.create(&name, request)).await?;
    Ok(Answer::new(started, created))
}

pub(super) async fn update(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<TimeoutParams>,
    JsonBody(change): JsonBody<ChangeJson>,
) -> Reply<bool> {
    let started = Instant::now();
    let updated = door.run(params.timeout, move |door| door.update(&name, change)).await?;
    Ok(Answer::new(started, updated))
}

pub(super) async fn delete(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<TimeoutParams>,
) -> Reply<bool> {
    let started = Instant::now();
    let dropped = door.run(params.timeout, move |door| Ok(door.engine.drop_collection(&name)?)).await?;
    Ok(Answer::new(started, dropped))
}

pub(super) async fn exists(State(door): Shared, UrlPath(name): UrlPath<String>) -> Reply<Value> {
    let started = Instant::now();
    let exists = door.run(None, move |door| Ok(door.exists(&name))).await?;
    Ok(Answer::new(started, json!({ "exists": exists })))
}

pub(super) async fn info(State(door): Shared, UrlPath(name): UrlPath<String>) -> Reply<InfoJson> {
    let started = Instant::now();
    let info = door.run(None, move |door| Ok(door.collection(&name)?.info())).await?;
    Ok(Answer::new(started, InfoJson::from(info)))
}

/// One node, one shard, one copy.
pub(super) async fn cluster(State(door): Shared, UrlPath(name): UrlPath<String>) -> Reply<Value> {
    let started = Instant::now();
    let info = door.run(None, move |door| Ok(door.collection(&name)?.info())).await?;
    let shard = json!({"shard_id": 0, "points_count": info.points, "state": "Active"});
    let cluster = json!({
        "peer_id": 0, "shard_count": 1, "local_shards": [shard], "remote_shards": [], "shard_transfers": [],
    });
    Ok(Answer::new(started, cluster))
}

/// A batch of alias changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeAliasesJson {
    actions: Vec<AliasActionJson>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
enum AliasActionJson {
    #[serde(rename = "create_alias")]
    Create(CreateAliasJson),
    #[serde(rename = "delete_alias")]
    Delete(DeleteAliasJson),
    #[serde(rename = "rename_alias")]
    Rename(RenameAliasJson),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateAliasJson {
    collection_name: String,
    alias_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteAliasJson {
    alias_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RenameAliasJson {
    old_alias_name: String,
    new_alias_name: String,
}

impl From<AliasActionJson> for AliasChange {
    fn from(action: AliasActionJson) -> Self {
        match action {
            AliasActionJson::Create(create) => {
                Self::Create { alias: create.alias_name, collection: create.collection_name }
            }
            AliasActionJson::Delete(delete) => Self::Delete { alias: delete.alias_name },
            AliasActionJson::Rename(rename) => {
                Self::Rename { from: rename.old_alias_name, to: rename.new_alias_name }
            }
        }
    }
}

pub(super) async fn change_aliases(
    State(door): Shared,
    Params(params): Params<TimeoutParams>,
    JsonBody(request): JsonBody<ChangeAliasesJson>,
) -> Reply<bool> {
    let started = Instant::now();
    let changes: Vec<AliasChange> = request.actions.into_iter().map(Into::into).collect();
    door.run(params.timeout, move |door| Ok(door.engine.change_aliases(&changes)?)).await?;
    Ok(Answer::new(started, true))
}

pub(super) async fn aliases(State(door): Shared) -> Reply<Value> {
    let started = Instant::now();
    let aliases = door.run(None, |door| Ok(door.engine.aliases())).await?;
    Ok(Answer::new(started, aliases_json(aliases)))
}

pub(super) async fn aliases_of(State(door): Shared, UrlPath(name): UrlPath<String>) -> Reply<Value> {
    let started = Instant::now();
    let aliases = door.run(None, move |door| door.aliases_of(&name)).await?;
    Ok(Answer::new(started, aliases_json(aliases)))
}

fn aliases_json(aliases: impl IntoIterator<Item = (String, String)>) -> Value {
    let list: Vec<Value> = aliases
        .into_iter()
        .map(|(alias, collection)| json!({"alias_name": alias, "collection_name": collection}))
        .collect();
    json!({ "aliases": list })
}

pub(super) async fn create_index(
    State(door): Shared,
    UrlPath(name): UrlPath<String>,
    Params(params): Params<WriteParams>,
    JsonBody(request): JsonBody<CreateIndexJson>,
) -> Reply<UpdateJson> {
    let started = Instant::now();
    let Some(schema) = request.field_schema else {
        return Err(DoorError::input("field_schema is missing: one of keyword, integer, float, bool, text"));
    };
    let number =
        door.run(params.timeout, move |door| door.create_index(&name, &request.field_name, schema.0)).await?;
    Ok(Answer::new(started, UpdateJson::new(number, true)))
}

pub(super) async fn delete_index(
    State(door): Shared,
    UrlPath((name, field)): UrlPath<(String, String)>,
    Params(params): Params<WriteParams>,
) -> Reply<UpdateJson> {
    let started = Instant::now();
    let number = door.run(params.timeout, move |door| door.delete_index(&name, &field)).await?;
    Ok(Answer::new(started, UpdateJson::new(number, true)))
}
