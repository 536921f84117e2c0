//! The spans that components wrote (OTLP/JSON, one export request a line), put together into traces.

mod export;
mod waterfall;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use export::{jaeger, otlp};
pub use waterfall::waterfall;

/// One span.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The pod that recorded it, or the service when it gave no name of its own.
    pub component: String,
    /// What was done.
    pub name: String,
    /// Its id, 16 hex digits.
    pub id: String,
    /// Id of the span that caused it; empty for the first.
    pub parent: String,
    /// Begin, nanoseconds since the epoch.
    pub start_ns: u64,
    /// End, nanoseconds since the epoch.
    pub end_ns: u64,
    /// Whether it failed.
    pub failed: bool,
    /// What else is known of it, by name.
    pub attributes: BTreeMap<String, String>,
    /// As it was written.
    #[serde(skip)]
    raw: Value,
    /// Who wrote it: OTLP's resource and scope.
    #[serde(skip)]
    origin: (Value, Value),
}

impl Span {
    fn new(raw: &Value, resource: &Value, scope: &Value) -> Option<(String, Self)> {
        let read = RawSpan::deserialize(raw).ok()?;
        let attribute = |name: &str| {
            let all = resource["attributes"].as_array()?;
            all.iter().find(|found| found["key"] == name)?["value"]["stringValue"].as_str().map(str::to_owned)
        };
        let component = attribute("service.instance.id").or_else(|| attribute("service.name"));
        let span = Self {
            component: component.unwrap_or_default(),
            name: read.name,
            id: read.span_id,
            parent: read.parent_span_id,
            start_ns: read.start_time_unix_nano.parse().ok()?,
            end_ns: read.end_time_unix_nano.parse().ok()?,
            failed: read.status.code == FAILED,
            attributes: read.attributes.iter().map(|pair| (pair.key.clone(), plain(&pair.value))).collect(),
            raw: raw.clone(),
            origin: (resource.clone(), scope.clone()),
        };
        Some((read.trace_id, span))
    }

    /// Its length in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    fn is_ask(&self) -> bool {
        self.attributes
            .get("path")
            .is_some_and(|path| path.starts_with("/api/v1/rag/") && path.ends_with("/query"))
    }
}

/// `STATUS_CODE_ERROR` of OTLP.
const FAILED: i64 = 2;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpan {
    trace_id: String,
    span_id: String,
    #[serde(default)]
    parent_span_id: String,
    name: String,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    #[serde(default)]
    attributes: Vec<RawAttribute>,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize)]
struct RawAttribute {
    key: String,
    #[serde(default)]
    value: Value,
}

#[derive(Default, Deserialize)]
struct RawStatus {
    #[serde(default)]
    code: i64,
}

/// OTLP's `{"intValue": "3"}` as `3`.
fn plain(value: &Value) -> String {
    let inner = value.as_object().and_then(|fields| fields.values().next()).unwrap_or(value);
    inner.as_str().map_or_else(|| inner.to_string(), str::to_owned)
}

/// All spans of one request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trace {
    /// Its id, 32 hex digits.
    pub trace_id: String,
    /// Its spans, in the order in which they began.
    pub spans: Vec<Span>,
}

impl Trace {
    /// The span that caused all others: the first without a parent in the trace.
    pub fn root(&self) -> Option<&Span> {
        let ids: BTreeSet<&str> = self.spans.iter().map(|span| span.id.as_str()).collect();
        self.spans.iter().find(|span| !ids.contains(span.parent.as_str()))
    }

    /// Parents that are named and not there: of a trace whose spans are not all written yet, or were set aside.
    pub fn missing_parents(&self) -> Vec<&str> {
        let ids: BTreeSet<&str> = self.spans.iter().map(|span| span.id.as_str()).collect();
        let named: BTreeSet<&str> = self.spans.iter().map(|span| span.parent.as_str()).collect();
        named.into_iter().filter(|parent| !parent.is_empty() && !ids.contains(parent)).collect()
    }

    /// Whether somebody asked a question.
    pub fn is_ask(&self) -> bool {
        self.spans.iter().any(Span::is_ask)
    }

    /// Begin, nanoseconds since the epoch.
    pub fn start_ns(&self) -> u64 {
        self.spans.iter().map(|span| span.start_ns).min().unwrap_or_default()
    }

    /// End, nanoseconds since the epoch.
    pub fn end_ns(&self) -> u64 {
        self.spans.iter().map(|span| span.end_ns).max().unwrap_or_default()
    }

    /// Who took part.
    pub fn components(&self) -> BTreeSet<&str> {
        self.spans.iter().map(|span| span.component.as_str()).collect()
    }
}

