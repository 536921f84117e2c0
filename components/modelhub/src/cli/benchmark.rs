//! `modelhub benchmark`: a load generator. Open loop when a rate is given (requests start on time whatever the server does),
//! closed loop otherwise.

use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use http::Method;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::output::{Output, table};
use super::{CliError, HubClient};
use crate::sse;

/// `modelhub benchmark`
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  modelhub benchmark smollm2-135m-instruct --requests 50 --concurrency 4\n  \
                        modelhub benchmark smollm2-135m-instruct --requests 200 --rate 5 -o json\n  \
                        modelhub benchmark all-minilm-l6-v2 --embed --requests 500 --concurrency 8"
)]
pub struct Benchmark {
    /// The model.
    model: String,
    /// Requests in all.
    #[arg(long, default_value_t = 50, value_name = "N")]
    requests: usize,
    /// Requests at a time (closed loop).
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "rate")]
    concurrency: usize,
    /// Requests a second (open loop: they start on time, however slow the server is).
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// The prompt.
    #[arg(long, default_value = "Write a short paragraph about rivers.")]
    prompt: String,
    /// Longest answer in tokens.
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_tokens: u32,
    /// Measure embeddings instead of answers.
    #[arg(long)]
    embed: bool,
}

/// One request's times in seconds from when it should have started.
#[derive(Debug, Clone, Default)]
struct Sample {
    total: f64,
    first: f64,
    pieces: usize,
    error: Option<String>,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    requests: usize,
    failed: usize,
    first_error: Option<String>,
    seconds: f64,
    requests_per_second: f64,
    tokens_per_second: f64,
    latency_ms: Percentiles,
    time_to_first_token_ms: Percentiles,
    time_per_token_ms: Percentiles,
}

pub async fn run(command: Benchmark, client: &HubClient, output: Output) -> Result<(), CliError> {
    if command.requests == 0
        || command.concurrency == 0
        || command.rate.is_some_and(|r| r <= 0.0 || !r.is_finite())
    {
        return Err(CliError::Usage("--requests, --concurrency and --rate must be above 0".to_owned()));
    }
    // One request first, so that a wrong name or a missing server is an error and not a figure.
    let warm = one(&command, client, Instant::now()).await;
    if let Some(error) = warm.error {
        return Err(CliError::Failed(error));
    }
    let started = Instant::now();
    let samples = match command.rate {
        Some(rate) => open_loop(&command, client, rate).await,
        None => closed_loop(&command, client).await,
    };
    let report = report(&command, &samples, started.elapsed());
    output.print(&report, render);
    if report.failed == report.requests {
        return Err(CliError::Failed(report.first_error.unwrap_or_default()));
    }
    Ok(())
}

async fn closed_loop(command: &Benchmark, client: &HubClient) -> Vec<Sample> {
    let requests = (0..command.requests).map(|_| async { one(command, client, Instant::now()).await });
    futures::stream::iter(requests).buffer_unordered(command.concurrency).collect().await
}

