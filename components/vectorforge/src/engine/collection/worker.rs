//! The collection's own thread: syncs, seals, merges, takes checkpoints.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Inner;
use crate::engine::error::EngineError;

/// How long a write without `wait` may stay unsynced.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// After trouble, how long until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the thread. It ends when the collection is closed.
pub fn start(inner: &Arc<Inner>) -> Result<JoinHandle<()>, EngineError> {
    let inner = Arc::clone(inner);
    let dir = inner.dir.clone();
    let thread = std::thread::Builder::new().name("vf-collection".to_owned());
    thread.spawn(move || work(&inner)).map_err(EngineError::io("start a worker thread for", &dir))
}

fn work(inner: &Inner) {
    let mut last_checkpoint = Instant::now();
    let mut not_before = Instant::now();
    while !inner.is_closed() {
        let now = Instant::now();
        if now >= not_before {
            let outcome = housekeep(inner, &mut last_checkpoint);
            let mut trouble = inner.trouble.lock();
            match outcome {
                Ok(()) => *trouble = None,
                Err(error) => {
                    tracing::error!(collection = inner.name, %error, "background work failed; will be tried again");
                    *trouble = Some(error.to_string());
                    not_before = now + RETRY_INTERVAL;
                }
            }
        }
        let mut signal = inner.signal.lock();
        if !*signal {
            inner.wake.wait_for(&mut signal, SYNC_INTERVAL);
        }
        *signal = false;
    }
}

fn housekeep(inner: &Inner, last_checkpoint: &mut Instant) -> Result<(), EngineError> {
    inner.wal.sync_to(&inner.name, inner.wal.last())?;
    let optimised = inner.optimise_all()?;
    let due =
        last_checkpoint.elapsed() >= inner.options.checkpoint_interval && inner.unsaved_operations() > 0;
    if optimised || due || inner.wal.bytes() > inner.options.checkpoint_wal_bytes {
        inner.checkpoint()?;
        *last_checkpoint = Instant::now();
    }
    Ok(())
}
