//! One validated struct per binary, from a YAML file, the environment, and flags; later sources win.
//!
//! Unknown fields are errors, wherever they come from. An environment variable `TINYKV_SERVER__ADMIN_LISTEN` sets
//! `server.admin_listen`: the prefix, then the path with `__` between its parts. Values are read as YAML scalars.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{CommonArgs, Component};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no YAML.
    #[error("configuration file {}: {source}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml_ng::Error,
    },
    /// The file holds something else than a mapping.
    #[error("configuration file {}: expected a mapping of settings, found {found}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: &'static str,
    },
    /// `--set` without `=`.
    #[error("--set {given}: expected PATH=VALUE, such as --set server.limits.max_connections=100")]
    Set {
        /// The argument.
        given: String,
    },
    /// The merged settings do not fit the struct.
    #[error("configuration: {path}: {message}{origin}")]
    Invalid {
        /// Path of the setting.
        path: String,
        /// What is wrong with it.
        message: String,
        /// Where its value came from.
        origin: String,
    },
}

/// Reads the effective configuration: `file < environment < overrides < --set`.
///
/// `overrides` carries the component's own flags as a JSON object; `Value::Null` says there are none. With
/// `--print-config` the effective configuration is printed and the process ends.
pub fn load<C>(component: &Component, args: &CommonArgs, overrides: Value) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Serialize,
{
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config: C = resolve(component, args, environment, overrides)?;
    if args.print_config {
        print_and_exit(&config);
    }
    Ok(config)
}

fn print_and_exit<C: Serialize>(config: &C) -> ! {
    match serde_yaml_ng::to_string(config) {
        Ok(text) => {
            print!("{text}");
            std::process::exit(0)
        }
        Err(error) => {
            eprintln!("error: print the configuration: {error}");
            std::process::exit(1)
        }
    }
}

fn resolve<C: DeserializeOwned>(
    component: &Component,
    args: &CommonArgs,
    environment: impl Iterator<Item = (String, String)>,
    overrides: Value,
) -> Result<C, ConfigError> {
    let mut merged = Value::Object(Map::new());
    let mut origins = Vec::new();
    if let Some(path) = &args.config {
        merge(&mut merged, read_file(path)?);
        origins.push((String::new(), path.display().to_string()));
    }
    for (name, value) in environment {
        if let Some(path) = env_path(component.env_prefix, &name) {
            origins.push((path.join("."), format!("environment variable {name}")));
            merge(&mut merged, nest(&path, scalar(&value)));
        }
    }
    if overrides.is_object() {
        note_flags(&overrides, &mut Vec::new(), &mut origins);
        merge(&mut merged, overrides);
    }
    for given in &args.set {
        let (path, value) = given.split_once('=').ok_or_else(|| ConfigError::Set { given: given.clone() })?;
        let parts: Vec<_> = path.split('.').map(str::to_owned).collect();
        origins.push((path.to_owned(), format!("--set {given}")));
        merge(&mut merged, nest(&parts, scalar(value)));
    }
    serde_path_to_error::deserialize(merged).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let origin = origin_of(&path, &message, &origins);
        let path = if path == "." { "top level".to_owned() } else { path };
        ConfigError::Invalid { path, message, origin }
    })
}

fn read_file(path: &Path) -> Result<Value, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let value: Value = serde_yaml_ng::from_str(&text)
        .map_err(|source| ConfigError::Yaml { path: path.to_owned(), source })?;
    let found = match value {
        Value::Object(_) => return Ok(value),
        Value::Null => return Ok(Value::Object(Map::new())),
        Value::Array(_) => "a list",
        Value::String(_) => "a text",
        Value::Bool(_) | Value::Number(_) => "a single value",
    };
    Err(ConfigError::Shape { path: path.to_owned(), found })
}

