//! `modelhub predict`

use std::io::{IsTerminal, Read, Write};

use clap::Args;
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};

use super::output::Output;
use super::{CliError, HubClient};
use crate::sse;

/// `modelhub predict`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  modelhub predict smollm2-135m-instruct \"Name three colours.\"\n  \
                        modelhub predict all-minilm-l6-v2 --embed \"a text\" -o json\n  echo \"Say hello\" | modelhub predict smollm2-135m-instruct")]
pub struct Predict {
    /// The model.
    model: String,
    /// The prompt; read from standard input when absent.
    prompt: Option<String>,
    /// Longest answer in tokens.
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_tokens: u32,
    /// 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f32,
    /// Print the text's vector instead of an answer.
    #[arg(long)]
    embed: bool,
}

pub async fn run(command: Predict, client: &HubClient, output: Output) -> Result<(), CliError> {
    let prompt = match &command.prompt {
        Some(prompt) => prompt.clone(),
        None => read_prompt()?,
    };
    if command.embed {
        let reply: Value =
            client.post("/v1/embeddings", &json!({"model": command.model, "input": prompt})).await?;
        output.print(&reply, |r| r["data"][0]["embedding"].to_string());
        return Ok(());
    }
    let mut body = json!({
        "model": command.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": command.max_tokens,
        "temperature": command.temperature,
    });
    if output == Output::Json {
        let reply: Value = client.post("/v1/chat/completions", &body).await?;
        output.print(&reply, |_| String::new());
        return Ok(());
    }
    body["stream"] = Value::Bool(true);
    let response = client.send(client.request(Method::POST, "/v1/chat/completions").json(&body)).await?;
    let mut stream = response.bytes_stream();
    let mut reader = sse::Reader::default();
    while let Some(piece) = stream.next().await {
        for event in reader.push(&piece.map_err(|e| client.broke_off(&e))?) {
            if event.data == "[DONE]" {
                println!();
                return Ok(());
            }
            let chunk: Value = serde_json::from_str(&event.data).unwrap_or_default();
            if let Some(message) = chunk["error"]["message"].as_str() {
                return Err(CliError::Failed(message.to_owned()));
            }
            print!("{}", chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
            // A terminal that is gone ends the command at the next print.
            let _ = std::io::stdout().flush();
        }
    }
    Err(CliError::Failed("the answer broke off; ask again".to_owned()))
}

fn read_prompt() -> Result<String, CliError> {
    if std::io::stdin().is_terminal() {
        return Err(CliError::Usage("give a prompt, or pipe one in".to_owned()));
    }
    let mut prompt = String::new();
    let read = std::io::stdin().read_to_string(&mut prompt);
    read.map_err(|source| CliError::File { path: "standard input".to_owned(), source })?;
    Ok(prompt)
}
