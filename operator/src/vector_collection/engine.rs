//! A collection on its server, over Qdrant's REST.

use std::collections::BTreeMap;

use http::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};

use crate::kernel::controller::StepError;
use crate::outside::Outside;

/// A collection, as its server has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Collection {
    /// No server is ready to be asked.
    NoServer,
    /// The server did not say.
    Unknown(String),
    /// There is none of this name.
    Absent,
    /// What the server says of it.
    Present(Value),
}

/// The server that has collections, or is to.
pub(super) struct Server<'a> {
    pub outside: &'a Outside,
    /// Its base URL.
    pub url: String,
}

impl Server<'_> {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), String> {
        let request = Request::builder().method(method).uri(format!("{}/collections/{path}", self.url));
        let answer = self.outside.ask(request, body).await.map_err(|silence| silence.to_string())?;
        Ok((answer.status, answer.json()))
    }

    async fn write(&self, method: Method, what: &str, path: &str, body: &Value) -> Result<(), StepError> {
        let failed =
            |why: String| StepError { reason: "ServerRefused", message: format!("could not {what}: {why}") };
        match self.ask(method, path, Some(body)).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, body)) => Err(failed(said(status, &body))),
            Err(why) => Err(failed(why)),
        }
    }

    /// Asks whether it is there.
    pub(super) async fn look(&self, name: &str) -> Collection {
        match self.ask(Method::GET, name, None).await {
            Ok((StatusCode::NOT_FOUND, _)) => Collection::Absent,
            Ok((status, mut body)) if status.is_success() => Collection::Present(body["result"].take()),
            Ok((status, body)) => Collection::Unknown(said(status, &body)),
            Err(why) => Collection::Unknown(why),
        }
    }

    /// Creates it.
    pub(super) async fn create(&self, name: &str, create: &Value) -> Result<(), StepError> {
        self.write(Method::PUT, "create the collection", name, create).await
    }

    /// Changes what can be changed in place, and adds the indexes that it lacks. One that was absent has been created.
    pub(super) async fn settle(
        &self,
        name: &str,
        create: &Value,
        indexes: &[Value],
        found: &Collection,
    ) -> Result<(), StepError> {
        let known = match found {
            Collection::NoServer | Collection::Unknown(_) => return Ok(()),
            Collection::Absent => BTreeMap::new(),
            Collection::Present(there) => {
                if let Some(change) = change(create, there) {
                    self.write(Method::PATCH, "change the collection's settings", name, &change).await?;
                }
                schema(there)
            }
        };
        for index in indexes.iter().filter(|index| !is_known(&known, index)) {
            self.write(Method::PUT, "create a payload index", &format!("{name}/index"), index).await?;
        }
        Ok(())
    }

    /// Deletes it; that it is gone already is as good.
    pub(super) async fn remove(&self, name: &str) -> Result<(), StepError> {
        let failed = |why: String| StepError {
            reason: "CleanUpFailed",
            message: format!("the collection could not be deleted on its server: {why}"),
        };
        match self.ask(Method::DELETE, name, None).await {
            Ok((status, _)) if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            Ok((status, body)) => Err(failed(said(status, &body))),
            Err(why) => Err(failed(why)),
        }
    }
}

/// What of its settings is not as it is wanted and can be changed in place; `None` when nothing is. Its graph is built anew, segment
/// by segment, while the old one answers.
pub(super) fn change(create: &Value, there: &Value) -> Option<Value> {
    let wanted = create["hnsw_config"].as_object()?;
    let present = &there["config"]["hnsw_config"];
    let differs: Map<String, Value> = wanted
        .iter()
        .filter(|(setting, value)| present[setting.as_str()] != **value)
        .map(|(setting, value)| (setting.clone(), value.clone()))
        .collect();
    (!differs.is_empty()).then(|| json!({ "hnsw_config": differs }))
}

/// Indexes that the server has and nobody asked for.
pub(super) fn unasked(indexes: &[Value], there: &Value) -> Vec<String> {
    let is_asked = |field: &String| indexes.iter().any(|index| index["field_name"] == json!(field));
    schema(there).into_keys().filter(|field| !is_asked(field)).collect()
}

fn said(status: StatusCode, body: &Value) -> String {
    body.pointer("/status/error").and_then(Value::as_str).map_or_else(|| status.to_string(), str::to_owned)
}

/// Types of the payload fields that have an index, by name.
fn schema(there: &Value) -> BTreeMap<String, String> {
    let fields = there["payload_schema"].as_object().into_iter().flatten();
    let kind = |field: &Value| field["data_type"].as_str().unwrap_or_default().to_owned();
    fields.map(|(name, field)| (name.clone(), kind(field))).collect()
}

fn is_known(known: &BTreeMap<String, String>, index: &Value) -> bool {
    let name = index["field_name"].as_str().unwrap_or_default();
    known.get(name).is_some_and(|kind| Some(kind.as_str()) == index["field_schema"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_changed() {
        let there =
            json!({"config": {"hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}}});
        let table = [
            (json!({}), None),
            (json!({"hnsw_config": {"m": 16, "ef_construct": 100}}), None),
            (json!({"hnsw_config": {"m": 32, "ef_construct": 100}}), Some(json!({"hnsw_config": {"m": 32}}))),
            (
                json!({"hnsw_config": {"m": 32, "ef_construct": 200, "full_scan_threshold": 10000}}),
                Some(json!({"hnsw_config": {"m": 32, "ef_construct": 200}})),
            ),
        ];
        for (create, expected) in table {
            assert_eq!(change(&create, &there), expected, "{create}");
        }
        let there =
            json!({"payload_schema": {"path": {"data_type": "keyword"}, "old": {"data_type": "text"}}});
        assert_eq!(unasked(&[json!({"field_name": "path"})], &there), ["old"]);
    }

    #[test]
    fn indexes_that_are_there_are_known_by_name_and_type() {
        let there = json!({"payload_schema": {"path": {"data_type": "keyword", "points": 3}}});
        let known = schema(&there);
        let table = [("path", "keyword", true), ("path", "text", false), ("date", "keyword", false)];
        for (field, kind, is_there) in table {
            let index = json!({"field_name": field, "field_schema": kind});
            assert_eq!(is_known(&known, &index), is_there, "{field} {kind}");
        }
    }
}
