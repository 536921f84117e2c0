//! The embedder's queue: one thread that embeds what arrived, a few texts at a time, so that a large request does not
//! hold up the small ones behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as thread_channel;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::EngineMetrics;
use crate::executor::{Embedder, ExecutorError};

/// Tokens embedded in one call; a longer text makes a call of its own.
const TOKENS_A_CALL: usize = 2048;

/// Why texts were not embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// Too many texts wait.
    #[error("{waiting} texts are waiting for the model, which is the limit of this server")]
    Busy {
        /// Texts waiting.
        waiting: usize,
    },
    /// The deadline passed.
    #[error("the request was not done in time")]
    TimedOut,
    /// The model failed.
    #[error("the model failed on this request: {reason}")]
    Model {
        /// What it said.
        reason: String,
    },
    /// The thread is gone.
    #[error("the engine has stopped; the server's log says why")]
    Stopped,
}

/// One request's texts.
struct Job {
    texts: VecDeque<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
    answer: oneshot::Sender<Result<Vec<Vec<f32>>, EmbedError>>,
    arrived: Instant,
    span: tracing::Span,
}

/// The doors' way to the embedder. Cheap to clone.
#[derive(Clone)]
pub struct EmbedQueue {
    model: Arc<dyn Embedder>,
    jobs: thread_channel::Sender<Job>,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl EmbedQueue {
    /// Starts the thread. At most `most` texts wait; one request may bring more when none waits.
    pub fn start(model: Arc<dyn Embedder>, most: usize, metrics: EngineMetrics) -> std::io::Result<Self> {
        let (jobs, inbox) = thread_channel::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let worker = Worker { model: model.clone(), waiting: waiting.clone(), metrics };
        std::thread::Builder::new().name("embedder".to_owned()).spawn(move || worker.run(&inbox))?;
        Ok(Self { model, jobs, waiting, most })
    }

    /// The model.
    pub fn model(&self) -> &dyn Embedder {
        &*self.model
    }

    /// Embeds token sequences, in order.
    pub async fn embed(
        &self,
        texts: Vec<Vec<u32>>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let count = texts.len();
        let taken = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting == 0 || waiting + count <= self.most).then_some(waiting + count)
        });
        if let Err(waiting) = taken {
            return Err(EmbedError::Busy { waiting });
        }
        let (answer, vectors) = oneshot::channel();
        let job = Job {
            texts: texts.into(),
            vectors: Vec::with_capacity(count),
            answer,
            arrived: Instant::now(),
            span: tracing::info_span!("embed", texts = count),
        };
        if self.jobs.send(job).is_err() {
            return Err(EmbedError::Stopped);
        }
        let left =
            deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        match tokio::time::timeout(left, vectors).await {
            Ok(answer) => answer.unwrap_or(Err(EmbedError::Stopped)),
            Err(_) => Err(EmbedError::TimedOut),
        }
    }
}

struct Worker {
    model: Arc<dyn Embedder>,
    waiting: Arc<AtomicUsize>,
    metrics: EngineMetrics,
}

impl Worker {
    fn run(&self, inbox: &thread_channel::Receiver<Job>) {
        let mut jobs: VecDeque<Job> = VecDeque::new();
        loop {
            if jobs.is_empty() {
                let Ok(job) = inbox.recv() else { return };
                jobs.push_back(job);
            }
            jobs.extend(inbox.try_iter());
            self.forget_departed(&mut jobs);
            self.embed_some(&mut jobs);
        }
    }

    /// A client that left takes its texts with it.
    fn forget_departed(&self, jobs: &mut VecDeque<Job>) {
        jobs.retain(|job| {
            let gone = job.answer.is_closed();
            if gone {
                self.waiting.fetch_sub(job.texts.len(), Ordering::AcqRel);
                self.metrics.aborted();
            }
            !gone
        });
    }

    /// One call: a share of each request in turn, up to the token limit.
    fn embed_some(&self, jobs: &mut VecDeque<Job>) {
        let mut batch = Vec::new();
        let mut owners = Vec::new();
        let mut tokens = 0;
        'fill: loop {
            let mut took = false;
            for (at, job) in jobs.iter_mut().enumerate() {
                let Some(text) = job.texts.front() else { continue };
                if !batch.is_empty() && tokens + text.len() > TOKENS_A_CALL {
                    break 'fill;
                }
                tokens += text.len();
                batch.push(job.texts.pop_front().expect("looked at just now"));
                owners.push(at);
                took = true;
            }
            if !took {
                break;
            }
        }
        if batch.is_empty() {
            return;
        }
        self.waiting.fetch_sub(batch.len(), Ordering::AcqRel);
        self.metrics.stepped(tokens, tokens);
        match self.model.embed(&batch) {
            Ok(vectors) => {
                for (owner, vector) in owners.into_iter().zip(vectors) {
                    jobs[owner].vectors.push(vector);
                }
                self.answer_finished(jobs);
            }
            Err(error) => self.fail(jobs, &owners, &error),
        }
    }

    fn answer_finished(&self, jobs: &mut VecDeque<Job>) {
        for _ in 0..jobs.len() {
            let Some(job) = jobs.pop_front() else { return };
            if job.texts.is_empty() {
                self.metrics.embedded(job.arrived.elapsed());
                let _guard = job.span.entered();
                // The client may have left meanwhile.
                let _ = job.answer.send(Ok(job.vectors));
            } else {
                jobs.push_back(job);
            }
        }
    }

    /// The model refused the batch: each request in it is told.
    fn fail(&self, jobs: &mut VecDeque<Job>, owners: &[usize], error: &ExecutorError) {
        tracing::error!(%error, "embedding failed");
        let mut at = 0;
        jobs.retain_mut(|job| {
            let failed = owners.contains(&at);
            at += 1;
            if failed {
                self.waiting.fetch_sub(job.texts.len(), Ordering::AcqRel);
                let (closed, _) = oneshot::channel();
                let answer = std::mem::replace(&mut job.answer, closed);
                let _ = answer.send(Err(EmbedError::Model { reason: error.to_string() }));
            }
            !failed
        });
    }
}
