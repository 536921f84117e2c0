//! Checkpoints: the state as of one operation, in files that a manifest names.
//!
//! A collection's directory:
//!
//! ```text
//! manifest                                configuration, schema, the operation it stands at, names of the files below
//! log/<first operation>.wal               operations; those after the manifest's are replayed
//! segments/<number>.seg                   rows
//! segments/<number>-<operation>.overlay   what happened to the rows of a segment up to that operation
//! ```
//!
//! The order is what makes it safe: files are written and synced, then the manifest is replaced by rename, then files
//! that only the old manifest named are removed, then the log is cut. A crash between any two steps leaves either the
//! old manifest with the old files and the whole log, or the new one; files that no manifest names are swept at the
//! next start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::operation::Operation;
use super::state::{PreparedIndexes, State};
use super::{Collection, Inner, worker};
use crate::engine::config::{CollectionConfig, ConfigChange, EngineOptions, FieldSchema};
use crate::engine::error::EngineError;
use crate::engine::graph::visited::VisitedPool;
use crate::engine::point::Vectors;
use crate::engine::segment::flat::Flat;
use crate::engine::segment::overlay::Overlay;
use crate::engine::segment::seal::{SealError, seal};
use crate::engine::segment::sealed::Sealed;
use crate::engine::segment::view::View;
use crate::engine::segment::{Base, Segment};
use crate::engine::storage::durable;
use crate::engine::storage::wal::Wal;
use crate::simd::floats;

const MAGIC: [u8; 8] = *b"VFMAN001";

/// What is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    config: CollectionConfig,
    schema: Vec<(String, FieldSchema)>,
    /// The operation that the files stand at.
    applied: u64,
    next_segment: u64,
    /// Immutable segments, oldest first.
    segments: Vec<SegmentEntry>,
    /// The file with the points of the appendable segment.
    appendable: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SegmentEntry {
    number: u64,
    /// The operation that its overlay stands at, if it has one.
    overlay: Option<u64>,
}

/// The manifest on disk and which files stand for what is in memory only.
pub struct Saved {
    manifest: Manifest,
    /// Files of flat segments by segment number.
    flats: BTreeMap<u64, u64>,
    /// Count of changes of the appendable segment that its file holds.
    appendable_changes: u64,
}

impl Saved {
    /// Whether the manifest names the file of a segment of this number.
    pub fn names(&self, number: u64) -> bool {
        self.manifest.appendable == Some(number)
            || self.manifest.segments.iter().any(|entry| entry.number == number)
    }
}

/// The file of a segment.
pub fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join("segments").join(format!("{number:020}.seg"))
}

fn overlay_path(dir: &Path, number: u64, operation: u64) -> PathBuf {
    dir.join("segments").join(format!("{number:020}-{operation:020}.overlay"))
}

impl Manifest {
    fn files(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        for entry in &self.segments {
            files.insert(segment_path(dir, entry.number));
            files.extend(entry.overlay.map(|operation| overlay_path(dir, entry.number, operation)));
        }
        files.extend(self.appendable.map(|number| segment_path(dir, number)));
        files
    }
}

/// What one checkpoint has to write, taken at one moment.
struct Job {
    manifest: Manifest,
    flats: Vec<(u64, u64, Arc<Base>, Overlay)>,
    overlays: Vec<(u64, Overlay)>,
    appendable: Option<(u64, Flat, Overlay)>,
    appendable_changes: u64,
    schema: BTreeMap<crate::engine::json_path::JsonPath, FieldSchema>,
}

impl Collection {
    /// Founds a collection in an empty directory.
    pub(in crate::engine) fn found(
        name: &str,
        dir: &Path,
        config: CollectionConfig,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        config.validate()?;
        durable::create_dir(&dir.join("segments"))?;
        let manifest = Manifest {
            config,
            schema: Vec::new(),
            applied: 0,
            next_segment: 1,
            segments: Vec::new(),
            appendable: None,
        };
        durable::replace_json(&dir.join("manifest"), MAGIC, &manifest)?;
        Self::open(name, dir, options)
    }

