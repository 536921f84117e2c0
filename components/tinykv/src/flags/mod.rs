//! etcd's flags, its `ETCD_*` variables and its configuration file, as settings of tinykv.
//!
//! What has the same meaning here is set. What has none and cannot do harm is named in a warning. What would have to be
//! done and is not done is refused by name.

mod logs;
mod table;
#[cfg(test)]
mod tests;
mod tracing;
mod values;

use aistack_chassis::LogOutputs;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use table::{Meaning, OFF, SWITCHES, meaning};
use values::address;

/// What became of a command line.
#[derive(Debug, Default, PartialEq)]
pub struct Flags {
    /// Settings, as the configuration file would hold them.
    pub settings: Map<String, Value>,
    /// What etcd's `--log-level` asks for.
    pub log_level: Option<String>,
    /// The form of log lines that is asked for.
    pub log_format: Option<String>,
    /// Where log lines go.
    pub log_outputs: LogOutputs,
    /// What is left of the command line.
    pub rest: Vec<String>,
    /// Sentences for the operator.
    pub warnings: Vec<String>,
}

/// Why etcd's settings cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// The flag came last.
    #[error("--{flag} needs a value")]
    NoValue {
        /// The flag.
        flag: String,
    },
    /// Its value is not one.
    #[error("--{flag}={value}: {reason}")]
    Value {
        /// The flag.
        flag: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// etcd does something then that tinykv does not.
    #[error("--{flag}={value}: {reason}")]
    Absent {
        /// The flag.
        flag: String,
        /// The value.
        value: String,
        /// What tinykv does instead, or what to do.
        reason: &'static str,
    },
    /// The file cannot be used.
    #[error("--config-file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// What says more of the encryption that a certificate brings.
const OF_CERTIFICATE: [&str; 3] = ["cipher-suites", "client-crl-file", "client-cert-allowed-hostname"];

/// Takes etcd's flags out of a command line, and adds what `ETCD_*` variables and etcd's file say. With a file, as with
/// etcd, flags and variables do not count; else a flag goes before its variable.
pub fn read(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Flags, FlagError> {
    let mut flags = Flags::default();
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut file = None;
    for (name, value) in environment {
        let Some(name) = name.strip_prefix("ETCD_") else { continue };
        let flag = name.to_lowercase().replace('_', "-");
        match flag.as_str() {
            "config-file" => file = Some(value),
            // etcd's own switches that are no flags.
            "unsupported-arch" | "verify" => {}
            _ if meaning(&flag).is_some() => {
                given.insert(flag, value);
            }
            _ => flags.warnings.push(format!("ETCD_{name} names no flag of etcd's; it is ignored")),
        }
    }
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let bare = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).unwrap_or("");
        let (flag, value) = bare.split_once('=').map_or((bare, None), |(flag, value)| (flag, Some(value)));
        if flag != "config-file" && meaning(flag).is_none() {
            flags.rest.push(argument);
            continue;
        }
        let flag = flag.to_owned();
        let value = match value {
            Some(value) => value.to_owned(),
            None if SWITCHES.contains(&flag.as_str()) => "true".to_owned(),
            None => arguments.next().ok_or_else(|| FlagError::NoValue { flag: flag.clone() })?,
        };
        if flag == "config-file" {
            file = Some(value);
        } else {
            given.insert(flag, value);
        }
    }
    if let Some(path) = file {
        if !given.is_empty() {
            let names = given.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            flags.warnings.push(format!(
                "with --config-file, as with etcd, other flags and variables do not count: {names}"
            ));
        }
        given = from_file(&path)?;
    }
    let is_on = |flag: &str| given.get(flag).is_some_and(|value| !OFF.contains(&value.as_str()));
    for flag in given.keys().filter(|flag| is_on(flag)) {
        if let Some(Meaning::With(other, why)) = meaning(flag)
            && !is_on(other)
        {
            let reason = format!("it needs --{other}: {why}");
            return Err(FlagError::Value { flag: flag.clone(), value: given[flag].clone(), reason });
        }
    }
    // etcd asks for certificates then, and takes no user from them.
    if is_on("trusted-ca-file") && !is_on("client-cert-auth") {
        put(&mut flags.settings, "auth.certificate_names", false.into());
    }
    flags.log_outputs = logs::outputs(&given)?;
    tracing::read(&given, &mut flags.settings)?;
    // etcd's defaults, spelled out, ask for nothing.
    let discovers = ["discovery-token", "discovery-endpoints"].iter().any(|flag| is_on(flag));
    let has_certificate = is_on("cert-file");
    for (flag, value) in given {
        if OF_CERTIFICATE.contains(&flag.as_str()) && !has_certificate {
            flags.warnings.push(format!("--{flag} changes nothing: it goes with --cert-file"));
            continue;
        }
        if discovers || !flag.starts_with("discovery-") || matches!(meaning(&flag), Some(Meaning::Only(..))) {
            flags.take(&flag, value)?;
        }
    }
    Ok(flags)
}

