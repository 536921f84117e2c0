//! When tinykv compacts without being asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::TinykvConfigError;

/// Compaction without being asked, by the leader alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvAutoCompaction {
    /// What `retention` counts.
    pub mode: CompactionMode,
    /// What is kept: a duration like `30m` or `1h30m`, or whole hours, by time; a number of revisions, by revision. 0 compacts
    /// nothing.
    pub retention: String,
}

impl Default for TinykvAutoCompaction {
    fn default() -> Self {
        Self { mode: CompactionMode::default(), retention: "0".to_owned() }
    }
}

/// What decides how far back one can read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CompactionMode {
    /// Time: looked at ten times within the retention, at least every six minutes.
    #[default]
    Periodic,
    /// The number of revisions: looked at every five minutes.
    Revision,
}

/// What a leader keeps when it compacts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// What was written in this time.
    Time(Duration),
    /// So many revisions.
    Revisions(i64),
}

impl TinykvAutoCompaction {
    /// What is kept; `None` when nothing is compacted.
    pub fn retention(&self) -> Result<Option<Retention>, TinykvConfigError> {
        let text = self.retention.trim();
        let wrong = |reason| TinykvConfigError::Retention { retention: text.to_owned(), reason };
        let number = text.parse::<u32>().ok();
        match (self.mode, number) {
            (_, Some(0)) => Ok(None),
            (CompactionMode::Periodic, Some(hours)) => {
                Ok(Some(Retention::Time(Duration::from_secs(u64::from(hours) * 3_600))))
            }
            (CompactionMode::Periodic, None) => match duration(text) {
                Some(Duration::ZERO) => Ok(None),
                Some(time) if time < Duration::from_secs(1) => Err(wrong("a second is the least")),
                Some(time) => Ok(Some(Retention::Time(time))),
                None => Err(wrong("write a duration like 30m, or a number of hours")),
            },
            (CompactionMode::Revision, Some(revisions)) => {
                Ok(Some(Retention::Revisions(i64::from(revisions))))
            }
            (CompactionMode::Revision, None) => Err(wrong("write a number of revisions")),
        }
    }
}

/// A duration as Go writes them: `300ms`, `1.5h`, `2h45m`.
pub fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0.0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (amount, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        total += amount.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_as_etcd_reads_it() {
        use CompactionMode::{Periodic, Revision};
        let minutes = |minutes: u64| Ok(Some(Retention::Time(Duration::from_secs(minutes * 60))));
        let table = [
            (Periodic, "0", Ok(None)),
            (Revision, "0", Ok(None)),
            (Periodic, "0s", Ok(None)),
            (Periodic, "1", minutes(60)),
            (Periodic, "10m", minutes(10)),
            (Periodic, "1h30m", minutes(90)),
            (Revision, "1000", Ok(Some(Retention::Revisions(1_000)))),
            (Revision, "1h", Err("number of revisions")),
            (Periodic, "-1h", Err("like 30m")),
            (Periodic, "", Err("like 30m")),
            (Periodic, "10ms", Err("a second")),
            (Periodic, "99999999999h", Ok(Some(Retention::Time(Duration::from_hours(99_999_999_999))))),
        ];
        for (mode, text, expected) in table {
            let settings = TinykvAutoCompaction { mode, retention: text.to_owned() };
            match (settings.retention(), expected) {
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, expected) => assert_eq!(found.ok(), expected.ok(), "{mode:?} {text}"),
            }
        }
        assert_eq!(duration("1h60m0.5s"), Some(Duration::from_millis(7_200_500)));
        for wrong in ["5", "m", "1x", "1..5s", "5m3"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
