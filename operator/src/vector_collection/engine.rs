//! A collection on its server, over Qdrant's REST.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::kernel::controller::StepError;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

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

async fn ask(method: Method, url: &str, body: Option<&Value>) -> Result<(StatusCode, Value), String> {
    let client = Client::builder().timeout(PATIENCE).build();
    let client = client.map_err(|error| aistack_api::cause::innermost(&error))?;
    let request = client.request(method, url);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = request.send().await.map_err(|error| aistack_api::cause::innermost(&error))?;
    let status = answer.status();
    Ok((status, answer.json().await.unwrap_or_default()))
}

/// Asks whether it is there.
pub(super) async fn look(server: &str, name: &str) -> Collection {
    match ask(Method::GET, &format!("{server}/collections/{name}"), None).await {
        Ok((StatusCode::NOT_FOUND, _)) => Collection::Absent,
        Ok((status, mut body)) if status.is_success() => Collection::Present(body["result"].take()),
        Ok((status, body)) => Collection::Unknown(said(status, &body)),
        Err(why) => Collection::Unknown(why),
    }
}

/// Creates it, or the indexes that it lacks.
pub(super) async fn settle(
    server: &str,
    name: &str,
    create: &Value,
    indexes: &[Value],
    found: &Collection,
) -> Result<(), StepError> {
    let url = format!("{server}/collections/{name}");
    let known = match found {
        Collection::NoServer | Collection::Unknown(_) => return Ok(()),
        Collection::Absent => {
            put("create the collection", &url, create).await?;
            BTreeMap::new()
        }
        Collection::Present(there) => schema(there),
    };
    for index in indexes.iter().filter(|index| !is_known(&known, index)) {
        put("create a payload index", &format!("{url}/index"), index).await?;
    }
    Ok(())
}

/// Deletes it; that it is gone already is as good.
pub(super) async fn remove(server: &str, name: &str) -> Result<(), StepError> {
    let failed = |why: String| StepError {
        reason: "CleanUpFailed",
        message: format!("the collection could not be deleted on its server: {why}"),
    };
    match ask(Method::DELETE, &format!("{server}/collections/{name}"), None).await {
        Ok((status, _)) if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
        Ok((status, body)) => Err(failed(said(status, &body))),
        Err(why) => Err(failed(why)),
    }
}

async fn put(what: &str, url: &str, body: &Value) -> Result<(), StepError> {
    let failed =
        |why: String| StepError { reason: "ServerRefused", message: format!("could not {what}: {why}") };
    match ask(Method::PUT, url, Some(body)).await {
        Ok((status, _)) if status.is_success() => Ok(()),
        Ok((status, body)) => Err(failed(said(status, &body))),
        Err(why) => Err(failed(why)),
    }
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
    use serde_json::json;

    use super::*;

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
