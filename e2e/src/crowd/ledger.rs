//! What programs changed, as the API server wrote it down.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Writes by what was written, such as `patch inferenceservices/status`, and how many of them were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// All but those of Leases.
    pub by_kind: BTreeMap<String, u64>,
    /// Those that the API server did not do, among them.
    pub refused: u64,
    /// Those of Leases.
    pub leases: u64,
}

impl Writes {
    /// All but those of Leases.
    pub fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }
}

/// Reads the audit log on from where it was read before.
pub struct Ledger {
    path: PathBuf,
    read: u64,
}

impl Ledger {
    /// From its beginning.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// What was written since the last time.
    pub fn since_last(&mut self) -> Result<Writes> {
        let mut writes = Writes::default();
        // The file comes with the first write.
        let Ok(mut file) = std::fs::File::open(&self.path) else { return Ok(writes) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut lines = BufReader::new(file);
        let mut line = String::new();
        // What does not end in a new line is still being written.
        while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
            self.read += line.len() as u64;
            note(&mut writes, &serde_json::from_str(&line).context("read the audit log")?);
            line.clear();
        }
        Ok(writes)
    }
}

fn note(writes: &mut Writes, event: &Value) {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let resource = text("/objectRef/resource");
    if resource == "leases" {
        writes.leases += 1;
        return;
    }
    let part = text("/objectRef/subresource");
    let slash = if part.is_empty() { "" } else { "/" };
    *writes.by_kind.entry(format!("{} {resource}{slash}{part}", text("/verb"))).or_default() += 1;
    if event.pointer("/responseStatus/code").and_then(Value::as_i64).is_some_and(|code| code >= 400) {
        writes.refused += 1;
    }
}
