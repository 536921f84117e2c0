//! The engine around a model that is a hash of what its KV memory holds: any slip in blocks, chunks or batching shows
//! as another token.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::executor::{ExecutorError, Logits, StepBatch, Want};

const VOCABULARY: usize = 300;
const END: u32 = 256;
/// A token on which the model fails, and one on which it panics.
const FAILS: u32 = 290;
const PANICS: u32 = 291;

/// For what must happen, however slow and busy the machine is.
const PATIENCE: Duration = Duration::from_mins(5);

/// How many steps the model may make: a test that looks at a request on its way holds it there.
struct Gate {
    allowed: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn new(steps: usize) -> Arc<Self> {
        Arc::new(Self { allowed: Mutex::new(steps), changed: Condvar::new() })
    }

    /// As many from now on. What was allowed before and not made is forgotten, so that steps never pile up.
    fn allow(&self, steps: usize) {
        *self.allowed.lock() = steps;
        self.changed.notify_one();
    }

    fn pass(&self) {
        let mut allowed = self.allowed.lock();
        self.changed.wait_while(&mut allowed, |allowed| *allowed == 0);
        *allowed -= 1;
    }
}

/// Steps for a whole test.
const PLENTY: usize = usize::MAX;

struct HashModel {
    config: ModelConfig,
    memory: HashMap<(u32, usize), u32>,
    gate: Arc<Gate>,
}

impl HashModel {
    fn new(sizes: Sizes, gate: Arc<Gate>) -> Self {
        let config = ModelConfig {
            architecture: "hash".to_owned(),
            vocab: VOCABULARY,
            context: 4096,
            block_size: sizes.block_size,
            n_blocks: sizes.blocks,
            block_bytes: 1,
            eos: vec![END],
            bos: None,
            add_bos: false,
            layers: 1,
            hidden: 1,
            parameters: 1,
            weight_type: "none".to_owned(),
            threads: 1,
            isa: "scalar",
        };
        Self { config, memory: HashMap::new(), gate }
    }

    fn logits(history: &[u32]) -> Vec<f32> {
        let logit = |token: usize| {
            let mut hasher = DefaultHasher::new();
            (history, token).hash(&mut hasher);
            (hasher.finish() % 1000) as f32 / 100.0
        };
        // The end and the special tokens are never likely by chance.
        (0..VOCABULARY).map(|token| if token < 256 { logit(token) } else { -100.0 }).collect()
    }
}

impl Executor for HashModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn step(&mut self, batch: &StepBatch<'_>) -> Result<Vec<Logits>, ExecutorError> {
        let slot = |sequence: &crate::executor::StepSequence<'_>, at: usize| {
            (sequence.blocks[at / self.config.block_size], at % self.config.block_size)
        };
        self.gate.pass();
        if let Some(sequence) = batch.sequences.iter().position(|s| s.tokens.contains(&FAILS)) {
            return Err(ExecutorError::NotFinite { sequence });
        }
        assert!(!batch.sequences.iter().any(|s| s.tokens.contains(&PANICS)), "as the test asked");
        let mut results = Vec::new();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            for (at, &token) in sequence.tokens.iter().enumerate() {
                self.memory.insert(slot(sequence, sequence.start + at), token);
            }
            let end = sequence.start + sequence.tokens.len();
            let history: Vec<u32> = (0..end).map(|at| self.memory[&slot(sequence, at)]).collect();
            let first = match sequence.want {
                Want::None => continue,
                Want::LastLogits => end - 1,
                Want::AllLogits => sequence.start,
            };
            let values = (first..end).flat_map(|at| Self::logits(&history[..=at])).collect();
            results.push(Logits { sequence: index, position: first, vocab: VOCABULARY, values });
        }
        Ok(results)
    }

    fn copy_blocks(&mut self, _: &[(u32, u32)]) -> Result<(), ExecutorError> {
        Ok(())
    }
}

fn sizes() -> Sizes {
    Sizes { block_size: 16, blocks: 64, max_running: 8, max_waiting: 8, step_tokens: 64, prefill_chunk: 24 }
}

/// 256 tokens of one letter each (ASCII letters, so that any order is text), the end, and specials.
fn texts() -> TokenTexts {
    let letter = |token: u32| char::from(b'a' + (token % 26) as u8).to_string();
    let mut spelled: Vec<(String, bool)> = (0..256).map(|token| (letter(token), false)).collect();
    spelled.extend((256..VOCABULARY).map(|token| (format!("<|{token}|>"), true)));
    TokenTexts::from_spellings(spelled)
}

