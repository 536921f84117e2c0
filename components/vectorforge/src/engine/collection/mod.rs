//! One collection: what a door may ask of it.

mod checkpoint;
mod operation;
mod optimise;
mod read;
mod state;
mod worker;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, RwLock};

use super::config::{CollectionConfig, ConfigChange, EngineOptions};
use super::error::EngineError;
use super::graph::visited::VisitedPool;
use super::query::{CollectionInfo, CollectionStatus, FieldInfo};
use super::storage::wal::Wal;
use checkpoint::Saved;
use state::State;

/// A collection of points. Cheap to share; all methods take `&self`.
///
/// Every write returns its operation number. With `wait` it is on disk when the call returns; without, it is visible
/// at once and on disk within a second.
pub struct Collection {
    inner: Arc<Inner>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// What the doors' threads and the collection's worker share. Locks are taken in the order of the fields.
struct Inner {
    name: String,
    dir: PathBuf,
    options: EngineOptions,
    /// One optimisation at a time.
    optimiser: Mutex<()>,
    /// One checkpoint, swap of segments, or building of payload indexes at a time.
    saved: Mutex<Saved>,
    /// One write at a time is decided, logged and applied.
    writer: Mutex<()>,
    state: RwLock<State>,
    wal: Wal,
    visited: VisitedPool,
    signal: Mutex<bool>,
    wake: Condvar,
    closed: AtomicBool,
    optimising: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Collection {
    /// The name it was created with.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The configuration in force.
    pub fn config(&self) -> CollectionConfig {
        self.inner.state.read().config.clone()
    }

    /// Changes the configuration; on disk when this returns.
    pub fn update_config(&self, change: ConfigChange) -> Result<(), EngineError> {
        self.inner.update_config(change)?;
        self.inner.wake_worker();
        Ok(())
    }

    /// State, counts, schema.
    pub fn info(&self) -> CollectionInfo {
        self.inner.info()
    }

    /// Waits until every write so far is on disk.
    pub fn flush(&self) -> Result<(), EngineError> {
        self.inner.wal.sync_to(&self.inner.name, self.inner.wal.last())
    }

    /// Takes a checkpoint: the state goes to segment files and the log is cut. Makes the next start fast.
    pub fn checkpoint(&self) -> Result<(), EngineError> {
        self.inner.checkpoint()
    }

    /// Seals and merges until nothing is left to optimise. For tests, benchmarks and bulk loads.
    pub fn optimize_now(&self) -> Result<(), EngineError> {
        {
            let _one_writer = self.inner.writer.lock();
            self.inner.state.write().freeze();
        }
        self.inner.optimise_all()?;
        self.inner.checkpoint()
    }

    /// Stops the worker and refuses writes from now on; with a last checkpoint unless the collection is being dropped.
    pub(super) fn close(&self, checkpoint: bool) -> Result<(), EngineError> {
        let was_closed = {
            // No write is half way while the flag changes.
            let _one_writer = self.inner.writer.lock();
            self.inner.closed.swap(true, Ordering::SeqCst)
        };
        self.inner.wake_worker();
        if let Some(worker) = self.worker.lock().take() {
            // A worker that panicked has left its message on stderr; the log still has every write.
            let _ = worker.join();
        }
        if checkpoint && !was_closed { self.inner.checkpoint() } else { Ok(()) }
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        // Whoever wants to know of errors calls `Engine::close`; the log has every acknowledged write.
        let _ = self.close(false);
    }
}

impl Inner {
    fn wake_worker(&self) {
        *self.signal.lock() = true;
        self.wake.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn info(&self) -> CollectionInfo {
        let state = self.state.read();
        let mut indexed_vectors = 0;
        let mut disk_bytes = self.wal.bytes();
        for segment in &state.segments {
            let view = segment.view();
            let with_graph = (0..state.fields.len()).filter(|field| view.graph(*field).is_some()).count();
            indexed_vectors += with_graph * view.living();
            if let super::segment::Base::Sealed(sealed) = &*segment.base {
                disk_bytes += sealed.bytes() as u64;
            }
        }
        let fields = state.schema.iter().map(|(key, schema)| {
            let points = state.views().map(|view| read::indexed_points(view, key)).sum();
            (key.to_string(), FieldInfo { schema: *schema, points })
        });
        CollectionInfo {
            points: state.living(),
            indexed_vectors,
            segments: state.segments.len() + 1,
            fields: fields.collect(),
            last_operation: self.wal.last(),
            disk_bytes,
            status: self.status(&state),
            config: state.config.clone(),
        }
    }

    fn status(&self, state: &State) -> CollectionStatus {
        let trouble = self.wal.failure().or_else(|| self.trouble.lock().clone());
        if let Some(reason) = trouble {
            return CollectionStatus::Red(reason);
        }
        let pending = optimise::plan(&optimise::facts(state), &state.config.optimizer).is_some();
        match (pending || self.optimising.load(Ordering::Relaxed), state.config.optimizer.enabled) {
            (false, _) => CollectionStatus::Green,
            (true, true) => CollectionStatus::Yellow,
            (true, false) => CollectionStatus::Grey,
        }
    }
}
