//! The engine's loop: take what arrived, plan a step, compute it, sample, tell the clients.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tracing::Span;

use super::reply_text::ReplyText;
use super::{
    Command, EngineError, Event, Finish, FinishReason, Request, Sequences, Shared, Submission, Timings,
};
use crate::executor::{Executor, ExecutorError, Logits, StepBatch, StepSequence, Want};
use crate::sampling::{Sampler, SamplingParams, TokenLogprobs, score};
use crate::scheduler::{NewSequence, Scheduler, SequenceId, StepPlan, Work};

/// How long to wait before planning again when nothing could be scheduled.
const NOTHING_TO_DO: Duration = Duration::from_millis(5);

/// Runs until the last handle is gone or the executor breaks.
pub(super) fn run(
    executor: Box<dyn Executor>,
    shared: &Arc<Shared>,
    inbox: &Receiver<Command>,
    on_death: impl FnOnce(),
) {
    shared.metrics.started(shared.sizes);
    let mut worker = Worker {
        executor,
        scheduler: Scheduler::new(shared.sizes),
        shared: shared.clone(),
        requests: HashMap::new(),
        choices: HashMap::new(),
        next_sequence: 0,
    };
    // A panic below is a bug of ours. The clients are told, the process stays up to say that it is not ready.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| worker.serve(inbox)));
    shared.alive.store(false, Ordering::Release);
    if ended.is_err() {
        tracing::error!("the engine's thread panicked; this process serves no more requests");
        on_death();
    }
}

struct Worker {
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    shared: Arc<Shared>,
    requests: HashMap<u64, Client>,
    choices: HashMap<SequenceId, Choice>,
    next_sequence: u64,
}

/// A request's side of the client.
struct Client {
    events: UnboundedSender<Event>,
    sequences: Sequences,
    deadline: Option<Instant>,
    span: Span,
}

/// A choice on its way.
struct Choice {
    request: u64,
    index: usize,
    sampler: Sampler,
    text: ReplyText,
    rules: Arc<Request>,
    /// Scores of the prompt's tokens after the first, when they are wanted.
    scored: Option<Vec<TokenLogprobs>>,
    generated: usize,
    cached: usize,
    arrived: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Instant,
    phase: Span,
}

