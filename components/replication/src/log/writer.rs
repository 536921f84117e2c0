//! The end of the log: a thread writes what is queued; a lone write needs no thread.

use super::record::{self, EntryId, Record};
use super::segment::{self, SEGMENT_HEADER, Segment, SegmentFile};
use super::{LogError, LogOptions, Place, Shared, frame};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex as QueueMutex, MutexGuard as QueueGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Told about every fdatasync: how long it took, how many bytes it covered.
pub type SyncObserver = Arc<dyn Fn(Duration, usize) + Send + Sync>;

/// Called once, with the outcome of the write.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A frame grows no further once it is this large.
const FRAME_TARGET: usize = 8 << 20;

/// One thing to write.
pub struct Job {
    pub records: Vec<Record>,
    /// Promises durability; without, the records need none of their own and ride in a later frame.
    pub done: Option<Done>,
}

/// Jobs on their way to the log's thread, which sleeps while there are none. A channel would have it spin and yield before it
/// sleeps; on a busy machine a thread that yielded gets its turn later than one that is woken.
#[derive(Default)]
struct Queue {
    waiting: QueueMutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Nothing more will come.
    is_closed: bool,
    /// The thread has ended.
    is_over: bool,
}

impl Queue {
    fn waiting(&self) -> QueueGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), LogError> {
        let mut waiting = self.waiting();
        if waiting.is_over {
            return Err(LogError::Stopped("its writer has ended".to_owned()));
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.came.notify_one();
        Ok(())
    }

    fn close(&self) {
        self.waiting().is_closed = true;
        self.came.notify_one();
    }

    /// What is written next, at least one job; none, when nothing will come.
    fn batch(&self) -> Vec<Job> {
        let waiting = self.waiting();
        let idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && !waiting.is_closed;
        let mut waiting = self.came.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
        let mut size = 0;
        let fits = |job: &&Job| {
            let begins = size < FRAME_TARGET;
            size += weight(job);
            begins
        };
        let count = waiting.jobs.iter().take_while(fits).count();
        waiting.jobs.drain(..count).collect()
    }
}

/// The sending side; dropping it drains the queue, seals the log and ends the thread.
pub struct Handle {
    queue: Option<Arc<Queue>>,
    thread: Option<JoinHandle<()>>,
    writer: Arc<Mutex<Writer>>,
    shared: Arc<Shared>,
    /// Jobs sent whose outcome has not been reported.
    pending: Arc<AtomicUsize>,
}

impl Handle {
    /// Hands a job to the log's thread, which writes it together with what else waits. A log
    /// without a thread writes it at once.
    pub fn send(&self, job: Job) -> Result<(), LogError> {
        let Some(queue) = &self.queue else {
            self.write(job, self.writer.lock());
            return Ok(());
        };
        self.pending.fetch_add(1, Ordering::AcqRel);
        queue.push(job)
    }

    /// Writes a job on the caller's thread if nothing else waits; hands it over otherwise. A
    /// lone write spares two changes of threads so.
    pub fn write_here(&self, job: Job) -> Result<(), LogError> {
        // Whoever calls has sent every earlier job of its group: with none pending, this one
        // overtakes nothing.
        if self.pending.load(Ordering::Acquire) > 0 {
            return self.send(job);
        }
        match self.writer.try_lock() {
            Some(writer) => {
                self.write(job, writer);
                Ok(())
            }
            None => self.send(job),
        }
    }

    fn write(&self, job: Job, mut writer: MutexGuard<'_, Writer>) {
        let failure = writer.commit(&self.shared, std::slice::from_ref(&job));
        drop(writer);
        report(std::iter::once(job), failure.as_deref());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.queue.is_none() {
            seal(&self.shared, &self.writer);
        }
        if let Some(queue) = &self.queue {
            queue.close();
        }
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

pub fn start(shared: Arc<Shared>, writer: Writer) -> Result<Handle, LogError> {
    let threaded = !writer.options.without_thread;
    let writer = Arc::new(Mutex::new(writer));
    let pending = Arc::new(AtomicUsize::new(0));
    if !threaded {
        return Ok(Handle { queue: None, thread: None, writer, shared, pending });
    }
    let queue = Arc::<Queue>::default();
    let thread = {
        let (shared, writer) = (Arc::clone(&shared), Arc::clone(&writer));
        let (pending, queue) = (Arc::clone(&pending), Arc::clone(&queue));
        std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || run(&shared, &writer, &pending, &queue))
            .map_err(LogError::Thread)?
    };
    Ok(Handle { queue: Some(queue), thread: Some(thread), writer, shared, pending })
}

/// Lets go of what waits when the log's thread ends, if only by a panic: nobody else will write it.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.is_over = true;
        waiting.jobs.clear();
    }
}

