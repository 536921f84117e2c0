//! Stories of a group of one: what is acknowledged is applied again after any stop, snapshots
//! let the log shrink, and a broken disk ends the group instead of lying.

#[path = "simulation/journal.rs"]
mod journal;

use bytes::Bytes;
use journal::Journal;
use replication::log::{LogOptions, SegmentFile};
use replication::{GroupOptions, ProposeError, Replicated};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn options(dir: &Path) -> GroupOptions {
    GroupOptions { snapshot_entries: 100, keep_entries: 10, ..GroupOptions::new(1, dir.to_owned()) }
}

fn log() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() }
}

/// A command of some size: the journal keeps its number.
fn command(number: u64) -> Bytes {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(200, 0);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_commands_are_applied_again_after_a_stop_without_a_checkpoint() {
    let dir = tempfile::tempdir().expect("dir");
    let machine = Journal::open(dir.path());
    let group =
        Replicated::start(GroupOptions::new(1, dir.path().to_owned()), LogOptions::default(), machine)
            .await
            .expect("starts");
    for n in 0..50 {
        assert_eq!(group.propose(command(n)).await.expect("applied") as u64, n + 1);
    }
    group.read_barrier().await.expect("leads");
    let term = group.status().term;
    group.shutdown().await;
    drop(group);

    // The journal file was never written: everything comes back from the log.
    let machine = Journal::open(dir.path());
    let state = Arc::clone(&machine.state);
    assert!(state.lock().commands.is_empty());
    let group =
        Replicated::start(GroupOptions::new(1, dir.path().to_owned()), LogOptions::default(), machine)
            .await
            .expect("starts");
    assert_eq!(state.lock().commands, (0..50).collect::<Vec<_>>());
    assert!(group.status().term >= term);
    assert_eq!(group.propose(command(50)).await.expect("applied"), 51);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_purge_the_log_and_a_restart_needs_only_what_is_left() {
    let dir = tempfile::tempdir().expect("dir");
    let group =
        Replicated::start(options(dir.path()), log(), Journal::open(dir.path())).await.expect("starts");
    for n in 0..300 {
        group.propose(command(n)).await.expect("applied");
    }
    group.snapshot().await.expect("taken");
    let segments = || fs::read_dir(dir.path().join("log")).expect("listable").count();
    tokio::time::timeout(std::time::Duration::from_mins(2), async {
        while segments() > 2 || group.status().snapshot_index < 250 {
            group.propose(command(300)).await.expect("applied");
        }
    })
    .await
    .expect("the log shrinks");
    group.shutdown().await;
    drop(group);
    let machine = Journal::open(dir.path());
    let state = Arc::clone(&machine.state);
    let flushed = state.lock().commands.len();
    assert!(flushed >= 250, "the checkpoint made {flushed} commands durable");
    let group = Replicated::start(options(dir.path()), log(), machine).await.expect("starts");
    let commands = state.lock().commands.clone();
    assert_eq!(commands[..300], (0..300).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).expect("listable").count(), 1);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_wait_together_see_every_write_acknowledged_before() {
    let dir = tempfile::tempdir().expect("dir");
    let machine = Journal::open(dir.path());
    let state = Arc::clone(&machine.state);
    let group = Arc::new(
        Replicated::start(GroupOptions::new(1, dir.path().to_owned()), LogOptions::default(), machine)
            .await
            .expect("starts"),
    );
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (group, state) = (Arc::clone(&group), Arc::clone(&state));
            tokio::spawn(async move {
                for n in 0..50 {
                    let count = group.propose(command(n)).await.expect("applied");
                    group.read_barrier().await.expect("leads");
                    assert!(state.lock().commands.len() >= count);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    group.shutdown().await;
}

struct Breakable(Arc<File>, Arc<AtomicBool>);

impl SegmentFile for Breakable {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        SegmentFile::write_all_at(&*self.0, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        SegmentFile::sync(&*self.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_group_with_its_reason_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let broken = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&broken);
    let mut log = log();
    log.wrap =
        Some(Arc::new(move |file| Arc::new(Breakable(file, Arc::clone(&switch))) as Arc<dyn SegmentFile>));
    let machine = Journal::open(dir.path());
    let state = Arc::clone(&machine.state);
    let group = Replicated::start(options(dir.path()), log, machine).await.expect("starts");
    group.propose(command(0)).await.expect("applied");
    broken.store(true, Ordering::SeqCst);
    let error = group.propose(command(1)).await.expect_err("the disk is broken");
    assert!(matches!(error, ProposeError::Stopped(_)), "{error}");
    let reason = group.stopped().await;
    assert!(reason.contains("Input/output error"), "{reason}");
    assert_eq!(state.lock().commands, [0], "what is not durable is not applied");
    group.shutdown().await;
}