/// The setting that a variable names, or `None` when the variable is not ours.
///
/// Kubernetes injects `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT…` and `NAME_PORT…` for every Service of the namespace, with
/// our own prefix when the Service has our name. None of them is a setting.
fn env_path(prefix: &str, name: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(prefix)?;
    let injected = rest == "PORT"
        || rest.starts_with("PORT_")
        || rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || rest.contains("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || (rest.contains("_PORT_") && (rest.contains("_TCP") || rest.contains("_UDP")));
    if rest.is_empty() || injected {
        return None;
    }
    Some(rest.to_ascii_lowercase().split("__").map(str::to_owned).collect())
}

/// A text as YAML reads it: `5` is a number, `true` a boolean, `[a, b]` a list; anything else stays text.
fn scalar(text: &str) -> Value {
    if text.is_empty() {
        return Value::String(String::new());
    }
    serde_yaml_ng::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn nest(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |inner, part| Value::Object(Map::from_iter([(part.clone(), inner)])))
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(present) => merge(present, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn note_flags(value: &Value, path: &mut Vec<String>, origins: &mut Vec<(String, String)>) {
    if let Value::Object(fields) = value {
        for (key, inner) in fields {
            path.push(key.clone());
            note_flags(inner, path, origins);
            path.pop();
        }
    } else {
        origins.push((path.join("."), "a flag".to_owned()));
    }
}

/// The last source that set `path` or something below it; unknown fields are looked up by the name in the message.
fn origin_of(path: &str, message: &str, origins: &[(String, String)]) -> String {
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let wanted = match unknown {
        Some(field) if path == "." => field.to_owned(),
        Some(field) if !path.ends_with(field) => format!("{path}.{field}"),
        _ => path.to_owned(),
    };
    let found = origins
        .iter()
        .rev()
        .find(|(set, _)| set.is_empty() || *set == wanted || set.starts_with(&format!("{wanted}.")));
    found.map(|(_, origin)| format!(" (from {origin})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    const COMPONENT: Component = Component { name: "demo", env_prefix: "DEMO_", version: "0" };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Demo {
        data_dir: PathBuf,
        name: String,
        limits: Inner,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        size: u64,
    }

    impl Default for Demo {
        fn default() -> Self {
            Self { data_dir: "data".into(), name: "n".into(), limits: Inner::default() }
        }
    }

    fn load_with(
        file: Option<&str>,
        env: &[(&str, &str)],
        flags: Value,
        set: &[&str],
    ) -> Result<Demo, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.yaml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let args = CommonArgs {
            config: file.map(|_| path),
            set: set.iter().map(|&text| text.to_owned()).collect(),
            ..CommonArgs::default()
        };
        let env: Vec<_> = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        resolve(&COMPONENT, &args, env.into_iter(), flags)
    }

    #[test]
    fn later_sources_win() {
        let size = |file, env: &[(&str, &str)], flags, set: &[&str]| {
            load_with(file, env, flags, set).unwrap().limits.size
        };
        let env = [("DEMO_LIMITS__SIZE", "2")];
        let flags = || serde_json::json!({"limits": {"size": 3}});
        assert_eq!(size(None, &[], Value::Null, &[]), 0);
        assert_eq!(size(Some("limits: {size: 1}"), &[], Value::Null, &[]), 1);
        assert_eq!(size(Some("limits: {size: 1}"), &env, Value::Null, &[]), 2);
        assert_eq!(size(Some("limits: {size: 1}"), &env, flags(), &[]), 3);
        assert_eq!(size(Some("limits: {size: 1}"), &env, flags(), &["limits.size=4"]), 4);
        assert_eq!(size(Some(""), &[], Value::Null, &[]), 0);
    }

    #[test]
    fn errors_name_the_setting_and_its_source() {
        type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);
        let table: &[Case<'_>] = &[
            (Some("limits: {sise: 1}"), &[], &[], &["unknown field `sise`", "expected `size`", "demo.yaml"]),
            (Some("- a"), &[], &[], &["expected a mapping", "a list"]),
            (Some("a: [b"), &[], &[], &["demo.yaml"]),
            (None, &[("DEMO_LIMITS__SIZE", "big")], &[], &["limits.size", "DEMO_LIMITS__SIZE"]),
            (None, &[("DEMO_COLOUR", "red")], &[], &["unknown field `colour`", "DEMO_COLOUR"]),
            (None, &[], &["limits.size=-1"], &["limits.size", "--set"]),
            (None, &[], &["limits"], &["PATH=VALUE"]),
        ];
        for (file, env, set, expected) in table {
            let error = load_with(*file, env, Value::Null, set).unwrap_err().to_string();
            for part in *expected {
                assert!(error.contains(part), "`{error}` lacks `{part}`");
            }
        }
    }

    #[test]
    fn variables_that_kubernetes_injects_are_no_settings() {
        for name in [
            "DEMO_SERVICE_HOST",
            "DEMO_SERVICE_PORT",
            "DEMO_SERVICE_PORT_CLIENT",
            "DEMO_PORT",
            "DEMO_PORT_2379_TCP",
            "DEMO_PORT_2379_TCP_ADDR",
            "DEMO_HEADLESS_SERVICE_HOST",
            "DEMO_CLIENT_PORT_2379_TCP_ADDR",
            "OTHER_NAME",
        ] {
            load_with(None, &[(name, "tcp://10.0.0.1:1")], Value::Null, &[]).unwrap();
        }
    }
}
