//! What is served now, and clear words about what this version does not do.

use clap::{Args, Subcommand};
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

/// `modelhub traffic`
#[derive(Debug, Subcommand)]
pub enum Traffic {
    /// Show how traffic is split
    #[command(after_help = "Example:\n  modelhub traffic show sentiment")]
    Show {
        /// The model.
        model: String,
    },
    /// Split traffic between versions
    #[command(after_help = "Example:\n  modelhub traffic set sentiment 3=90 4=10")]
    Set {
        /// The model.
        model: String,
        /// Shares, as VERSION=PERCENT.
        #[arg(required = true)]
        shares: Vec<String>,
    },
}

pub fn deploy(command: &Deploy) -> Result<(), CliError> {
    eprintln!("{} stays in the registry.", command.model);
    Err(CliError::NotHere(
        "deploy is not in this version: it will create an InferenceService from a registry version.\n  \
         today: name the model under  spec.tinyinfer.model  of your AIStack manifest, or add an engine to ModelHub's configuration",
    ))
}

pub fn traffic(command: &Traffic) -> Result<(), CliError> {
    let (Traffic::Show { model } | Traffic::Set { model, .. }) = command;
    eprintln!("requests for {model} go round robin over its healthy engines.");
    Err(CliError::NotHere(
        "traffic is not in this version: it will split requests between versions by weight, header and canary judgement",
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
