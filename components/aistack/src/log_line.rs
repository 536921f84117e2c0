//! A component's JSON log line as a person reads it; every other line stays as it is.

use console::style;
use serde_json::{Map, Value};

/// Fields that are told in another way, or tell a person nothing.
const HIDDEN: [&str; 7] = ["timestamp", "level", "message", "target", "span", "spans", "threadId"];

/// One line for people: time, level, message, fields.
pub fn readable(line: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let (Some(level), Some(message)) = (text(&fields, "level"), text(&fields, "message")) else {
        return line.to_owned();
    };
    let time =
        text(&fields, "timestamp").and_then(|stamp| stamp.split('T').nth(1)?.get(..12)).unwrap_or_default();
    let level = match level {
        "ERROR" => style("ERROR").red(),
        "WARN" => style("WARN ").yellow(),
        "INFO" => style("INFO ").green(),
        other => style(other).dim(),
    };
    let mut parts = vec![style(time).dim().to_string(), level.to_string(), message.to_owned()];
    for (name, value) in fields.iter().filter(|(name, _)| !HIDDEN.contains(&name.as_str())) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        parts.push(style(format!("{name}={value}")).dim().to_string());
    }
    parts.join(" ")
}

/// What a line complains of: the message of a warning or an error, or a line that is no log record at all.
pub fn complaint(line: &str) -> Option<String> {
    let line = line.trim();
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else {
        return (!line.is_empty()).then(|| line.to_owned());
    };
    let serious = matches!(text(&fields, "level"), Some("ERROR" | "WARN"));
    let message = text(&fields, "message").filter(|_| serious)?;
    Some(match text(&fields, "error") {
        Some(error) => format!("{message}: {error}"),
        None => message.to_owned(),
    })
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_made_readable_and_the_rest_is_left_alone() {
        console::set_colors_enabled(false);
        let table = [
            (
                r#"{"timestamp":"2026-11-21T10:12:55.937614Z","level":"INFO","message":"serving","address":"127.0.0.1:8080","n":3,"target":"x"}"#,
                "10:12:55.937 INFO  serving address=127.0.0.1:8080 n=3",
            ),
            ("thread 'main' panicked", "thread 'main' panicked"),
            (r#"{"no":"record"}"#, r#"{"no":"record"}"#),
            ("", ""),
        ];
        for (line, wanted) in table {
            assert_eq!(readable(line), wanted);
        }
    }

    #[test]
    fn complaints() {
        let table = [
            (r#"{"level":"INFO","message":"serving"}"#, None),
            (r#"{"level":"ERROR","message":"bind","error":"in use"}"#, Some("bind: in use")),
            (r#"{"level":"WARN","message":"slow disk"}"#, Some("slow disk")),
            ("error: no such model", Some("error: no such model")),
            ("  ", None),
        ];
        for (line, wanted) in table {
            assert_eq!(complaint(line).as_deref(), wanted, "{line}");
        }
    }
}
