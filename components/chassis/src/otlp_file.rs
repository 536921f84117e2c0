//! Spans to a file, one OTLP/JSON export request a line: what Jaeger and the OpenTelemetry Collector read back.
//!
//! The file is bounded: before it grows over its limit it is set aside as `FILE.1`, in place of the one set aside before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// Appends to a file.
#[derive(Debug)]
pub struct OtlpFileExporter {
    lines: Mutex<BoundedLines>,
    resource: ResourceAttributesWithSchema,
}

impl OtlpFileExporter {
    /// Opens the file; the two files together hold at most twice `limit` bytes.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let lines = BoundedLines::open(path, limit)?;
        Ok(Self { lines: Mutex::new(lines), resource: ResourceAttributesWithSchema::default() })
    }
}

impl SpanExporter for OtlpFileExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let mut line =
            serde_json::to_vec(&request).map_err(|error| OTelSdkError::InternalFailure(error.to_string()))?;
        line.push(b'\n');
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).append(&line);
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = ResourceAttributesWithSchema::from(resource);
    }
}

/// A file of lines that several processes may share: one write a line, and a rotation under a lock.
#[derive(Debug)]
struct BoundedLines {
    path: PathBuf,
    file: File,
    limit: u64,
    /// The last line could not be written, and that has been said.
    failing: bool,
}

impl BoundedLines {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(Self { path: path.to_owned(), file: open(path)?, limit, failing: false })
    }

    /// Appends a line. Spans that find no room are lost; the process works on, and says so once.
    fn append(&mut self, line: &[u8]) {
        match self.try_append(line) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, path = %self.path.display(), "spans are lost: the trace file cannot be written");
                }
                self.failing = true;
            }
        }
    }

    fn try_append(&mut self, line: &[u8]) -> io::Result<()> {
        self.follow()?;
        if self.file.metadata()?.len() + line.len() as u64 > self.limit {
            self.file.lock()?;
            // Another process may have rotated it meanwhile: then its file is the one to write to.
            self.follow()?;
            if self.file.metadata()?.len() + line.len() as u64 > self.limit {
                let mut aside = self.path.clone().into_os_string();
                aside.push(".1");
                std::fs::rename(&self.path, aside)?;
                // The lock goes with the file that was set aside.
                self.file = open(&self.path)?;
            } else {
                self.file.unlock()?;
            }
        }
        self.file.write_all(line)
    }

    /// Opens the path again when it leads to another file, or to none: it was rotated, or deleted.
    fn follow(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?;
        let same = std::fs::metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()));
        if !same {
            self.file = open(&self.path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Paths and names of callers stand in spans.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_share_a_bounded_file_and_lose_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/spans.jsonl");
        let aside = folder.path().join("deep/spans.jsonl.1");
        let mut writers = [BoundedLines::open(&path, 100).unwrap(), BoundedLines::open(&path, 100).unwrap()];
        let mut seen = String::new();
        let mut last = 0;
        for round in 0..40 {
            writers[round % 2].append(format!("line {round:04}\n").as_bytes());
            assert!(std::fs::metadata(&path).unwrap().len() <= 100);
            let inode = std::fs::metadata(&path).unwrap().ino();
            if inode != last {
                seen.push_str(&std::fs::read_to_string(&aside).unwrap_or_default());
                last = inode;
            }
        }
        seen.push_str(&std::fs::read_to_string(&path).unwrap());
        let wanted: Vec<String> = (0..40).map(|round| format!("line {round:04}")).collect();
        assert_eq!(seen.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_deleted_file_is_made_again_and_a_full_disk_is_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spans.jsonl");
        let mut writer = BoundedLines::open(&path, 1_000).unwrap();
        std::fs::remove_file(&path).unwrap();
        writer.append(b"one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        // /dev/full refuses every write with "no space left".
        let mut full = BoundedLines::open(Path::new("/dev/full"), 1_000).unwrap();
        full.append(b"lost\n");
        assert!(full.failing);
    }
}
