//! Reading the log back after a stop of any kind.

use super::frame::{self, Parsed};
use super::group::Group;
use super::record::Record;
use super::segment::{self, SEGMENT_HEADER, Segment};
use super::writer::Writer;
use super::{LogError, LogOptions, Place, Recovery, Shared};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the files say.
#[derive(Default)]
pub struct Recovered {
    groups: HashMap<u32, Group>,
    segments: BTreeMap<u64, Segment>,
    reach: BTreeMap<u64, HashMap<u32, u64>>,
    offset: u64,
    next_sequence: u64,
    sealed: bool,
    cut: Option<(PathBuf, u64)>,
}

/// Reads the log, cuts an unfinished last write off, makes sure there is a segment to write.
pub fn recover(dir: &Path, options: &LogOptions) -> Result<Recovered, LogError> {
    let mut recovered = scan(dir, true)?;
    if recovered.segments.is_empty() {
        let segment = segment::create(dir, 1, options.segment_bytes)?;
        recovered.segments.insert(1, segment);
        recovered.offset = SEGMENT_HEADER as u64;
        recovered.next_sequence = 1;
    } else if let Some((_, offset)) = recovered.cut
        && let Some(segment) = recovered.segments.values().next_back()
    {
        segment::cut(segment, offset, options.segment_bytes)?;
    }
    Ok(recovered)
}

/// Reads the log; `tidy` removes segments whose creation was interrupted.
pub fn scan(dir: &Path, tidy: bool) -> Result<Recovered, LogError> {
    scan_with(dir, tidy, &mut |_| {})
}

/// Reads the log; `visit` sees every record that is whole, in the order in which they were written.
pub fn scan_with(dir: &Path, tidy: bool, visit: &mut dyn FnMut(&Record)) -> Result<Recovered, LogError> {
    let mut recovered = Recovered { next_sequence: 1, ..Recovered::default() };
    let paths = list(dir, tidy)?;
    let count = paths.len();
    for (nth, path) in paths.into_iter().enumerate() {
        recovered.segment(&path, nth == 0, nth + 1 == count, visit)?;
    }
    recovered.verify()?;
    Ok(recovered)
}

fn list(dir: &Path, tidy: bool) -> Result<Vec<PathBuf>, LogError> {
    let failed = |source| LogError::Directory { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => paths.push(path),
            Some("tmp") if tidy => std::fs::remove_file(&path).map_err(failed)?,
            Some("tmp") => {}
            _ => return Err(LogError::ForeignFile { path }),
        }
    }
    paths.sort();
    Ok(paths)
}

impl Recovered {
    fn segment(
        &mut self,
        path: &Path,
        first: bool,
        last: bool,
        visit: &mut dyn FnMut(&Record),
    ) -> Result<(), LogError> {
        let (segment, bytes) = segment::open(path)?;
        let corrupt = |offset: usize, problem: String| LogError::Corrupt {
            path: path.to_owned(),
            offset: offset as u64,
            problem,
        };
        if first {
            self.next_sequence = segment.first;
        } else if segment.first != self.next_sequence {
            let problem =
                format!("it starts with frame {}, frame {} is missing", segment.first, self.next_sequence);
            return Err(corrupt(0, problem));
        }
        let name = segment.first;
        self.segments.insert(name, segment);
        let mut at = SEGMENT_HEADER;
        loop {
            match frame::parse(&bytes, at, self.next_sequence) {
                Parsed::Frame { sequence, records, end } => {
                    for (offset, record) in records {
                        visit(&record);
                        self.record(name, offset, record).map_err(|problem| corrupt(offset, problem))?;
                    }
                    self.next_sequence = sequence + 1;
                    at = end;
                }
                Parsed::End => break,
                Parsed::Torn if last && !self.sealed => {
                    self.cut = Some((path.to_owned(), at as u64));
                    break;
                }
                Parsed::Torn => return Err(corrupt(at, "an unfinished write where none can be".to_owned())),
                Parsed::Corrupt { offset, problem } => return Err(corrupt(offset, problem)),
            }
        }
        self.offset = at as u64;
        Ok(())
    }

    fn record(&mut self, segment: u64, offset: usize, record: Record) -> Result<(), String> {
        self.sealed = record == Record::Seal;
        match record {
            Record::Entry { group, id, kind, payload } => {
                let state = self.groups.entry(group).or_default();
                // Entries older than the first one present went with a deleted segment.
                let fits = state.next().is_none_or(|next| next == id.index)
                    || (state.entries() == 0 && state.purged().is_none_or(|purged| purged.index < id.index));
                if !fits {
                    return Err(format!("entry {} of group {group} follows {:?}", id.index, state.last()));
                }
                let length = (super::record::RECORD_HEADER + 29 + payload.len()) as u32;
                state.found(id, kind, payload.len(), Place { segment, offset: offset as u64, length });
                let reach = self.reach.entry(segment).or_default().entry(group).or_default();
                *reach = id.index.max(*reach);
            }
            Record::Vote { group, vote } => self.groups.entry(group).or_default().vote = Some(vote),
            Record::Truncate { group, keep } => self.groups.entry(group).or_default().truncate(keep),
            Record::Purge { group, id } => self.groups.entry(group).or_default().purge(id),
            Record::Seal => {}
        }
        Ok(())
    }

    /// Every entry after the purge point must be there.
    fn verify(&self) -> Result<(), LogError> {
        for (group, state) in &self.groups {
            let purged = state.purged().map_or(0, |id| id.index + 1);
            if let Some(first) = state.first()
                && first.index > purged
            {
                let path =
                    self.segments.values().next().map(|segment| segment.path.clone()).unwrap_or_default();
                let problem = format!("group {group} starts with entry {}, expected {purged}", first.index);
                return Err(LogError::Corrupt { path, offset: 0, problem });
            }
        }
        Ok(())
    }

    pub fn summary(&self) -> Recovery {
        Recovery {
            sealed: self.sealed,
            cut: self.cut.clone(),
            entries: self.groups.values().map(|group| group.entries() as u64).sum(),
        }
    }

    pub fn into_parts(self, dir: &Path, options: LogOptions) -> (Arc<Shared>, Writer) {
        let files = self
            .segments
            .iter()
            .map(|(first, segment)| (*first, (segment.path.clone(), Arc::clone(&segment.file))))
            .collect();
        let groups = self.groups.into_iter().map(|(id, group)| (id, Arc::new(Mutex::new(group)))).collect();
        let shared =
            Shared { groups: Mutex::new(groups), files: Mutex::new(files), stopped: Mutex::new(None) };
        let capacity = self
            .segments
            .values()
            .next_back()
            .and_then(|segment| segment.file.metadata().ok())
            .map_or(0, |metadata| metadata.len());
        let writer = Writer {
            capacity,
            dir: dir.to_owned(),
            options,
            segments: self.segments,
            reach: self.reach,
            offset: self.offset,
            next_sequence: self.next_sequence,
            riders: Vec::new(),
            buffer: Vec::new(),
        };
        (Arc::new(shared), writer)
    }
}