    /// Opens a collection: verifies its files, replays its log, starts its worker.
    pub(in crate::engine) fn open(
        name: &str,
        dir: &Path,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        let manifest: Manifest = durable::read_json(&dir.join("manifest"), MAGIC)?;
        sweep(dir, &manifest)?;
        let mut state = load(dir, &manifest, options.preload)?;
        let log = dir.join("log");
        let wal = Wal::open(&log, manifest.applied, |entry| {
            state.apply(entry.operation, Operation::decode(&entry.body, &log)?, None);
            Ok(())
        })?;
        let saved = Saved { manifest, flats: BTreeMap::new(), appendable_changes: 0 };
        let inner = Inner {
            name: name.to_owned(),
            dir: dir.to_path_buf(),
            options,
            optimiser: Mutex::default(),
            saved: saved.into(),
            writer: Mutex::default(),
            state: state.into(),
            wal,
            visited: VisitedPool::default(),
            signal: true.into(),
            wake: Condvar::default(),
            closed: false.into(),
            optimising: false.into(),
            trouble: Mutex::default(),
        };
        let inner = Arc::new(inner);
        let worker = worker::start(&inner)?;
        Ok(Self { inner, worker: Some(worker).into() })
    }
}

/// Removes what no manifest names: leavings of a crash.
fn sweep(dir: &Path, manifest: &Manifest) -> Result<(), EngineError> {
    let named = manifest.files(dir);
    let segments = dir.join("segments");
    for entry in std::fs::read_dir(&segments).map_err(EngineError::io("list", &segments))? {
        let path = entry.map_err(EngineError::io("list", &segments))?.path();
        if !named.contains(&path) {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

fn load(dir: &Path, manifest: &Manifest, preload: bool) -> Result<State, EngineError> {
    let parsed = manifest.schema.iter().map(|(key, schema)| Ok((key.parse()?, *schema)));
    let schema: BTreeMap<_, _> = parsed.collect::<Result<_, EngineError>>()?;
    let mut state = State::new(manifest.config.clone(), schema, manifest.next_segment);
    for entry in &manifest.segments {
        let (sealed, mut indexes) = Sealed::open(&segment_path(dir, entry.number), preload)?;
        let rows = sealed.meta().rows;
        let overlay = match entry.overlay {
            Some(operation) => {
                Overlay::load(&overlay_path(dir, entry.number, operation), rows, &state.schema)?
            }
            None => Overlay::new(rows, &state.schema),
        };
        indexes.retain(|key, index| {
            state.schema.get(key) == Some(&crate::engine::index::Lookup::schema(&**index))
        });
        let base = Arc::new(Base::Sealed(sealed));
        for (key, schema) in &state.schema {
            if !indexes.contains_key(key) {
                PreparedIndexes::of(&[(entry.number, Arc::clone(&base))], key, *schema)
                    .add_to(&mut indexes, key);
            }
        }
        state.segments.push(Segment { number: entry.number, base, indexes, overlay });
    }
    if let Some(number) = manifest.appendable {
        let (sealed, _) = Sealed::open(&segment_path(dir, number), false)?;
        for row in 0..sealed.meta().rows {
            let vectors: Vectors = (state.config.vectors.iter().enumerate())
                .filter(|(field, _)| sealed.present(*field).is_none_or(|present| present.contains(row)))
                .map(|(field, (name, params))| {
                    (name.clone(), floats(sealed.matrix(field).row(row), params.dimension).to_vec())
                })
                .collect();
            state.restore(sealed.id(row), sealed.version(row), &vectors, sealed.payload(row));
        }
        state.appendable_changes = 0;
    }
    Ok(state)
}

impl Inner {
    /// Brings the files up to the last write and cuts the log.
    pub(super) fn checkpoint(&self) -> Result<(), EngineError> {
        let mut saved = self.saved.lock();
        let job = self.take_job(&saved)?;
        match self.write_job(&job, &saved.manifest) {
            Ok(()) => {
                let now = job.manifest.segments.iter().map(|entry| entry.number).collect::<BTreeSet<_>>();
                saved.flats.extend(job.flats.iter().map(|(segment, file, ..)| (*segment, *file)));
                saved.flats.retain(|_, file| now.contains(file));
                saved.appendable_changes = job.appendable_changes;
                saved.manifest = job.manifest;
                self.wal.forget_through(saved.manifest.applied)
            }
            Err(error) => {
                self.mark_unsaved(&job);
                Err(error)
            }
        }
    }

    /// Operations that a checkpoint would save.
    pub(super) fn unsaved_operations(&self) -> u64 {
        // A checkpoint that is running now saves most of them.
        self.saved.try_lock().map_or(0, |saved| self.wal.last() - saved.manifest.applied)
    }

    fn take_job(&self, saved: &Saved) -> Result<Job, EngineError> {
        let _one_writer = self.writer.lock();
        self.wal.rotate()?;
        let mut state = self.state.write();
        let state = &mut *state;
        let applied = self.wal.last();
        let (mut flats, mut overlays, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for segment in &mut state.segments {
            let dirty = std::mem::take(&mut segment.overlay.dirty);
            let entry = match &*segment.base {
                Base::Flat(_) => match saved.flats.get(&segment.number) {
                    Some(file) if !dirty => SegmentEntry { number: *file, overlay: None },
                    _ => {
                        let file = state.next_segment;
                        state.next_segment += 1;
                        flats.push((
                            segment.number,
                            file,
                            Arc::clone(&segment.base),
                            segment.overlay.clone(),
                        ));
                        SegmentEntry { number: file, overlay: None }
                    }
                },
                Base::Sealed(_) if dirty => {
                    overlays.push((segment.number, segment.overlay.clone()));
                    SegmentEntry { number: segment.number, overlay: Some(applied) }
                }
                Base::Sealed(_) => {
                    let known = saved.manifest.segments.iter().find(|entry| entry.number == segment.number);
                    SegmentEntry { number: segment.number, overlay: known.and_then(|entry| entry.overlay) }
                }
            };
            entries.push(entry);
        }
        let mut appendable_file = saved.manifest.appendable;
        let mut appendable = None;
        if state.appendable_changes != saved.appendable_changes {
            let view = View::of_flat(&state.appendable, &state.appendable_overlay);
            appendable_file = (view.living() > 0).then_some(state.next_segment);
            if let Some(number) = appendable_file {
                state.next_segment += 1;
                appendable = Some((number, state.appendable.clone(), state.appendable_overlay.clone()));
            }
        }
        let manifest = Manifest {
            config: state.config.clone(),
            schema: state.schema.iter().map(|(key, schema)| (key.to_string(), *schema)).collect(),
            applied,
            next_segment: state.next_segment,
            segments: entries,
            appendable: appendable_file,
        };
        let (appendable_changes, schema) = (state.appendable_changes, state.schema.clone());
        Ok(Job { manifest, flats, overlays, appendable, appendable_changes, schema })
    }

    fn write_job(&self, job: &Job, old: &Manifest) -> Result<(), EngineError> {
        if job.manifest == *old {
            return Ok(());
        }
        let config = &job.manifest.config;
        let flat_views = job.flats.iter().map(|(_, file, base, overlay)| match &**base {
            Base::Flat(flat) => Some((*file, View::of_flat(flat, overlay))),
            Base::Sealed(_) => None,
        });
        let appendable =
            job.appendable.iter().map(|(file, flat, overlay)| Some((*file, View::of_flat(flat, overlay))));
        for (file, view) in flat_views.chain(appendable).flatten() {
            seal(&segment_path(&self.dir, file), config, &job.schema, &[view], None).map_err(|error| {
                match error {
                    SealError::File(error) => error,
                    SealError::Graph(error) => {
                        EngineError::GraphBuild { collection: self.name.clone(), reason: error.to_string() }
                    }
                }
            })?;
        }
        for (number, overlay) in &job.overlays {
            overlay.save(&overlay_path(&self.dir, *number, job.manifest.applied))?;
        }
        durable::replace_json(&self.dir.join("manifest"), MAGIC, &job.manifest)?;
        let kept = job.manifest.files(&self.dir);
        for path in old.files(&self.dir).difference(&kept) {
            durable::remove(path)?;
        }
        Ok(())
    }

    fn mark_unsaved(&self, job: &Job) {
        let mut state = self.state.write();
        for segment in &mut state.segments {
            let in_job = job.overlays.iter().any(|(number, _)| *number == segment.number)
                || job.flats.iter().any(|(number, ..)| *number == segment.number);
            segment.overlay.dirty |= in_job;
        }
    }

    /// Changes the configuration in the manifest, then in memory.
    pub(super) fn update_config(&self, change: ConfigChange) -> Result<(), EngineError> {
        let mut saved = self.saved.lock();
        let mut manifest = saved.manifest.clone();
        let config = &mut manifest.config;
        config.hnsw = change.hnsw.unwrap_or(config.hnsw);
        config.optimizer = change.optimizer.unwrap_or(config.optimizer);
        config.annotations = change.annotations.unwrap_or_else(|| config.annotations.clone());
        config.validate()?;
        durable::replace_json(&self.dir.join("manifest"), MAGIC, &manifest)?;
        self.state.write().config = manifest.config.clone();
        saved.manifest = manifest;
        Ok(())
    }
}
