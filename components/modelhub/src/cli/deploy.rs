//! What is served now, and clear words about what this version does not do.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::output::{Output, table};
use super::{CliError, HubClient};

/// `modelhub deploy`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  modelhub deploy sentiment:3")]
pub struct Deploy {
    /// Model and version, such as `sentiment:3`.
    model: String,
}

/// `modelhub deployments`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  modelhub deployments\n  modelhub deployments -o json")]
pub struct Deployments {}

pub fn deploy(command: &Deploy) -> Result<(), CliError> {
    eprintln!("{} stays in the registry.", command.model);
    Err(CliError::NotHere(
        "deploy is not in this version: the operator runs versions.\n  \
         today: name the version in an InferenceService (spec.model.version, or spec.canary for steps), or add an engine to ModelHub's configuration",
    ))
}

#[derive(Debug, Serialize, Deserialize)]
struct Served {
    data: Vec<ServedModel>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServedModel {
    id: String,
    #[serde(default)]
    max_model_len: Option<u64>,
    #[serde(default)]
    engines: Vec<ServedBy>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServedBy {
    name: String,
    task: String,
    ready: bool,
}

pub async fn deployments(_: &Deployments, client: &HubClient, output: Output) -> Result<(), CliError> {
    let served: Served = client.get("/v1/models").await?;
    output.print(&served, |served| {
        let rows: Vec<Vec<String>> = served.data.iter().flat_map(rows).collect();
        if rows.is_empty() {
            return "nothing is served: add engines to the server's configuration".to_owned();
        }
        table(&["model", "engine", "task", "ready", "context"], &rows)
    });
    Ok(())
}

fn rows(model: &ServedModel) -> Vec<Vec<String>> {
    let context = model.max_model_len.map_or_else(|| "-".to_owned(), |c| c.to_string());
    let row = |e: &ServedBy| {
        let ready = if e.ready { "yes" } else { "no" };
        vec![model.id.clone(), e.name.clone(), e.task.clone(), ready.to_owned(), context.clone()]
    };
    model.engines.iter().map(row).collect()
}