fn engine_with(sizes: Sizes) -> Engine {
    gated(sizes, PLENTY).0
}

/// An engine whose model makes `steps` steps, and more as the gate allows.
fn gated(sizes: Sizes, steps: usize) -> (Engine, Arc<Gate>) {
    let gate = Gate::new(steps);
    let model = Box::new(HashModel::new(sizes, gate.clone()));
    let engine = Engine::start(model, texts(), sizes, EngineMetrics::default(), || {});
    (engine.expect("a thread starts"), gate)
}

fn engine() -> Engine {
    engine_with(sizes())
}

fn request(prompt: impl IntoIterator<Item = u32>, max_tokens: usize) -> Request {
    Request {
        prompt: prompt.into_iter().collect(),
        max_tokens,
        choices: 1,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopRules::default(),
        prompt_logprobs: None,
        skip_special: true,
        salt: 0,
        deadline: None,
    }
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Collected {
    text: String,
    tokens: Vec<u32>,
    finish: Option<Finish>,
}

/// Waits for the end; what each choice said, and the scored prompt.
async fn collect(
    mut reply: Reply,
    choices: usize,
) -> Result<(Vec<Collected>, Option<Vec<TokenLogprobs>>), EngineError> {
    let mut all = vec![Collected::default(); choices];
    let mut scored = None;
    while all.iter().any(|choice| choice.finish.is_none()) {
        match reply.next().await {
            Event::PromptScored(scores) => scored = Some(scores),
            Event::Delta { choice, text, tokens } => {
                all[choice].text.push_str(&text);
                all[choice].tokens.extend(tokens.iter().map(|record| record.token));
            }
            Event::Finished { choice, finish } => all[choice].finish = Some(finish),
            Event::Failed(error) => return Err(error),
        }
    }
    Ok((all, scored))
}

async fn one(engine: &Engine, request: Request) -> Collected {
    let reply = engine.submit(request).expect("there is room");
    collect(reply, 1).await.expect("no failure").0.remove(0)
}

/// What the model says, straight from its definition.
fn greedy(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..count {
        let logits = HashModel::logits(&history);
        let best = (0..VOCABULARY as u32)
            .max_by(|&a, &b| logits[a as usize].total_cmp(&logits[b as usize]).then(b.cmp(&a)));
        history.push(best.expect("not empty"));
    }
    history.split_off(prompt.len())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_reply_is_the_models_own_with_counts_and_times() {
    let engine = engine();
    let prompt: Vec<u32> = (0..50).collect();
    let reply = one(&engine, request(prompt.clone(), 20)).await;
    assert_eq!(reply.tokens, greedy(&prompt, 20));
    assert_eq!(reply.text.len(), 20);
    let finish = reply.finish.unwrap();
    assert_eq!(
        (finish.reason, finish.completion_tokens, finish.cached_tokens),
        (FinishReason::Length, 20, 0)
    );
    let again = one(&engine, request(prompt.clone(), 20)).await;
    assert_eq!(again.tokens, reply.tokens);
    assert_eq!(again.finish.unwrap().cached_tokens, 48, "three whole blocks of the prompt");
}

#[tokio::test]
async fn a_reply_is_the_same_alone_and_in_a_batch_of_sixteen() {
    let sampled = |at: u32| Request {
        sampling: SamplingParams { seed: u64::from(at), ..SamplingParams::default() },
        ..request((at % 3..at % 3 + 40 + at).collect::<Vec<_>>(), 30)
    };
    let mut alone = Vec::new();
    for at in 0..16 {
        alone.push(one(&engine(), sampled(at)).await);
    }
    // Few blocks, so that sequences are preempted and computed again as well.
    let tight = Sizes { blocks: 20, max_waiting: 16, ..sizes() };
    for engine in [engine_with(Sizes { max_running: 16, ..sizes() }), engine_with(tight)] {
        let replies: Vec<Reply> = (0..16).map(|at| engine.submit(sampled(at)).unwrap()).collect();
        for (reply, alone) in replies.into_iter().zip(&alone) {
            let together = collect(reply, 1).await.unwrap().0.remove(0);
            assert_eq!((&together.tokens, &together.text), (&alone.tokens, &alone.text));
        }
    }
}

#[tokio::test]
async fn choices_differ_by_seed_and_share_the_prompt() {
    let engine = engine();
    let many = Request { choices: 4, sampling: SamplingParams::default(), ..request(0..40, 10) };
    let (choices, _) = collect(engine.submit(many.clone()).unwrap(), 4).await.unwrap();
    let texts: std::collections::HashSet<_> = choices.iter().map(|choice| &choice.text).collect();
    assert_eq!(texts.len(), 4);
    let cached: Vec<_> = choices.iter().map(|choice| choice.finish.as_ref().unwrap().cached_tokens).collect();
    assert_eq!(cached, [0, 32, 32, 32]);
    let third =
        Request { choices: 1, sampling: SamplingParams { seed: 2, ..SamplingParams::default() }, ..many };
    assert_eq!(one(&engine, third).await.text, choices[2].text, "choice i samples with seed + i");
}

#[tokio::test]
async fn replies_end_by_end_token_stop_token_and_stop_string() {
    let engine = engine();
    let prompt: Vec<u32> = (0..20).collect();
    let expected = greedy(&prompt, 12);
    let text: String = expected.iter().map(|t| char::from(b'a' + (t % 26) as u8)).collect();
    let forced = SamplingParams { logit_bias: vec![(END, 1000.0)], ..request([1], 1).sampling };
    let stop = |stop: StopRules| Request { stop, ..request(prompt.clone(), 12) };

    let ended = one(&engine, Request { sampling: forced.clone(), ..request(prompt.clone(), 9) }).await;
    assert_eq!((ended.text.as_str(), ended.tokens.len()), ("", 0));
    let finish = ended.finish.unwrap();
    assert_eq!((finish.reason, finish.completion_tokens), (FinishReason::EndOfText, 1));

    let ignoring = Request {
        stop: StopRules { ignore_eos: true, ..StopRules::default() },
        skip_special: false,
        ..request(prompt.clone(), 2)
    };
    let going_on = one(&engine, Request { sampling: forced, ..ignoring }).await;
    assert_eq!(going_on.text, "<|256|><|256|>");

    let by_token = one(&engine, stop(StopRules { tokens: vec![expected[5]], ..StopRules::default() })).await;
    let first = expected.iter().position(|t| *t == expected[5]).unwrap();
    assert_eq!(by_token.text, text[..first]);
    assert_eq!(by_token.finish.unwrap().reason, FinishReason::StopToken(expected[5]));

    for keep in [false, true] {
        let strings = vec!["never".to_owned(), text[4..7].to_owned()];
        let by_string = one(&engine, stop(StopRules { strings, keep, ..StopRules::default() })).await;
        let at = text.find(&text[4..7]).unwrap();
        assert_eq!(by_string.text, text[..if keep { at + 3 } else { at }]);
        assert_eq!(by_string.finish.unwrap().reason, FinishReason::StopString(text[4..7].to_owned()));
    }
}

#[tokio::test]
async fn prompts_are_scored_through_chunks_and_preemption() {
    let prompt: Vec<u32> = (0..60).map(|at| at * 7 % 256).collect();
    let check = |scores: &[TokenLogprobs]| {
        assert_eq!(scores.len(), 59);
        for (at, scored) in scores.iter().enumerate() {
            let exact = crate::sampling::score(&HashModel::logits(&prompt[..=at]), prompt[at + 1], 2);
            assert_eq!(*scored, exact, "token {}", at + 1);
        }
    };
    let scoring = |max_tokens| Request { prompt_logprobs: Some(2), ..request(prompt.clone(), max_tokens) };
    let engine = engine();
    for max_tokens in [0, 1, 5] {
        let (choices, scores) = collect(engine.submit(scoring(max_tokens)).unwrap(), 1).await.unwrap();
        check(&scores.expect("scored"));
        assert_eq!(choices[0].tokens, greedy(&prompt, max_tokens));
        assert_eq!(choices[0].finish.as_ref().unwrap().completion_tokens, max_tokens);
    }
    let tight = engine_with(Sizes { blocks: 6, ..sizes() });
    let others = tight.submit(request((100..120).collect::<Vec<_>>(), 60)).unwrap();
    let (_, scores) = collect(tight.submit(scoring(20)).unwrap(), 1).await.unwrap();
    check(&scores.expect("scored"));
    collect(others, 1).await.unwrap();
    let (_, scores) =
        collect(engine.submit(Request { prompt_logprobs: Some(0), ..request([5], 1) }).unwrap(), 1)
            .await
            .unwrap();
    assert_eq!(scores, None, "the first token has nothing before it");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks_at_once() {
    let (engine, gate) = gated(sizes(), 100);
    // It wants more tokens than there are steps: only its leaving ends it.
    let mut reply = engine.submit(request(0..100, 600)).unwrap();
    while !matches!(reply.next().await, Event::Delta { .. }) {}
    assert!(engine.shared.metrics.load().2 > 0.0);
    drop(reply);
    gate.allow(1);
    until("blocks are free", || engine.shared.metrics.load().2 == 0.0).await;
    assert_eq!(engine.shared.in_engine.load(Ordering::Acquire), 0);
    // One that leaves while it still waits, too. The others go a step whenever we look.
    let load = || {
        gate.allow(1);
        engine.shared.metrics.load()
    };
    let running: Vec<Reply> = (0..8).map(|at| engine.submit(request([at, 1, 2], 500)).unwrap()).collect();
    let waiting = engine.submit(request([9, 9], 5)).unwrap();
    until("all run, one waits", || matches!(load(), (8, 1, _))).await;
    drop(waiting);
    until("nobody waits", || matches!(load(), (8, 0, _))).await;
    drop(running);
    gate.allow(1);
    until("nobody runs", || engine.shared.in_engine.load(Ordering::Acquire) == 0).await;
}

#[tokio::test]
async fn a_full_engine_refuses_with_a_time_to_come_back() {
    let (engine, gate) = gated(Sizes { max_running: 1, max_waiting: 2, ..sizes() }, 0);
    let held: Vec<Reply> = (0..3).map(|_| engine.submit(request([1, 2, 3], 900)).unwrap()).collect();
    match engine.submit(request([1], 1)).map(|_| ()) {
        Err(EngineError::Busy { waiting: 2, retry_after }) => assert!(retry_after >= Duration::from_secs(1)),
        other => panic!("{other:?}"),
    }
    drop(held);
    gate.allow(PLENTY);
    until("there is room again", || engine.shared.in_engine.load(Ordering::Acquire) == 0).await;
    one(&engine, request([1], 1)).await;
    let error = engine.submit(request(0..100, 1000)).map(|_| ()).unwrap_err();
    assert_eq!(error, EngineError::NeverFits { tokens: 1099, capacity: 1024 });
}

#[tokio::test]
async fn a_late_request_is_stopped_and_says_how_far_it_came() {
    // On a machine that stalls the time may be up before the first token: then with more of it.
    let mut patience = Duration::from_millis(50);
    loop {
        let (engine, gate) = gated(sizes(), 3);
        let deadline = Instant::now() + patience;
        let late = Request { deadline: Some(deadline), ..request([1, 2], 900) };
        let reply = engine.submit(late).unwrap();
        until("its time is up", || Instant::now() > deadline).await;
        gate.allow(PLENTY);
        let error = collect(reply, 1).await.unwrap_err();
        until("its blocks are free", || engine.shared.metrics.load().2 == 0.0).await;
        match error {
            EngineError::TimedOut { completion_tokens: 0 } => patience *= 2,
            EngineError::TimedOut { completion_tokens: 1..=4 } => return,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_failing_request_fails_alone() {
    let engine = engine();
    let good = engine.submit(request(0..30, 50)).unwrap();
    let bad = engine.submit(request([1, FAILS, 2], 5)).unwrap();
    let error = collect(bad, 1).await.unwrap_err();
    assert!(matches!(error, EngineError::Model { .. }), "{error:?}");
    let good = collect(good, 1).await.unwrap().0.remove(0);
    assert_eq!(good.tokens, greedy(&(0..30).collect::<Vec<_>>(), 50));
}

#[tokio::test]
async fn a_panicking_model_stops_the_engine_and_says_so() {
    static DIED: AtomicBool = AtomicBool::new(false);
    let model = Box::new(HashModel::new(sizes(), Gate::new(PLENTY)));
    let on_death = || DIED.store(true, Ordering::Release);
    let engine = Engine::start(model, texts(), sizes(), EngineMetrics::default(), on_death).unwrap();
    let reply = engine.submit(request([PANICS], 1)).unwrap();
    assert_eq!(collect(reply, 1).await.unwrap_err(), EngineError::Stopped);
    until("the engine is dead", || DIED.load(Ordering::Acquire)).await;
    assert!(!engine.is_alive());
    assert_eq!(engine.submit(request([1], 1)).map(|_| ()).unwrap_err(), EngineError::Stopped);
}