impl Flags {
    fn take(&mut self, flag: &str, value: String) -> Result<(), FlagError> {
        match meaning(flag) {
            Some(Meaning::Set(path, read)) => {
                let value = read(&value).map_err(|reason| FlagError::Value {
                    flag: flag.to_owned(),
                    value,
                    reason,
                })?;
                if !value.is_null() {
                    put(&mut self.settings, path, value);
                }
            }
            Some(Meaning::Listeners) => {
                let wrong = |reason| FlagError::Value { flag: flag.to_owned(), value: value.clone(), reason };
                self.listen(flag == "listen-client-urls", &value).map_err(wrong)?;
            }
            Some(Meaning::PeerListeners) => {
                let read = value.split(',').filter(|url| !url.is_empty()).map(address).collect();
                let all: Result<Vec<_>, _> = read;
                let mut all = all
                    .map_err(|reason| FlagError::Value { flag: flag.to_owned(), value, reason })?
                    .into_iter();
                if let Some(own) = all.next() {
                    put(&mut self.settings, "listen_peer", own);
                }
                if all.len() > 0 {
                    put(&mut self.settings, "more_peer_listeners", all.collect());
                }
            }
            Some(Meaning::MetricsListeners) => {
                let wrong = |reason| FlagError::Value { flag: flag.to_owned(), value: value.clone(), reason };
                let all = listeners(&value).map_err(wrong)?;
                if !all.is_empty() {
                    put(&mut self.settings, "metrics_listeners", all.into());
                }
            }
            Some(Meaning::LogForm) => self.log_format = Some(value),
            Some(Meaning::LogLevel) => {
                self.log_level = Some(value.replace("panic", "error").replace("fatal", "error"));
            }
            Some(Meaning::Only(values, reason)) if !values.contains(&value.as_str()) => {
                return Err(FlagError::Absent { flag: flag.to_owned(), value, reason });
            }
            Some(Meaning::Only(..) | Meaning::With(..) | Meaning::Together) => {}
            Some(Meaning::Needless(why)) => self.warnings.push(format!("--{flag} changes nothing: {why}")),
            None => self.warnings.push(format!("{flag} is no setting of etcd's; it is ignored")),
        }
        Ok(())
    }
}

impl Flags {
    /// Adds addresses for clients. The first one is the member's own; those of TLS come before those without.
    fn listen(&mut self, first: bool, urls: &str) -> Result<(), String> {
        let mut all = listeners(urls)?;
        all.sort_by_key(|listener| listener["in_the_clear"] == true);
        let mut all = all.into_iter();
        if first && let Some(own) = all.next() {
            put(&mut self.settings, "listen_client", own["address"].clone());
        }
        let more: Vec<Value> = all.collect();
        if !more.is_empty() {
            let list = self.settings.entry("more_listeners").or_insert_with(|| json!([]));
            list.as_array_mut().expect("only this makes it").extend(more);
        }
        Ok(())
    }
}

/// The addresses of URLs, and which of them are without TLS.
fn listeners(urls: &str) -> Result<Vec<Value>, String> {
    let read = |url: &str| {
        let in_the_clear = url.starts_with("http://");
        Ok(json!({"address": address(url)?, "in_the_clear": in_the_clear}))
    };
    urls.split(',').filter(|url| !url.is_empty()).map(read).collect()
}

fn put(settings: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            settings.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = settings.entry(first).or_insert_with(|| json!({}));
            if let Some(inner) = inner.as_object_mut() {
                put(inner, rest, value);
            }
        }
    }
}

/// etcd's own file: flags by their names, those of TLS in sections.
fn from_file(path: &str) -> Result<BTreeMap<String, String>, FlagError> {
    let failed = |reason: String| FlagError::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let file: Value = serde_yaml_ng::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let Value::Object(file) = file else { return Err(failed("it is no mapping of settings".to_owned())) };
    let mut given = BTreeMap::new();
    for (name, value) in file {
        let prefix = match name.as_str() {
            "client-transport-security" => "",
            "peer-transport-security" => "peer-",
            _ => {
                given.insert(name, plain(&value));
                continue;
            }
        };
        for (name, value) in value.as_object().into_iter().flatten() {
            // Here the file has other names than the command line.
            let flag = match (prefix, name.as_str()) {
                ("peer-", "allowed-cn" | "allowed-cns") => "peer-cert-allowed-cn".to_owned(),
                ("peer-", "allowed-hostname" | "allowed-hostnames") => {
                    "peer-cert-allowed-hostname".to_owned()
                }
                ("", allowed) if allowed.starts_with("allowed-") => "client-cert-allowed-hostname".to_owned(),
                _ => format!("{prefix}{name}"),
            };
            given.insert(flag, plain(value));
        }
    }
    Ok(given)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
