//! Log lines as zap writes them for etcd, for whoever has taught a log shipper to read those.

use std::fmt;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `{"level":"info","ts":"2026-01-02T03:04:05.678901Z","caller":"tinykv/serve.rs:103","msg":"…",…}`. Names of fields have
/// dashes, as etcd's have. Spans are left out, as etcd has none in its log.
///
/// For people: the time, the level, the caller and the message, separated by tabs, and the fields as JSON behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZapLines {
    /// For log shippers.
    Json,
    /// For people.
    Console,
}

/// Keys that every line has.
const OWN_KEYS: [&str; 4] = ["level", "ts", "caller", "msg"];

impl<S, N> FormatEvent<S, N> for ZapLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut said = Said::default();
        event.record(&mut said);
        let level = metadata.level().as_str().to_lowercase().replace("trace", "debug");
        let file = said.file.as_deref().or(metadata.file());
        let line = said.line.or(metadata.line().map(u64::from));
        let caller = match (file, line) {
            (Some(file), Some(line)) => format!("{}:{line}", short(file)),
            _ => metadata.target().to_owned(),
        };
        match self {
            Self::Json => {
                write!(out, r#"{{"level":"{level}","ts":""#)?;
                SystemTime.format_time(&mut out)?;
                write!(out, r#"","caller":{},"msg":{}"#, Value::from(caller), Value::from(said.message))?;
                for (name, value) in said.fields {
                    write!(out, ",{}:{value}", Value::from(name))?;
                }
                writeln!(out, "}}")
            }
            Self::Console => {
                SystemTime.format_time(&mut out)?;
                // A line is one line, whatever is said.
                write!(out, "\t{level}\t{caller}\t{}", said.message.replace('\n', "\\n"))?;
                let end = if said.fields.is_empty() { "" } else { "}" };
                for (nth, (name, value)) in said.fields.into_iter().enumerate() {
                    let before = if nth == 0 { "\t{" } else { ", " };
                    write!(out, "{before}{}: {value}", Value::from(name))?;
                }
                writeln!(out, "{end}")
            }
        }
    }
}

/// The crate and the file: `components/tinykv/src/serve.rs` is `tinykv/serve.rs`.
fn short(file: &str) -> String {
    let parts: Vec<&str> = file.split('/').filter(|part| *part != "src").collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

/// The fields of an event.
#[derive(Default)]
struct Said {
    message: String,
    /// Where it was said, of what comes from the crate `log`.
    file: Option<String>,
    line: Option<u64>,
    fields: Vec<(String, Value)>,
}

impl Said {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), &value) {
            ("message", Value::String(text)) => self.message.clone_from(text),
            ("log.file", Value::String(file)) => self.file = Some(file.clone()),
            ("log.line", line) => self.line = line.as_u64(),
            (name, _) if name.starts_with("log.") => {}
            (name, _) => {
                let mut name = name.strip_prefix("r#").unwrap_or(name).replace('_', "-");
                if OWN_KEYS.contains(&&*name) {
                    // A key that stands there twice is read as either, or not at all.
                    name.insert_str(0, "field-");
                }
                self.fields.push((name, value));
            }
        }
    }
}

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("alone").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_is_what_zap_writes() {
        let kept = Kept::default();
        let subscriber =
            tracing_subscriber::fmt().with_writer(kept.clone()).event_format(ZapLines::Json).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(remote_addr = "a\"b", count = 3, took = ?std::time::Duration::from_millis(2), "it says \"no\"");
        });
        let text = String::from_utf8(kept.0.lock().expect("alone").clone()).expect("text");
        assert!(text.starts_with(r#"{"level":"warn","ts":"2"#) && text.ends_with("}\n"), "{text}");
        let line: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["msg"], "it says \"no\"");
        assert_eq!(
            (line["remote-addr"].as_str(), line["count"].as_u64(), line["took"].as_str()),
            (Some("a\"b"), Some(3), Some("2ms"))
        );
        let caller = line["caller"].as_str().expect("a caller");
        assert!(caller.starts_with("chassis/zap_lines.rs:"), "{caller}");
        let time = line["ts"].as_str().expect("a time");
        assert!(time.len() == "2026-01-02T03:04:05.678901Z".len() && time.ends_with('Z'), "{time}");
    }

    fn said(format: ZapLines, say: impl FnOnce()) -> String {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt().with_writer(kept.clone()).event_format(format).finish();
        tracing::subscriber::with_default(subscriber, say);
        let bytes = kept.0.lock().expect("alone").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_field_of_a_name_that_every_line_has_gets_another() {
        let text = said(ZapLines::Json, || {
            tracing::info!(level = 3, ts = 4, caller = "c", msg = "m", r#type = "t", "said");
        });
        for key in ["level", "ts", "caller", "msg"] {
            assert_eq!(text.matches(&format!("\"{key}\":")).count(), 1, "{text}");
        }
        let line: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&line["msg"], &line["field-msg"], &line["field-level"]),
            (&"said".into(), &"m".into(), &3.into())
        );
    }

    #[test]
    fn for_people_a_line_is_what_zap_writes_on_a_console() {
        let text = said(ZapLines::Console, || tracing::info!(count = 3, name = "a", "two\nlines"));
        let parts: Vec<&str> = text.trim_end().split('\t').collect();
        assert_eq!((parts.len(), parts[1], parts[3]), (5, "info", "two\\nlines"), "{text}");
        assert_eq!(parts[4], r#"{"count": 3, "name": "a"}"#);
        assert!(parts[2].starts_with("chassis/zap_lines.rs:"), "{text}");
        let bare = said(ZapLines::Console, || tracing::warn!("bare"));
        assert!(bare.ends_with("\tbare\n") && bare.contains("\twarn\t"), "{bare}");
    }
}
