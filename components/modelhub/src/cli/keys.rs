//! `modelhub keys`

use aistack_api::registry::{Deleted, KeyCreate, KeyCreated, KeyInfo, KeyList, Limits};
use clap::Subcommand;

use super::client::name_segment;
use super::output::{Output, age, table, thousands};
use super::{CliError, HubClient};

/// API keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is shown once
    #[command(
        after_help = "Examples:\n  modelhub keys create ci\n  modelhub keys create chat-app --tokens-per-minute 60000 --concurrency 8"
    )]
    Create {
        /// What to call it.
        name: String,
        /// Requests in a minute.
        #[arg(long, value_name = "N")]
        requests_per_minute: Option<u32>,
        /// Tokens, read and written, in a minute.
        #[arg(long, value_name = "N")]
        tokens_per_minute: Option<u32>,
        /// Requests at a time.
        #[arg(long, value_name = "N")]
        concurrency: Option<u32>,
    },
    /// Keys with their limits and what they used
    #[command(after_help = "Examples:\n  modelhub keys list\n  modelhub keys list -o json")]
    List,
    /// Revoke a key at once
    #[command(after_help = "Example:\n  modelhub keys revoke 3f1c9a0b7d2e")]
    Revoke {
        /// Its id, from `keys list`.
        id: String,
    },
}

pub async fn run(command: KeysCommand, client: &HubClient, output: Output) -> Result<(), CliError> {
    match command {
        KeysCommand::Create { name, requests_per_minute, tokens_per_minute, concurrency } => {
            let limits = Limits { requests_per_minute, tokens_per_minute, concurrency };
            let created: KeyCreated = client.post("/api/v1/keys", &KeyCreate { name, limits }).await?;
            output
                .print(&created, |k| format!("{}\n\nkey {} ({}): it is shown only now", k.key, k.id, k.name));
        }
        KeysCommand::List => {
            let list: KeyList = client.get("/api/v1/keys").await?;
            output.print(&list, |list| {
                if list.keys.is_empty() {
                    return "no keys; make one with  modelhub keys create NAME".to_owned();
                }
                let rows: Vec<Vec<String>> = list.keys.iter().map(row).collect();
                table(&["id", "name", "limits", "requests", "read", "written", "age"], &rows)
            });
        }
        KeysCommand::Revoke { id } => {
            let gone: Deleted = client.delete(&format!("/api/v1/keys/{}", name_segment(&id)?)).await?;
            output.print(&gone, |gone| format!("key {} is revoked", gone.deleted));
        }
    }
    Ok(())
}

fn row(key: &KeyInfo) -> Vec<String> {
    vec![
        key.id.clone(),
        key.name.clone(),
        limits(&key.limits),
        thousands(key.requests),
        thousands(key.prompt_tokens),
        thousands(key.completion_tokens),
        age(key.created_ms),
    ]
}

fn limits(limits: &Limits) -> String {
    let parts = [
        (limits.requests_per_minute, "req/min"),
        (limits.tokens_per_minute, "tok/min"),
        (limits.concurrency, "at a time"),
    ];
    let shown: Vec<String> =
        parts.into_iter().filter_map(|(value, unit)| Some(format!("{} {unit}", value?))).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}