fn run(shared: &Shared, writer: &Mutex<Writer>, pending: &AtomicUsize, queue: &Queue) {
    let _ending = Ending(queue);
    loop {
        let batch = queue.batch();
        if batch.is_empty() {
            return seal(shared, writer);
        }
        let failure = writer.lock().commit(shared, &batch);
        let count = batch.len();
        report(batch.into_iter(), failure.as_deref());
        pending.fetch_sub(count, Ordering::AcqRel);
    }
}

fn seal(shared: &Shared, writer: &Mutex<Writer>) {
    if shared.stopped.lock().is_none() {
        let seal = Job { records: vec![Record::Seal], done: Some(Box::new(|_| ())) };
        if let Some(error) = writer.lock().commit(shared, &[seal]) {
            tracing::warn!(%error, "the log could not be sealed");
        }
    }
}

fn report(batch: impl Iterator<Item = Job>, failure: Option<&str>) {
    for done in batch.filter_map(|job| job.done) {
        done(match failure {
            None => Ok(()),
            Some(reason) => Err(io::Error::other(reason.to_owned())),
        });
    }
}

/// The end of the log.
pub struct Writer {
    pub dir: PathBuf,
    pub options: LogOptions,
    /// All segments, oldest first; the last one is written.
    pub segments: BTreeMap<u64, Segment>,
    /// Last index of each group in each segment.
    pub reach: BTreeMap<u64, HashMap<u32, u64>>,
    pub offset: u64,
    /// Length of the active segment.
    pub capacity: u64,
    pub next_sequence: u64,
    /// Records that ride in the next frame. A frame of their own, without a sync, could be missing after a power cut while the
    /// next one is there, and would look like damage.
    pub riders: Vec<Record>,
    /// Kept from frame to frame.
    pub buffer: Vec<u8>,
}

