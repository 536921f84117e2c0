//! A trace as one file that other tools open: OTLP JSON, and the JSON of Jaeger's UI.

use serde_json::{Value, json};

use super::{Span, Trace};

/// An `ExportTraceServiceRequest` (opentelemetry.io/docs/specs/otlp, JSON encoding).
pub fn otlp(trace: &Trace) -> Value {
    let mut origins: Vec<(&(Value, Value), Vec<&Value>)> = Vec::new();
    for span in &trace.spans {
        match origins.iter_mut().find(|(origin, _)| **origin == span.origin) {
            Some((_, spans)) => spans.push(&span.raw),
            None => origins.push((&span.origin, vec![&span.raw])),
        }
    }
    let resources: Vec<Value> = origins
        .into_iter()
        .map(|((resource, scope), spans)| json!({"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}))
        .collect();
    json!({"resourceSpans": resources})
}

/// What Jaeger's query service answers and its UI uploads (`model/json` of Jaeger).
pub fn jaeger(trace: &Trace) -> Value {
    let components: Vec<&str> = trace.components().into_iter().collect();
    let process = |component: &str| {
        let place = components.iter().position(|known| *known == component).unwrap_or_default();
        format!("p{}", place + 1)
    };
    let processes: serde_json::Map<String, Value> = components
        .iter()
        .map(|component| (process(component), json!({"serviceName": component, "tags": []})))
        .collect();
    let spans: Vec<Value> = trace
        .spans
        .iter()
        .map(|span| jaeger_span(&trace.trace_id, span, &process(&span.component)))
        .collect();
    let data = json!({"traceID": trace.trace_id, "spans": spans, "processes": processes, "warnings": null});
    json!({"data": [data], "total": 0, "limit": 0, "offset": 0, "errors": null})
}

fn jaeger_span(trace_id: &str, span: &Span, process: &str) -> Value {
    let mut tags: Vec<Value> = span
        .attributes
        .iter()
        .map(|(key, value)| json!({"key": key, "type": "string", "value": value}))
        .collect();
    if span.failed {
        tags.push(json!({"key": "error", "type": "bool", "value": true}));
    }
    let references = if span.parent.is_empty() {
        json!([])
    } else {
        json!([{"refType": "CHILD_OF", "traceID": trace_id, "spanID": span.parent}])
    };
    json!({
        "traceID": trace_id,
        "spanID": span.id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start_ns / 1_000,
        "duration": span.duration_ns() / 1_000,
        "tags": tags,
        "logs": [],
        "processID": process,
        "warnings": null,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::one;
    use super::*;

    #[test]
    fn otlp_keeps_what_was_written() {
        let request = otlp(&one());
        let resources = request["resourceSpans"].as_array().expect("a list");
        assert_eq!(resources.len(), 2, "one of each component");
        assert_eq!(resources[0]["scopeSpans"][0]["spans"].as_array().map(Vec::len), Some(2));
        assert_eq!(resources[1]["scopeSpans"][0]["spans"][0]["startTimeUnixNano"], "1011000000");
    }

    #[test]
    fn jaeger_names_every_process_and_parent() {
        let file = jaeger(&one());
        let data = &file["data"][0];
        let names: Vec<&str> = data["processes"]
            .as_object()
            .expect("processes")
            .values()
            .filter_map(|p| p["serviceName"].as_str())
            .collect();
        assert_eq!(names, ["modelhub-0", "tinykv-0"]);
        let spans = data["spans"].as_array().expect("spans");
        assert_eq!(spans[0]["references"], json!([]));
        assert_eq!(
            spans[2]["references"][0],
            json!({"refType": "CHILD_OF", "traceID": "abc1", "spanID": "02"})
        );
        assert_eq!(
            (spans[2]["startTime"].as_u64(), spans[2]["duration"].as_u64()),
            (Some(1_011_000), Some(1_000))
        );
        for span in spans {
            assert!(data["processes"][span["processID"].as_str().expect("a process")].is_object());
        }
    }
}