/// Reads the traces whose id begins with `prefix` from every file of a folder, the latest last. Lines that are cut or are
/// no export request are passed over: a full disk or a kill -9 leaves such.
pub fn read(folder: &Path, prefix: &str) -> io::Result<Vec<Trace>> {
    let mut traces: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".jsonl") && !name.ends_with(".jsonl.1") {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        for line in BufReader::new(file).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            if line.contains(prefix) {
                spans_of(&line, prefix, &mut traces);
            }
        }
    }
    let mut traces: Vec<Trace> = traces
        .into_iter()
        .map(|(trace_id, mut spans)| {
            spans.sort_by_key(|span| (span.start_ns, std::cmp::Reverse(span.end_ns)));
            Trace { trace_id, spans }
        })
        .collect();
    traces.sort_by_key(Trace::start_ns);
    Ok(traces)
}

fn spans_of(line: &str, prefix: &str, traces: &mut BTreeMap<String, Vec<Span>>) {
    let Ok(request) = serde_json::from_str::<Value>(line) else { return };
    for resource in request["resourceSpans"].as_array().into_iter().flatten() {
        for scope in resource["scopeSpans"].as_array().into_iter().flatten() {
            for raw in scope["spans"].as_array().into_iter().flatten() {
                if !raw["traceId"].as_str().is_some_and(|id| id.starts_with(prefix)) {
                    continue;
                }
                if let Some((trace, span)) = Span::new(raw, &resource["resource"], &scope["scope"]) {
                    traces.entry(trace).or_default().push(span);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A line of a component's file: `(span, parent, name, begin and end in milliseconds)` of one trace.
    pub(crate) fn line(component: &str, trace: &str, spans: &[(&str, &str, &str, u64, u64)]) -> String {
        let spans: Vec<Value> = spans
            .iter()
            .map(|(id, parent, name, start, end)| {
                serde_json::json!({
                    "traceId": trace, "spanId": id, "parentSpanId": parent, "name": name, "kind": 2, "flags": 257,
                    "startTimeUnixNano": (start * 1_000_000).to_string(), "endTimeUnixNano": (end * 1_000_000).to_string(),
                    "attributes": [{"key": "path", "value": {"stringValue": "/api/v1/rag/handbook/query"}},
                                   {"key": "prompt_tokens", "value": {"intValue": "177"}}],
                    "status": {"code": 0, "message": ""},
                })
            })
            .collect();
        let resource = serde_json::json!({"attributes": [
            {"key": "service.name", "value": {"stringValue": component.trim_end_matches("-0")}},
            {"key": "service.instance.id", "value": {"stringValue": component}},
        ]});
        let request = serde_json::json!({"resourceSpans": [
            {"resource": resource, "scopeSpans": [{"scope": {"name": component}, "spans": spans}]},
        ]});
        format!("{request}\n")
    }

    pub(crate) fn one() -> Trace {
        let folder = tempfile::tempdir().expect("a folder");
        let write =
            |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        write(
            "modelhub-0.jsonl",
            line(
                "modelhub-0",
                "abc1",
                &[("01", "", "POST /q", 1_000, 1_500), ("02", "01", "retrieve", 1_010, 1_030)],
            ),
        );
        write(
            "tinykv-0.jsonl.1",
            line("tinykv-0", "abc1", &[("03", "02", "etcdserverpb.KV/Range", 1_011, 1_012)]),
        );
        write(
            "tinykv-0.jsonl",
            format!("{{\"resourceSpans\": [cut\n{}", line("tinykv-0", "ffff", &[("09", "", "x", 1, 2)])),
        );
        write("notes.txt", "abc1".to_owned());
        read(folder.path(), "abc").expect("read").pop().expect("a trace")
    }

    #[test]
    fn a_trace_is_put_together_from_every_file() {
        let trace = one();
        assert_eq!(trace.trace_id, "abc1");
        let ids: Vec<&str> = trace.spans.iter().map(|span| span.id.as_str()).collect();
        assert_eq!(ids, ["01", "02", "03"]);
        assert_eq!(trace.root().map(|span| span.name.as_str()), Some("POST /q"));
        assert_eq!(trace.missing_parents(), [""; 0]);
        assert!(trace.is_ask());
        assert_eq!(trace.components().into_iter().collect::<Vec<_>>(), ["modelhub-0", "tinykv-0"]);
        assert_eq!(trace.spans[0].attributes["prompt_tokens"], "177");
        let part = Trace { spans: trace.spans[1..].to_vec(), ..trace };
        assert_eq!(part.missing_parents(), ["01"]);
    }
}