impl Writer {
    /// Writes a batch; answers why the log has stopped, if it has.
    fn commit(&mut self, shared: &Shared, batch: &[Job]) -> Option<String> {
        let stopped = shared.stopped.lock().clone();
        if stopped.is_some() {
            return stopped;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = self.write(shared, batch, &mut buffer);
        self.buffer = buffer;
        let reason = outcome.err()?.to_string();
        tracing::error!(error = %reason, "the log cannot be written any more");
        *shared.stopped.lock() = Some(reason.clone());
        Some(reason)
    }

    fn write(&mut self, shared: &Shared, batch: &[Job], buffer: &mut Vec<u8>) -> Result<(), LogError> {
        if batch.iter().any(|job| job.done.is_some()) {
            self.frame(shared, batch, buffer)?;
        } else {
            self.riders.extend(batch.iter().flat_map(|job| &job.records).cloned());
        }
        if batch.iter().flat_map(|job| &job.records).any(|record| matches!(record, Record::Purge { .. })) {
            self.drop_segments(shared, buffer)?;
        }
        Ok(())
    }

    /// Writes and syncs one frame: what was to ride along, then the batch.
    fn frame(&mut self, shared: &Shared, batch: &[Job], buffer: &mut Vec<u8>) -> Result<(), LogError> {
        let riders = std::mem::take(&mut self.riders);
        let records = || riders.iter().chain(batch.iter().flat_map(|job| &job.records));
        let mut places = encode(self.next_sequence, records(), buffer);
        if self.offset + buffer.len() as u64 > self.capacity {
            self.roll(shared, buffer.len())?;
            // The new segment began with a frame of its own.
            places = encode(self.next_sequence, records(), buffer);
        }
        let started = Instant::now();
        self.put(buffer)?;
        if let Some(observer) = &self.options.observer {
            observer(started.elapsed(), buffer.len());
        }
        self.settle(shared, &places, self.offset - buffer.len() as u64);
        Ok(())
    }

    fn active(&self) -> &Segment {
        self.segments.values().next_back().expect("a log has at least one segment")
    }

    fn file(&self) -> Arc<dyn SegmentFile> {
        let file = Arc::clone(&self.active().file);
        match &self.options.wrap {
            Some(wrap) => wrap(file),
            None => file,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let segment = self.active();
        let file = self.file();
        file.write_all_at(bytes, self.offset)
            .and_then(|()| file.sync())
            .map_err(|source| LogError::Stopped(format!("writing {}: {source}", segment.path.display())))?;
        self.offset += bytes.len() as u64;
        self.next_sequence += 1;
        Ok(())
    }

    /// Tells the groups where their entries lie.
    fn settle(&mut self, shared: &Shared, places: &[(u32, EntryId, u64, u32)], start: u64) {
        let segment = self.active().first;
        let reach = self.reach.entry(segment).or_default();
        let mut last: Option<(u32, Arc<Mutex<super::group::Group>>)> = None;
        for (group, id, offset, length) in places {
            let state = match &last {
                Some((known, state)) if known == group => Arc::clone(state),
                _ => shared.group(*group),
            };
            let place = Place { segment, offset: start + offset, length: *length };
            state.lock().placed(*id, place);
            let furthest = reach.entry(*group).or_default();
            *furthest = id.index.max(*furthest);
            last = Some((*group, state));
        }
    }

    /// Starts a new segment large enough for a frame of `frame` bytes.
    fn roll(&mut self, shared: &Shared, frame: usize) -> Result<(), LogError> {
        let state = state_records(shared);
        let mut buffer = Vec::new();
        encode(self.next_sequence, state.iter(), &mut buffer);
        let needed = (SEGMENT_HEADER + buffer.len() + frame) as u64;
        let size = self.options.segment_bytes.max(needed);
        let segment = segment::create(&self.dir, self.next_sequence, size)?;
        shared.files.lock().insert(segment.first, (segment.path.clone(), Arc::clone(&segment.file)));
        self.segments.insert(segment.first, segment);
        self.offset = SEGMENT_HEADER as u64;
        self.capacity = size;
        self.put(&buffer)
    }

    /// Deletes the oldest segments that hold no entry anybody may still ask for.
    fn drop_segments(&mut self, shared: &Shared, buffer: &mut Vec<u8>) -> Result<(), LogError> {
        while self.segments.len() > 1 {
            let Some(oldest) = self.segments.keys().next().copied() else { break };
            let reach = self.reach.get(&oldest).cloned().unwrap_or_default();
            let needed = reach.iter().any(|(group, last)| {
                shared.group(*group).lock().purged().is_none_or(|purged| purged.index < *last)
            });
            if needed {
                break;
            }
            if !self.riders.is_empty() {
                // A log that lacks entries must say that they were purged, even after a crash.
                self.frame(shared, &[], buffer)?;
            }
            self.reach.remove(&oldest);
            shared.files.lock().remove(&oldest);
            if let Some(segment) = self.segments.remove(&oldest)
                && let Err(error) = std::fs::remove_file(&segment.path)
            {
                tracing::warn!(path = %segment.path.display(), %error, "an old log segment stays behind");
            }
        }
        Ok(())
    }
}

/// The votes and purge points of all groups.
fn state_records(shared: &Shared) -> Vec<Record> {
    let groups = shared.groups.lock();
    let mut records = Vec::new();
    for (group, state) in groups.iter() {
        let state = state.lock();
        records.extend(state.vote.map(|vote| Record::Vote { group: *group, vote }));
        records.extend(state.purged().map(|id| Record::Purge { group: *group, id }));
    }
    records
}

type Placed = (u32, EntryId, u64, u32);

/// Fills `buffer` with one frame; answers where in it each entry lies.
fn encode<'a>(sequence: u64, records: impl Iterator<Item = &'a Record>, buffer: &mut Vec<u8>) -> Vec<Placed> {
    let mut places = Vec::new();
    frame::begin(buffer);
    for record in records {
        let start = buffer.len();
        record::encode(record, buffer);
        if let Record::Entry { group, id, .. } = record {
            places.push((*group, *id, start as u64, (buffer.len() - start) as u32));
        }
    }
    frame::finish(sequence, buffer);
    places
}

fn weight(job: &Job) -> usize {
    let payload = |record: &Record| match record {
        Record::Entry { payload, .. } => payload.len() + 64,
        _ => 64,
    };
    job.records.iter().map(payload).sum()
}
