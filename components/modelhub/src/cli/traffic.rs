//! How requests are shared among the versions of a model.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use aistack_api::traffic::{
    CanaryAction, CanaryCommand, CanaryPhase, TrafficDeleted, TrafficList, TrafficRoute, TrafficState,
};
use clap::{Args, Subcommand};

use super::client::encode;
use super::output::{Output, table};
use super::{CliError, HubClient};

/// `modelhub traffic`
#[derive(Debug, Subcommand)]
pub enum Traffic {
    /// Show how requests are shared, and how canaries are
    #[command(after_help = "Examples:\n  modelhub traffic show\n  modelhub traffic show sentiment -o json")]
    Show {
        /// The model; left out, all that have a route.
        model: Option<String>,
    },
    /// Change the shares of versions that a route names
    #[command(after_help = "Example:\n  modelhub traffic set sentiment 3=90 4=10")]
    Set {
        /// The model.
        model: String,
        /// Shares, as VERSION=WEIGHT; a version that is not named keeps its own.
        #[arg(required = true, value_parser = share)]
        shares: Vec<(String, u32)>,
    },
    /// Set a whole route from a file
    #[command(
        after_help = "Example:\n  echo '{\"targets\": [{\"name\": \"3\", \"endpoint\": \"http://chat-v3:8000\", \"weight\": 1}]}' > route.json\n  \
                      modelhub traffic put sentiment route.json"
    )]
    Put {
        /// The model.
        model: String,
        /// The route, as JSON.
        file: PathBuf,
    },
    /// Give a canary everything now
    #[command(after_help = "Example:\n  modelhub traffic promote sentiment")]
    Promote(OfModel),
    /// Give a canary nothing any more
    #[command(after_help = "Example:\n  modelhub traffic rollback sentiment")]
    Rollback(OfModel),
    /// Begin a canary again at its first step
    #[command(after_help = "Example:\n  modelhub traffic restart sentiment")]
    Restart(OfModel),
    /// Take a route away: the engines of the configuration count again
    #[command(after_help = "Example:\n  modelhub traffic delete sentiment")]
    Delete(OfModel),
}

/// Which model.
#[derive(Debug, Args)]
pub struct OfModel {
    /// The model.
    model: String,
}

fn share(given: &str) -> Result<(String, u32), String> {
    let pair = given.rsplit_once('=').and_then(|(name, weight)| Some((name, weight.parse().ok()?)));
    let (name, weight) = pair.ok_or("write VERSION=WEIGHT, such as 3=90")?;
    Ok((name.to_owned(), weight))
}

fn path(model: &str) -> String {
    format!("/api/v1/traffic/{}", encode(model).replace("%2F", "/"))
}

pub async fn run(command: Traffic, client: &HubClient, output: Output) -> Result<(), CliError> {
    let act = |of: OfModel, canary| async move {
        client.post(&path(&of.model), &CanaryCommand { canary }).await.map_err(CliError::from)
    };
    let state: TrafficState = match command {
        Traffic::Show { model: None } => {
            let list: TrafficList = client.get("/api/v1/traffic").await?;
            output.print(&list, |list| match list.routes.as_slice() {
                [] => "no model has a route of its own: requests go round robin over its engines".to_owned(),
                routes => routes.iter().map(shown).collect::<Vec<_>>().join("\n\n"),
            });
            return Ok(());
        }
        Traffic::Show { model: Some(model) } => client.get(&path(&model)).await?,
        Traffic::Set { model, shares } => {
            let before: TrafficState = client.get(&path(&model)).await?;
            let route = with_shares(before.route, shares.into_iter().collect())?;
            client.put(&path(&model), &route, Some(before.revision)).await?
        }
        Traffic::Put { model, file } => {
            let text = std::fs::read_to_string(&file).map_err(|error| CliError::file(&file, error))?;
            let route: TrafficRoute = serde_json::from_str(&text)
                .map_err(|error| CliError::Usage(format!("{}: {error}", file.display())))?;
            client.put(&path(&model), &route, None).await?
        }
        Traffic::Promote(of) => act(of, CanaryAction::Promote).await?,
        Traffic::Rollback(of) => act(of, CanaryAction::Rollback).await?,
        Traffic::Restart(of) => act(of, CanaryAction::Restart).await?,
        Traffic::Delete(of) => {
            let gone: TrafficDeleted = client.delete(&path(&of.model)).await?;
            output.print(&gone, |gone| format!("{} has no route of its own any more", gone.deleted));
            return Ok(());
        }
    };
    output.print(&state, shown);
    Ok(())
}

fn with_shares(mut route: TrafficRoute, mut shares: BTreeMap<String, u32>) -> Result<TrafficRoute, CliError> {
    for target in &mut route.targets {
        if let Some(weight) = shares.remove(&target.name) {
            target.weight = weight;
        }
    }
    if let Some((name, _)) = shares.first_key_value() {
        let names: Vec<&str> = route.targets.iter().map(|target| target.name.as_str()).collect();
        let message = format!("the route has no version {name}; it has {}", names.join(", "));
        return Err(CliError::Usage(message));
    }
    Ok(route)
}

fn shown(state: &TrafficState) -> String {
    let rows: Vec<Vec<String>> = state
        .targets
        .iter()
        .zip(&state.route.targets)
        .map(|(target, wanted)| {
            let share = if wanted.shadow {
                format!("shadow {} %", wanted.weight)
            } else {
                format!("{:.0} %", target.percent)
            };
            let ready = if target.ready { "yes".to_owned() } else { format!("no: {}", target.trouble) };
            let count = |count: u64| format!("{count}/{}", target.requests);
            let (failed, refused) = (count(target.failed), count(target.refused));
            vec![target.name.clone(), share, failed, refused, wanted.endpoint.clone(), ready]
        })
        .collect();
    let mut text = format!(
        "{}\n{}",
        state.model,
        table(&["version", "share", "failed", "refused", "endpoint", "ready"], &rows)
    );
    if let (Some(canary), Some(plan)) = (&state.canary, &state.route.canary) {
        let phase = match canary.phase {
            CanaryPhase::Running => format!("step {} of {}", canary.step + 1, plan.steps.len()),
            CanaryPhase::Succeeded => "succeeded".to_owned(),
            CanaryPhase::RolledBack => "rolled back".to_owned(),
        };
        let _ = write!(text, "\ncanary {}: {phase}; {}", plan.target, canary.reason);
    }
    if state.held > 0 {
        let _ = write!(text, "\n{} requests wait for a version to answer", state.held);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_set_of_versions_that_are_there() {
        let target = |name: &str| aistack_api::traffic::TrafficTarget {
            name: name.into(),
            weight: 1,
            ..Default::default()
        };
        let route = TrafficRoute { targets: vec![target("3"), target("4")], ..TrafficRoute::default() };
        let set = |pairs: &[&str]| {
            let shares = pairs.iter().map(|pair| share(pair).expect("a share")).collect();
            with_shares(route.clone(), shares)
                .map(|route| route.targets.iter().map(|t| t.weight).collect::<Vec<_>>())
        };
        assert_eq!(set(&["4=10"]).expect("there"), [1, 10]);
        let error = set(&["5=10"]).expect_err("not there").to_string();
        assert_eq!(error, "the route has no version 5; it has 3, 4");
        assert!(share("3").is_err() && share("3=x").is_err());
    }
}
