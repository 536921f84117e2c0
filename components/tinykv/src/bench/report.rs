//! What a bench says at its end.

use super::LoadArgs;
use super::drive::Drive;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Lines of the drawn histogram, at most.
const LINES: usize = 12;
/// Width of its longest bar.
const WIDTH: u64 = 40;

/// How many came, how quickly, after how long.
#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    count: u64,
    per_second: f64,
    /// Milliseconds: the mean, the percentiles, the longest.
    latency_ms: BTreeMap<&'static str, f64>,
    /// Ends in milliseconds, and how many were no longer than that and longer than the one before.
    histogram: Vec<(f64, u64)>,
}

/// Percentiles that are told, in the order of their names.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0), ("p99.9", 99.9)];

impl Spread {
    /// Of latencies in microseconds that were seen in `time`.
    pub fn of(latency: &Histogram<u64>, time: Duration) -> Self {
        let millis = |micros: u64| micros as f64 / 1_000.0;
        let mut told = BTreeMap::from([("mean", latency.mean() / 1_000.0), ("max", millis(latency.max()))]);
        told.extend(
            PERCENTILES.map(|(name, percentile)| (name, millis(latency.value_at_percentile(percentile)))),
        );
        let mut histogram = Vec::new();
        if !latency.is_empty() {
            // Classes that double, as many as it takes from the shortest on.
            let mut end = latency.min().max(1).next_power_of_two();
            let mut start = 0;
            while start <= latency.max() && histogram.len() + 1 < LINES {
                histogram.push((millis(end), latency.count_between(start, end)));
                (start, end) = (end + 1, end * 2);
            }
            if start <= latency.max() {
                histogram.push((millis(latency.max()), latency.count_between(start, latency.max())));
            }
        }
        let count = latency.len();
        let per_second = count as f64 / time.as_secs_f64().max(1e-9);
        Self { count, per_second, latency_ms: told, histogram }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  latency  ")?;
        let order = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"];
        for (nth, name) in order.iter().enumerate() {
            let separator = if nth == 0 { "" } else { ", " };
            write!(
                f,
                "{separator}{name} {}",
                milliseconds(self.latency_ms.get(name).copied().unwrap_or(0.0))
            )?;
        }
        writeln!(f, " ms")?;
        let most = self.histogram.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        for (end, count) in &self.histogram {
            let bar = "#".repeat((count * WIDTH).div_ceil(most) as usize);
            writeln!(f, "{:>10} ms  {count:>10}  {bar}", milliseconds(*end))?;
        }
        Ok(())
    }
}

/// Three digits are what was measured.
fn milliseconds(value: f64) -> String {
    let decimals = if value < 1.0 { 3 } else { 2usize.saturating_sub(value.log10() as usize) };
    format!("{value:.decimals$}")
}

/// What came of a load.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    workload: &'static str,
    clients: usize,
    endpoints: Vec<String>,
    seconds: f64,
    requests: Spread,
    /// Keys in an answer, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_an_answer: Option<f64>,
    /// What watchers were told, from the moment at which a put was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Spread>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
}

impl Report {
    /// Of what was driven.
    pub fn of(workload: &'static str, load: &LoadArgs, driven: &Drive) -> Self {
        Self {
            workload,
            clients: load.clients.get(),
            endpoints: load.cluster.endpoints.clone(),
            seconds: driven.time.as_secs_f64(),
            requests: Spread::of(&driven.latency, driven.time),
            keys_an_answer: None,
            events: None,
            errors: driven.errors.clone(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, clients, seconds, requests, .. } = self;
        let endpoints = self.endpoints.join(",");
        writeln!(
            f,
            "{workload}: {} answers in {seconds:.2} s to {clients} clients of {endpoints}",
            requests.count
        )?;
        writeln!(f, "  rate     {:.0} a second", requests.per_second)?;
        if let Some(keys) = self.keys_an_answer {
            writeln!(f, "  keys     {keys:.1} an answer")?;
        }
        write!(f, "{requests}")?;
        if let Some(events) = &self.events {
            writeln!(f, "events: {}, {:.0} a second, from put to watcher", events.count, events.per_second)?;
            write!(f, "{events}")?;
        }
        for (error, count) in &self.errors {
            writeln!(f, "  {count} × {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::drive::latencies;
    use super::*;

    #[test]
    fn every_latency_is_in_one_class_and_the_last_class_holds_the_rest() {
        let mut latency = latencies();
        for micros in [90, 100, 110, 500, 3_000_000_000] {
            latency.record(micros).expect("within bounds");
        }
        let spread = Spread::of(&latency, Duration::from_secs(5));
        assert_eq!(spread.histogram.iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert_eq!(spread.histogram.len(), LINES);
        assert_eq!(spread.histogram[0], (0.128, 3));
        assert!((spread.per_second - 1.0).abs() < 1e-9);
        let none = Spread::of(&latencies(), Duration::ZERO);
        assert!(none.histogram.is_empty() && none.to_string().contains("p99 0.000"));
    }

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")] {
            assert_eq!(milliseconds(value), text);
        }
    }
}