impl Worker {
    fn serve(&mut self, inbox: &Receiver<Command>) {
        loop {
            if !self.take_commands(inbox) {
                return;
            }
            self.drop_departed();
            let before = self.scheduler.stats();
            let plan = self.scheduler.plan();
            self.note_plan(&plan);
            if plan.work.is_empty() {
                self.shared.metrics.state(&before, &self.scheduler.stats());
                if self.scheduler.is_idle() {
                    continue;
                }
                match inbox.recv_timeout(NOTHING_TO_DO) {
                    Ok(command) => self.obey(command),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                continue;
            }
            match self.compute(&plan) {
                Ok(logits) => {
                    self.scheduler.computed(&plan);
                    self.finish_step(&plan, &logits);
                }
                Err(error) => self.fail_step(&plan, &error),
            }
            self.shared.metrics.state(&before, &self.scheduler.stats());
        }
    }

    /// Takes every command that is there; waits for one when there is nothing to compute. False at the end.
    fn take_commands(&mut self, inbox: &Receiver<Command>) -> bool {
        if self.scheduler.is_idle() {
            let Ok(command) = inbox.recv() else { return false };
            self.obey(command);
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.scheduler.is_idle(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.take(*submission),
            Command::Cancel(id) => {
                let before = self.scheduler.stats();
                self.drop_request(id);
                self.shared.metrics.state(&before, &self.scheduler.stats());
            }
            Command::ResetPrefixCache => self.scheduler.reset_prefix_cache(),
        }
    }

    fn take(&mut self, submission: Submission) {
        let Submission { id, request, events, arrived, span } = submission;
        let request = Arc::new(request);
        self.shared.metrics.arrived(&request);
        let first = SequenceId(self.next_sequence);
        let count = request.choices.max(1);
        let sequences: Sequences = (0..count as u64).map(|at| SequenceId(first.0 + at)).collect();
        self.next_sequence += count as u64;
        let scores_prompt = request.prompt_logprobs.is_some();
        let arrivals = sequences.iter().map(|&sequence| NewSequence {
            id: sequence,
            prompt: request.prompt.clone(),
            max_new: request.max_tokens,
            wants_prompt_logits: scores_prompt && sequence == first,
            salt: request.salt,
            after: (sequence != first).then_some(first),
        });
        if let Err(refusal) = self.scheduler.arrive(arrivals.collect()) {
            // The handle checked room and places already; this only guards against the two drifting apart.
            let _ = events.send(Event::Failed(EngineError::Model { reason: refusal.to_string() }));
            self.shared.in_engine.fetch_sub(count, Ordering::AcqRel);
            return;
        }
        for (index, &sequence) in sequences.iter().enumerate() {
            let seed = request.sampling.seed.wrapping_add(index as u64);
            let params = SamplingParams { seed, ..request.sampling.clone() };
            let choice = Choice {
                request: id,
                index,
                sampler: Sampler::new(params, &request.prompt),
                text: ReplyText::new(&request.stop),
                rules: request.clone(),
                scored: (scores_prompt && index == 0).then(Vec::new),
                generated: 0,
                cached: 0,
                arrived,
                admitted: None,
                first_token: None,
                last_token: arrived,
                phase: tracing::info_span!(parent: &span, "queue", choice = index),
            };
            self.choices.insert(sequence, choice);
        }
        self.requests.insert(id, Client { events, sequences, deadline: request.deadline, span });
    }

    /// Clients that left without a word, and those whose time is up.
    fn drop_departed(&mut self) {
        let now = Instant::now();
        let mut gone: Vec<(u64, bool)> = Vec::new();
        for (&id, client) in &self.requests {
            let late = client.deadline.is_some_and(|deadline| deadline <= now);
            if late || client.events.is_closed() {
                gone.push((id, late));
            }
        }
        for (id, late) in gone {
            if late {
                let client = &self.requests[&id];
                let longest =
                    client.sequences.iter().filter_map(|s| self.choices.get(s)).map(|c| c.generated).max();
                let error = EngineError::TimedOut { completion_tokens: longest.unwrap_or(0) };
                let _ = client.events.send(Event::Failed(error));
            }
            self.drop_request(id);
        }
    }

    /// Takes a request out and frees its blocks. Unknown ones are done already.
    fn drop_request(&mut self, id: u64) {
        let Some(client) = self.requests.remove(&id) else { return };
        for sequence in client.sequences {
            if self.choices.remove(&sequence).is_some() {
                self.scheduler.remove(sequence);
                self.shared.in_engine.fetch_sub(1, Ordering::AcqRel);
                self.shared.metrics.aborted();
            }
        }
    }

    fn note_plan(&mut self, plan: &StepPlan) {
        let now = Instant::now();
        for &(id, cached) in &plan.admitted {
            let Some(choice) = self.choices.get_mut(&id) else { continue };
            // Admitted again after a preemption: its times go on.
            if choice.admitted.is_some() {
                continue;
            }
            choice.admitted = Some(now);
            choice.cached = cached;
            let parent = &self.requests[&choice.request].span;
            choice.phase = tracing::info_span!(
                parent: parent,
                "prefill",
                choice = choice.index,
                prompt_tokens = choice.rules.prompt.len(),
                cached_tokens = cached,
            );
        }
        for id in &plan.preempted {
            tracing::debug!(sequence = id.0, "preempted: no KV block was free");
        }
        if !plan.work.is_empty() {
            let prompt_tokens = plan.work.iter().filter(|work| !work.decodes).map(|work| work.len).sum();
            self.shared.metrics.stepped(prompt_tokens, plan.tokens());
        }
    }

    fn compute(&mut self, plan: &StepPlan) -> Result<Vec<Logits>, ExecutorError> {
        let mut batch = StepBatch::default();
        for work in &plan.work {
            let sequence = self.scheduler.sequence(work.id).expect("planned sequences are held");
            let choice = &self.choices[&work.id];
            batch.sequences.push(StepSequence {
                tokens: &sequence.tokens[work.start..work.start + work.len],
                start: work.start,
                blocks: &sequence.blocks,
                want: want(work, choice),
            });
        }
        self.executor.step(&batch)
    }

    fn finish_step(&mut self, plan: &StepPlan, logits: &[Logits]) {
        for rows in logits {
            let Some(work) = plan.work.get(rows.sequence) else { continue };
            self.score_prompt(work, rows);
        }
        for rows in logits {
            let Some(work) = plan.work.get(rows.sequence) else { continue };
            if work.samples && self.choices.get(&work.id).is_some_and(|choice| choice.rules.max_tokens > 0) {
                self.sample(work.id, rows.last());
            }
        }
        // Choices that only score their prompt have nothing to sample and are done with it.
        for work in plan.work.iter().filter(|work| work.samples) {
            if self.choices.get(&work.id).is_some_and(|choice| choice.rules.max_tokens == 0) {
                self.finish(work.id, FinishReason::Length, Instant::now());
            }
        }
    }

    /// Scores the prompt tokens that this chunk's rows predict.
    fn score_prompt(&mut self, work: &Work, rows: &Logits) {
        let Some(choice) = self.choices.get_mut(&work.id) else { return };
        let prompt = &choice.rules.prompt;
        let Some(scored) = choice.scored.as_mut().filter(|scored| scored.len() + 1 < prompt.len()) else {
            return;
        };
        let top = choice.rules.prompt_logprobs.unwrap_or(0);
        for (at, row) in rows.rows().enumerate() {
            let predicted = rows.position + at + 1;
            // After a preemption the chunk is computed again; what was scored stays.
            if predicted < prompt.len() && predicted == scored.len() + 1 {
                scored.push(score(row, prompt[predicted], top));
            }
        }
        if scored.len() + 1 == prompt.len() {
            let scored = scored.clone();
            self.tell(work.id, Event::PromptScored(scored));
        }
    }

    fn sample(&mut self, id: SequenceId, logits: &[f32]) {
        let now = Instant::now();
        let Some(choice) = self.choices.get_mut(&id) else { return };
        let sampled = match choice.sampler.sample(logits) {
            Ok(sampled) => sampled,
            Err(error) => {
                let request = choice.request;
                self.fail_request(request, EngineError::Model { reason: error.to_string() });
                return;
            }
        };
        self.scheduler.append(id, sampled.token);
        choice.generated += 1;
        if choice.first_token.is_none() {
            choice.first_token = Some(now);
            self.shared.metrics.first_token(now - choice.arrived);
            let parent = &self.requests[&choice.request].span;
            choice.phase = tracing::info_span!(
                parent: parent,
                "decode",
                choice = choice.index,
                completion_tokens = tracing::field::Empty
            );
        } else {
            self.shared.metrics.next_token(now - choice.last_token);
        }
        choice.last_token = now;

        let rules = &choice.rules;
        let is_end = !rules.stop.ignore_eos && self.shared.model.eos.contains(&sampled.token);
        let ended = if is_end {
            Some(FinishReason::EndOfText)
        } else if rules.stop.tokens.contains(&sampled.token) {
            Some(FinishReason::StopToken(sampled.token))
        } else {
            None
        };
        if let Some(reason) = ended {
            self.finish(id, reason, now);
            return;
        }
        let texts = &self.shared.texts;
        let hidden = rules.skip_special && texts.is_special(sampled.token);
        let bytes = if hidden { &[] } else { texts.bytes(sampled.token) };
        let piece = choice.text.push(sampled.token, bytes, sampled.logprobs);
        let (index, is_full) = (choice.index, choice.generated >= rules.max_tokens);
        if !piece.text.is_empty() || !piece.tokens.is_empty() {
            self.tell(id, Event::Delta { choice: index, text: piece.text, tokens: piece.tokens });
        }
        if let Some(stop) = piece.stopped_by {
            self.finish(id, FinishReason::StopString(stop), now);
        } else if is_full {
            self.finish(id, FinishReason::Length, now);
        }
    }

    fn finish(&mut self, id: SequenceId, reason: FinishReason, now: Instant) {
        let Some(mut choice) = self.choices.remove(&id) else { return };
        self.scheduler.remove(id);
        self.shared.in_engine.fetch_sub(1, Ordering::AcqRel);
        choice.phase.record("completion_tokens", choice.generated);
        let admitted = choice.admitted.unwrap_or(choice.arrived);
        let first = choice.first_token.unwrap_or(now);
        let finish = Finish {
            completion_tokens: choice.generated,
            cached_tokens: choice.cached,
            timings: Timings {
                queue: admitted - choice.arrived,
                prefill: first - admitted,
                decode: now - first,
            },
            reason,
        };
        self.shared.metrics.finished(&finish);
        self.remember_duration(now - choice.arrived);
        let Some(client) = self.requests.get_mut(&choice.request) else { return };
        let rest = match finish.reason {
            FinishReason::StopString(_) => super::reply_text::Piece::default(),
            _ => choice.text.finish(),
        };
        if !rest.text.is_empty() || !rest.tokens.is_empty() {
            let delta = Event::Delta { choice: choice.index, text: rest.text, tokens: rest.tokens };
            let _ = client.events.send(delta);
        }
        // A client that left is noticed before the next step.
        let _ = client.events.send(Event::Finished { choice: choice.index, finish });
        client.sequences.retain(|&sequence| sequence != id);
        if client.sequences.is_empty() {
            self.requests.remove(&choice.request);
        }
    }

    /// The step failed: the request that caused it fails, the others are planned again.
    fn fail_step(&mut self, plan: &StepPlan, error: &ExecutorError) {
        let at = match *error {
            ExecutorError::EmptySequence { sequence }
            | ExecutorError::UnknownToken { sequence, .. }
            | ExecutorError::ContextExceeded { sequence, .. }
            | ExecutorError::TooFewBlocks { sequence, .. }
            | ExecutorError::UnknownBlock { sequence, .. }
            | ExecutorError::NotFinite { sequence } => sequence,
        };
        tracing::error!(%error, "a step failed");
        let guilty = plan.work.get(at).or(plan.work.first());
        let request = guilty.and_then(|work| self.choices.get(&work.id)).map(|choice| choice.request);
        if let Some(request) = request {
            self.fail_request(request, EngineError::Model { reason: error.to_string() });
        }
    }

    fn fail_request(&mut self, id: u64, error: EngineError) {
        if let Some(client) = self.requests.get(&id) {
            let _ = client.events.send(Event::Failed(error));
        }
        self.drop_request(id);
    }

    fn tell(&self, id: SequenceId, event: Event) {
        let client = self.choices.get(&id).and_then(|choice| self.requests.get(&choice.request));
        if let Some(client) = client {
            // A client that left is noticed before the next step.
            let _ = client.events.send(event);
        }
    }

    fn remember_duration(&self, took: Duration) {
        let before = self.shared.recent_micros.load(Ordering::Relaxed);
        let took = took.as_micros() as u64;
        let now = if before == 0 { took } else { (before * 7 + took) / 8 };
        self.shared.recent_micros.store(now, Ordering::Relaxed);
    }
}

fn want(work: &Work, choice: &Choice) -> Want {
    let prompt_end = choice.rules.prompt.len();
    let scoring = choice.scored.as_ref().is_some_and(|scored| scored.len() + 1 < prompt_end);
    if scoring && work.start < prompt_end {
        Want::AllLogits
    } else if work.samples && choice.rules.max_tokens > 0 {
        Want::LastLogits
    } else {
        Want::None
    }
}
