//! Pushes the Prometheus registry over OTLP, so that one registry serves both worlds.
//!
//! The OpenMetrics text is turned into OTLP data points (OpenTelemetry's "Prometheus and OpenMetrics Compatibility"):
//! counters become monotonic sums, gauges gauges, histograms explicit-bucket histograms.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource as ResourceProto;
use opentelemetry_sdk::Resource;
use tonic::transport::Endpoint;

use crate::Metrics;

const INTERVAL: Duration = Duration::from_secs(15);

/// Sends all metrics every 15 s. A collector that is away costs one warning until it is back.
pub async fn push(endpoint: String, resource: Resource, metrics: Metrics) {
    let channel = match Endpoint::from_shared(endpoint.clone()) {
        Ok(endpoint) => endpoint.timeout(Duration::from_secs(5)).connect_lazy(),
        Err(error) => {
            tracing::error!(%endpoint, %error, "metrics are not pushed");
            return;
        }
    };
    let mut client = MetricsServiceClient::new(channel);
    let started = now();
    let mut reachable = true;
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(ResourceProto::from(&resource)),
                scope_metrics: vec![ScopeMetrics {
                    metrics: convert(&metrics.encode(), started, now()),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        match client.export(request).await {
            Ok(_) => reachable = true,
            Err(error) if reachable => {
                tracing::warn!(%endpoint, %error, "metrics could not be pushed; trying again every 15 s");
                reachable = false;
            }
            Err(_) => {}
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// One line of OpenMetrics text.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

#[derive(Default)]
struct Family<'a> {
    kind: &'a str,
    help: &'a str,
    samples: Vec<Sample<'a>>,
}

fn convert(text: &str, started: u64, time: u64) -> Vec<Metric> {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            if let Some((name, kind)) = rest.split_once(' ') {
                current = name;
                families.entry(name).or_default().kind = kind;
            }
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            if let Some((name, help)) = rest.split_once(' ') {
                current = name;
                families.entry(name).or_default().help = help;
            }
        } else if !line.starts_with('#')
            && let Some(sample) = parse(line)
        {
            families.entry(current).or_default().samples.push(sample);
        }
    }
    families.into_iter().filter_map(|(name, family)| metric(name, &family, started, time)).collect()
}

fn parse(line: &str) -> Option<Sample<'_>> {
    let (head, value) = if line.contains('{') {
        let close = line.rfind('}')?;
        (&line[..=close], line[close + 1..].trim_start())
    } else {
        line.split_once(' ')?
    };
    let value = value.split(' ').next()?.parse().ok()?;
    let Some((name, inside)) = head.split_once('{') else {
        return Some(Sample { name: head, labels: Vec::new(), value });
    };
    Some(Sample { name, labels: labels(inside.strip_suffix('}')?), value })
}

/// `a="1",b="x\"y"` → pairs, with the escapes of the exposition format undone.
fn labels(mut text: &str) -> Vec<(&str, String)> {
    let mut pairs = Vec::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, character)) = chars.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped)) => value.push(escaped),
                    None => {}
                },
                other => value.push(other),
            }
        }
        pairs.push((name.trim_start_matches(','), value));
        text = &rest[end..];
    }
    pairs
}

fn metric(name: &str, family: &Family<'_>, started: u64, time: u64) -> Option<Metric> {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let point = |sample: &Sample<'_>| NumberDataPoint {
        attributes: attributes(&sample.labels),
        start_time_unix_nano: started,
        time_unix_nano: time,
        value: Some(number_data_point::Value::AsDouble(sample.value)),
        ..NumberDataPoint::default()
    };
    let data = match family.kind {
        "counter" => Data::Sum(Sum {
            data_points: family.samples.iter().map(point).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        "histogram" => Data::Histogram(Histogram {
            data_points: histogram_points(&family.samples, started, time),
            aggregation_temporality: cumulative,
        }),
        "gauge" | "info" => Data::Gauge(Gauge { data_points: family.samples.iter().map(point).collect() }),
        _ => return None,
    };
    Some(Metric {
        name: name.to_owned(),
        description: family.help.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn histogram_points(samples: &[Sample<'_>], started: u64, time: u64) -> Vec<HistogramDataPoint> {
    let mut points: BTreeMap<Vec<(&str, String)>, (HistogramDataPoint, u64)> = BTreeMap::new();
    for sample in samples {
        let mut labels = sample.labels.clone();
        let bound = labels.iter().position(|(name, _)| *name == "le").map(|at| labels.remove(at).1);
        let (point, below) = points.entry(labels).or_default();
        match bound {
            // Buckets come in order, each counting all below its bound; OTLP counts each bucket alone.
            Some(bound) => {
                let count = sample.value as u64;
                point.bucket_counts.push(count.saturating_sub(*below));
                *below = count;
                if let Some(bound) = bound.parse().ok().filter(|bound: &f64| bound.is_finite()) {
                    point.explicit_bounds.push(bound);
                }
            }
            None if sample.name.ends_with("_sum") => point.sum = Some(sample.value),
            None => point.count = sample.value as u64,
        }
    }
    points
        .into_iter()
        .map(|(labels, (mut point, _))| {
            point.attributes = attributes(&labels);
            point.start_time_unix_nano = started;
            point.time_unix_nano = time;
            point
        })
        .collect()
}

fn attributes(labels: &[(&str, String)]) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(name, value)| KeyValue {
            key: (*name).to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.clone())) }),
            ..KeyValue::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_text_becomes_otlp() {
        let text = "# HELP hits Hits.\n# TYPE hits counter\nhits_total{path=\"/a\\\"b,c\"} 3\n\
                    # HELP wait Wait.\n# TYPE wait histogram\nwait_sum 1.5\nwait_count 4\n\
                    wait_bucket{le=\"0.1\"} 1\nwait_bucket{le=\"1.0\"} 3\nwait_bucket{le=\"+Inf\"} 4\n\
                    # HELP depth Depth.\n# TYPE depth gauge\ndepth 2\n# EOF\n";
        let metrics = convert(text, 1, 2);
        let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["depth", "hits", "wait"]);
        let Some(Data::Sum(sum)) = &metrics[1].data else { panic!("{:?}", metrics[1]) };
        assert!(sum.is_monotonic);
        let label = sum.data_points[0].attributes[0].value.clone();
        assert_eq!(label.unwrap().value, Some(any_value::Value::StringValue("/a\"b,c".to_owned())));
        let Some(Data::Histogram(histogram)) = &metrics[2].data else { panic!("{:?}", metrics[2]) };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(1.5)));
        assert_eq!(point.bucket_counts, [1, 2, 1]);
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
    }
}