async fn open_loop(command: &Benchmark, client: &HubClient, rate: f64) -> Vec<Sample> {
    let (done, mut samples) = mpsc::unbounded_channel();
    let start = Instant::now();
    for i in 0..command.requests {
        let due = start + Duration::from_secs_f64(i as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        let (command, client, done) = (command.clone(), client.clone(), done.clone());
        tokio::spawn(async move {
            // Counted from when it was due: waiting for a slow generator must not look like a fast server.
            let _ = done.send(one(&command, &client, due).await);
        });
    }
    drop(done);
    let mut out = Vec::with_capacity(command.requests);
    while let Some(sample) = samples.recv().await {
        out.push(sample);
    }
    out
}

async fn one(command: &Benchmark, client: &HubClient, due: Instant) -> Sample {
    match measured(command, client, due).await {
        Ok(sample) => sample,
        Err(error) => {
            Sample { total: due.elapsed().as_secs_f64(), error: Some(error.to_string()), ..Sample::default() }
        }
    }
}

async fn measured(command: &Benchmark, client: &HubClient, due: Instant) -> Result<Sample, CliError> {
    let mut sample = Sample::default();
    if command.embed {
        let body = json!({"model": command.model, "input": command.prompt});
        let response = client.send(client.request(Method::POST, "/v1/embeddings").json(&body)).await?;
        client.body(response).await?;
        sample.total = due.elapsed().as_secs_f64();
        sample.first = sample.total;
        return Ok(sample);
    }
    let body = json!({
        "model": command.model,
        "messages": [{"role": "user", "content": command.prompt}],
        "max_tokens": command.max_tokens,
        "temperature": 0,
        "stream": true,
    });
    let response = client.send(client.request(Method::POST, "/v1/chat/completions").json(&body)).await?;
    let mut stream = response.bytes_stream();
    let mut reader = sse::Reader::default();
    let mut complete = false;
    while let Some(piece) = stream.next().await {
        for event in reader.push(&piece.map_err(|e| client.broke_off(&e))?) {
            complete |= event.data == "[DONE]";
            if event.data.contains("\"content\":\"") && !event.data.contains("\"content\":\"\"") {
                sample.pieces += 1;
                if sample.pieces == 1 {
                    sample.first = due.elapsed().as_secs_f64();
                }
            }
        }
    }
    sample.total = due.elapsed().as_secs_f64();
    if !complete {
        return Err(CliError::Failed("the answer broke off".to_owned()));
    }
    Ok(sample)
}

fn report(command: &Benchmark, samples: &[Sample], elapsed: Duration) -> Report {
    let good: Vec<&Sample> = samples.iter().filter(|s| s.error.is_none()).collect();
    let seconds = elapsed.as_secs_f64();
    let per_token = good.iter().filter(|s| s.pieces > 1).map(|s| (s.total - s.first) / (s.pieces - 1) as f64);
    Report {
        model: command.model.clone(),
        requests: samples.len(),
        failed: samples.len() - good.len(),
        first_error: samples.iter().find_map(|s| s.error.clone()),
        seconds,
        requests_per_second: good.len() as f64 / seconds,
        tokens_per_second: good.iter().map(|s| s.pieces).sum::<usize>() as f64 / seconds,
        latency_ms: percentiles(good.iter().map(|s| s.total)),
        time_to_first_token_ms: percentiles(good.iter().filter(|s| s.pieces > 0).map(|s| s.first)),
        time_per_token_ms: percentiles(per_token),
    }
}

fn percentiles(seconds: impl Iterator<Item = f64>) -> Percentiles {
    let mut sorted: Vec<f64> = seconds.map(|s| s * 1e3).collect();
    sorted.sort_by(f64::total_cmp);
    // Nearest rank: the value that at least this share of the samples does not exceed.
    let at = |share: f64| {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
}

fn render(report: &Report) -> String {
    let row = |name: &str, p: &Percentiles| {
        let mut row = vec![name.to_owned()];
        row.extend([p.p50, p.p90, p.p99, p.max].map(|ms| format!("{ms:.1}")));
        row
    };
    let rows = [
        row("latency", &report.latency_ms),
        row("time to first token", &report.time_to_first_token_ms),
        row("time per token", &report.time_per_token_ms),
    ];
    let mut text = format!(
        "{}  {} requests in {:.1} s, {:.1} a second, {:.1} tokens a second, {} failed\n\n{}",
        report.model,
        report.requests,
        report.seconds,
        report.requests_per_second,
        report.tokens_per_second,
        report.failed,
        table(&["milliseconds", "p50", "p90", "p99", "max"], &rows)
    );
    if let Some(error) = &report.first_error {
        text.push_str("\n\nfirst error  ");
        text.push_str(error);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let p = percentiles((1..=100).map(f64::from).map(|ms| ms / 1e3));
        let rounded = [p.p50, p.p90, p.p99, p.max].map(f64::round);
        assert_eq!(rounded.map(|ms| ms as u64), [50, 90, 99, 100]);
        assert_eq!(percentiles(std::iter::empty()).max as u64, 0);
        assert_eq!(percentiles(std::iter::once(0.5)).p50 as u64, 500);
    }
}
