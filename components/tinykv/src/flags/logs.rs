//! Where logs go, by etcd's flags.

use super::{FlagError, OFF};
use aistack_chassis::{LogOutput, LogOutputs, LogRotation};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

const OUTPUTS: &str = "log-outputs";
const ROTATION: &str = "log-rotation-config-json";
const DAY: u64 = 24 * 60 * 60;

/// etcd's form of the rules by which a file is set aside.
#[derive(Deserialize)]
#[serde(default)]
struct Rules {
    /// In MB.
    maxsize: u64,
    /// In days; 0 is for ever.
    maxage: u64,
    /// 0 is all.
    maxbackups: usize,
    localtime: bool,
    compress: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { maxsize: 100, maxage: 0, maxbackups: 0, localtime: false, compress: false }
    }
}

/// Reads the flags that say where logs go.
pub(super) fn outputs(given: &BTreeMap<String, String>) -> Result<LogOutputs, FlagError> {
    let named = given.get(OUTPUTS).map(String::as_str).unwrap_or_default();
    let wrong = |flag: &str, value: &str, reason: String| FlagError::Value {
        flag: flag.to_owned(),
        value: value.to_owned(),
        reason,
    };
    let names: Vec<&str> =
        named.trim_matches(['[', ']']).split([',', ' ']).filter(|name| !name.is_empty()).collect();
    if names.len() > 1 && names.contains(&"default") {
        let reason = "multi logoutput for \"default\" is not supported yet; write stderr".to_owned();
        return Err(wrong(OUTPUTS, named, reason));
    }
    let output = |name: &&str| match *name {
        "default" | "stderr" => Ok(LogOutput::Stderr),
        "stdout" => Ok(LogOutput::Stdout),
        "systemd/journal" => {
            let reason = "systemd puts standard error into the journal; write stderr".to_owned();
            Err(wrong(OUTPUTS, named, reason))
        }
        path => Ok(LogOutput::File(path.strip_prefix("file://").unwrap_or(path).into())),
    };
    let to = names.iter().map(output).collect::<Result<Vec<_>, _>>()?;
    let is_on = given.get("enable-log-rotation").is_some_and(|value| !OFF.contains(&value.as_str()));
    if !is_on {
        return Ok(LogOutputs { to, rotation: None });
    }
    if !matches!(to[..], [LogOutput::File(_)]) {
        let reason =
            "--log-outputs requires a single file path when --enable-log-rotation is given".to_owned();
        return Err(wrong(OUTPUTS, named, reason));
    }
    let text = given.get(ROTATION).map(String::as_str).filter(|text| !text.is_empty()).unwrap_or("{}");
    let rules: Rules = serde_json::from_str(text).map_err(|error| {
        wrong(ROTATION, text, format!("improperly formatted log rotation config: {error}"))
    })?;
    for (is_set, reason) in [
        (rules.compress, "files are not compressed; leave compress out, and have logrotate do it"),
        (rules.localtime, "times in the names of files are UTC; leave localtime out"),
        (rules.maxsize == 0, "maxsize is 0; leave it out for 100 MB"),
    ] {
        if is_set {
            return Err(wrong(ROTATION, text, reason.to_owned()));
        }
    }
    let rotation = LogRotation {
        max_bytes: rules.maxsize.saturating_mul(1 << 20),
        max_age: (rules.maxage > 0).then(|| Duration::from_secs(rules.maxage.saturating_mul(DAY))),
        max_backups: (rules.maxbackups > 0).then_some(rules.maxbackups),
    };
    Ok(LogOutputs { to, rotation: Some(rotation) })
}
