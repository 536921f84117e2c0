//! A question to a cited answer: embed, search, rank, prompt, stream, cite.

use std::time::Instant;

use aistack_api::modelhub::EngineTask;
use aistack_api::rag::{
    Answer, Citations, Delta, Done, Passage, Passages, QueryError, QueryEvent, RagQuery, RagState, Timings,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::Rag;
use super::answer::{Source, Writer};
use super::focus::{Piece, Titled, nearest, pieces};
use super::ingest::too_long;
use super::lexical::{Rarity, Words, seems_english, words};
use super::prompt::{FOCUS_EXAMPLES, FOCUS_INSTRUCTION, INSTRUCTION, Offer, estimate, focused, pack};
use super::rank::{Candidate, rank};
use super::records::{self, RagRecord};
use super::refuse::Seen;
use super::relevance::{Ablation, coverage, names_all, relevant, topics, without};
use super::reply::{Facts, Reply};
use crate::error::ApiError;
use crate::gateway::{Admission, Call, Usage};

/// Candidates fetched for each passage wanted, so that ranking has a choice.
const CANDIDATES_PER_PASSAGE: u64 = 6;
/// Sentences embedded to find the nearest; words and the passages' scores choose them.
const MOST_EMBEDDED: usize = 12;
/// What of the least similarity suffices for a passage that holds every word asked for.
const NAMED_SHARE: f32 = 0.5;
/// Context assumed of an engine that does not tell.
const DEFAULT_CONTEXT: u64 = 2_048;
/// Longest question, in bytes.
const MAX_QUESTION: usize = 8_192;

/// A question with what was retrieved for it.
#[derive(Debug)]
pub struct Retrieved {
    pub(super) record: RagRecord,
    pub(super) query: RagQuery,
    pub(super) sources: Vec<Source>,
    /// What all candidates say.
    pub(super) seen: Seen,
    /// The question's vector.
    pub(super) vector: Vec<f32>,
    /// How rare words are among the candidates.
    rarity: Rarity,
    /// Whether everything counts as relevant.
    lenient: bool,
    timings: Timings,
    started: Instant,
    /// The caller's place within the limits of its key; the answer's tokens are counted there.
    admission: Option<Admission>,
}

/// What the model is asked.
struct Ask {
    messages: Vec<serde_json::Value>,
    /// How many of the passages it is about.
    passages: usize,
}

impl Retrieved {
    /// Counts the question, and later the answer, for a key.
    pub fn count_for(&mut self, mut admission: Option<Admission>) {
        if let Some(admission) = &mut admission {
            let prompt = question_tokens(&self.query);
            admission.settle(Usage { prompt, completion: 0, reported: false });
        }
        self.admission = admission;
    }

    /// What clients see of the passages.
    pub fn passages(&self) -> Passages {
        Passages { passages: self.sources.iter().map(|s| s.passage.clone()).collect() }
    }
}

/// Where events go; a closed one means that the client is gone.
type Events = mpsc::Sender<QueryEvent>;

/// Why the writing stopped early.
enum Stop {
    /// The client is gone: nobody to tell.
    Gone,
    /// The engine failed.
    Failed(ApiError),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl Rag {
    /// Finds the passages for a question.
    #[tracing::instrument(skip_all, fields(rag = name))]
    pub async fn retrieve(&self, name: &str, query: RagQuery) -> Result<Retrieved, ApiError> {
        let started = Instant::now();
        let question = query.question.trim();
        if question.is_empty() || question.len() > MAX_QUESTION {
            let message =
                format!("the question has {} bytes; ask one of 1 to {MAX_QUESTION}", question.len());
            return Err(ApiError::invalid("invalid_question", message));
        }
        let (record, _) = records::read(&self.kv, name).await?;
        check_ready(&record)?;
        let mut timings = Timings::default();
        let embedding = Instant::now();
        let embedded = self.embed_for(&record, &[question.to_owned()]).await;
        let vector = embedded.map_err(too_long_question)?.pop().unwrap_or_default();
        timings.embed_ms = ms(embedding);
        let top_k = query.top_k.unwrap_or(self.defaults.top_k).clamp(1, 100);
        let searching = Instant::now();
        let mut hits = if record.dimension == 0 {
            Vec::new()
        } else {
            self.vectors.search(name, vector.clone(), u64::from(top_k) * CANDIDATES_PER_PASSAGE).await?
        };
        timings.search_ms = ms(searching);
        let ranking = Instant::now();
        let min_score = query.min_score.unwrap_or(record.min_score);
        let texts: Vec<Words> = hits.iter().map(|hit| words(&hit.passage.embedded_text())).collect();
        let rarity = Rarity::of(&texts);
        let seen = Seen::new(texts, hits.iter().any(|hit| seems_english(&hit.passage.text)));
        hits.retain(|hit| {
            let named = || names_all(question, &hit.passage.embedded_text());
            hit.score >= min_score || (hit.score >= min_score * NAMED_SHARE && named())
        });
        let texts: Vec<String> = hits.iter().map(|hit| hit.passage.embedded_text()).collect();
        let candidates: Vec<Candidate<'_>> =
            hits.iter().zip(&texts).map(|(hit, text)| Candidate { cosine: hit.score, text }).collect();
        let order = rank(question, &candidates);
        let mut hits: Vec<Option<_>> = hits.into_iter().map(Some).collect();
        let best = order.into_iter().take(top_k as usize).filter_map(|i| hits[i].take());
        let sources = best.zip(1..).map(|(hit, number)| Source::new(number, hit)).collect();
        timings.rag_ms = ms(ranking);
        let lenient = min_score <= 0.0;
        Ok(Retrieved {
            record,
            query,
            sources,
            seen,
            vector,
            rarity,
            lenient,
            timings,
            started,
            admission: None,
        })
    }

    /// The model that will answer, when it can: checked before anything is streamed, so that its absence is a plain error.
    pub fn answering_model(&self, retrieved: &Retrieved) -> Result<String, ApiError> {
        if retrieved.sources.is_empty() {
            return Ok(String::new());
        }
        let named = retrieved.query.model.clone().or_else(|| retrieved.record.chat_model.clone());
        let model = match named.or_else(|| self.defaults.chat_model.clone()) {
            Some(model) => model,
            None => self.gateway.default_model(EngineTask::Chat)?,
        };
        self.gateway.ready(&model)?;
        Ok(model)
    }

    /// Writes the answer as events; ends early when nobody listens any more.
    pub async fn answer(&self, mut retrieved: Retrieved, model: String, events: Events) {
        let admission = retrieved.admission.take();
        let trace_id = aistack_chassis::trace::trace_id(&tracing::Span::current()).unwrap_or_default();
        let work = async {
            send(&events, QueryEvent::Passages(retrieved.passages())).await?;
            let (citations, timings, model) = if retrieved.sources.is_empty() {
                let asked = topics(&retrieved.query.question);
                let (text, citations) = self.refuse(&retrieved, &asked, None).await;
                send(&events, QueryEvent::Delta(Delta { text })).await?;
                (citations, retrieved.timings.clone(), String::new())
            } else {
                let (citations, timings) = self.write(&retrieved, &model, &events, admission).await?;
                let asked = timings.prompt_tokens > 0 || timings.answer_tokens > 0;
                (citations, timings, if asked { model } else { String::new() })
            };
            send(&events, QueryEvent::Citations(citations)).await?;
            let total_ms = ms(retrieved.started);
            send(&events, QueryEvent::Timings(Timings { total_ms, ..timings })).await?;
            send(&events, QueryEvent::Done(Done { model, trace_id })).await
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = events.closed() => Err(Stop::Gone),
        };
        if let Err(Stop::Failed(error)) = outcome {
            tracing::warn!(%error, "the answer broke off");
            let status = error.status.as_u16();
            let error = QueryError { message: error.message, code: error.code.to_owned(), status };
            // The client may be gone as well; then there is nobody to tell.
            let _ = events.send(QueryEvent::Error(error)).await;
        }
    }

    async fn write(
        &self,
        retrieved: &Retrieved,
        model: &str,
        events: &Events,
        admission: Option<Admission>,
    ) -> Result<(Citations, Timings), Stop> {
        let mut timings = retrieved.timings.clone();
        let embedding = Instant::now();
        let nearest = self.nearest(retrieved).await?;
        timings.embed_ms += ms(embedding);
        if let Some(best) = nearest.first()
            && let Some(missing) = self.irrelevant(retrieved, best).await?
        {
            timings.embed_ms = retrieved.timings.embed_ms + ms(embedding);
            let (text, citations) = self.refuse(retrieved, &missing, Some(best)).await;
            send(events, QueryEvent::Delta(Delta { text })).await?;
            return Ok((citations, timings));
        }
        let own = Instant::now();
        let ask = self.prompt(retrieved, &nearest, model).await;
        let sources = retrieved.sources[..ask.passages].to_vec();
        let mut writer = Writer::new(&retrieved.query.question, sources);
        timings.rag_ms += ms(own);
        let mut reply = self.ask(model, &ask.messages, retrieved.query.max_tokens, admission).await?;
        let mut clock = Clock::new();
        let mut repeated = false;
        'reply: while let Some(piece) = reply.next().await? {
            let own = Instant::now();
            clock.token();
            let ended = writer.push(&piece);
            for sentence in &ended {
                if writer.repeats(&sentence.text) {
                    repeated = true;
                    break 'reply;
                }
                send(events, QueryEvent::Delta(Delta { text: writer.accept(sentence) })).await?;
            }
            let text = writer.flow();
            timings.rag_ms += ms(own);
            if !text.is_empty() {
                send(events, QueryEvent::Delta(Delta { text })).await?;
            }
        }
        let rest = if repeated { Vec::new() } else { writer.finish() };
        for sentence in rest {
            if !writer.repeats(&sentence.text) {
                send(events, QueryEvent::Delta(Delta { text: writer.accept(&sentence) })).await?;
            }
        }
        clock.fill(&mut timings, &reply.facts);
        if let Some(best) = nearest.first()
            && let Some(text) = writer.quote_instead(best.passage, &best.span)
        {
            send(events, QueryEvent::Delta(Delta { text })).await?;
        }
        Ok((writer.into_citations(), timings))
    }

    /// The question's words that the nearest sentence's passage lacks, when it is only near the topic.
    async fn irrelevant(&self, retrieved: &Retrieved, best: &Piece) -> Result<Option<Vec<String>>, ApiError> {
        let question = retrieved.query.question.trim();
        let passage = &retrieved.sources[best.passage];
        let text = format!("{} {}", passage.passage.heading.join(" "), passage.passage.text);
        let covered = coverage(question, &text, &retrieved.rarity);
        if retrieved.lenient || covered.missing.is_empty() {
            return Ok(None);
        }
        let missing = &covered.missing;
        let shorter = missing.iter().map(|word| without(question, word));
        let texts: Vec<String> = shorter.chain(missing.iter().cloned()).collect();
        let vectors = self.embed_for(&retrieved.record, &texts).await?;
        let near = |vector: &Vec<f32>| cosine(vector, &passage.vector).unwrap_or(0.0);
        let whole = near(&retrieved.vector);
        let (shorter, words) = vectors.split_at(missing.len());
        let ablations: Vec<Ablation> = shorter
            .iter()
            .zip(words)
            .map(|(shorter, word)| Ablation { loss: whole - near(shorter), similarity: near(word) })
            .collect();
        tracing::debug!(question, whole, ?covered, ?ablations, "relevance");
        Ok((!relevant(whole, &covered, &ablations)).then(|| missing.clone()))
    }

    /// The sentences of the passages, nearest to the question first.
    async fn nearest(&self, retrieved: &Retrieved) -> Result<Vec<Piece>, ApiError> {
        let count = self.defaults.prompt_passages as usize;
        let passages: Vec<&Passage> = retrieved.sources.iter().take(count).map(|s| &s.passage).collect();
        let texts: Vec<&str> = passages.iter().map(|p| p.text.as_str()).collect();
        let pieces = pieces(&texts);
        let headings: Vec<String> = passages.iter().map(|p| crate::text::context(&p.heading)).collect();
        let titled = |piece: &Piece| Titled {
            heading: &headings[piece.passage],
            text: &texts[piece.passage][piece.span.clone()],
        };
        let by = |pieces: Vec<Piece>, cosines: &[f32]| {
            let sentences: Vec<Titled<'_>> = pieces.iter().map(titled).collect();
            let order = nearest(&retrieved.query.question, &sentences, cosines, &retrieved.rarity);
            order.into_iter().map(|i| pieces[i].clone()).collect::<Vec<Piece>>()
        };
        let scores: Vec<f32> = pieces.iter().map(|p| passages[p.passage].score).collect();
        let mut likely = by(pieces, &scores);
        if self.defaults.focus_sentences == 0 {
            return Ok(likely);
        }
        likely.truncate(MOST_EMBEDDED.max(self.defaults.focus_sentences as usize));
        let embedded = |piece: &Piece| match titled(piece) {
            Titled { heading: "", text } => text.to_owned(),
            Titled { heading, text } => format!("{heading}: {text}"),
        };
        let embedded: Vec<String> = likely.iter().map(embedded).collect();
        let vectors = self.embed_for(&retrieved.record, &embedded).await?;
        let cosines: Vec<f32> = vectors.iter().map(|v| cosine(v, &retrieved.vector).unwrap_or(0.0)).collect();
        Ok(by(likely, &cosines))
    }

    /// The conversation for the model; lengths come from the engine's own tokenizer where they matter.
    async fn prompt(&self, retrieved: &Retrieved, nearest: &[Piece], model: &str) -> Ask {
        let message = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
        let question = retrieved.query.question.trim();
        let focus = self.defaults.focus_sentences as usize;
        if focus > 0 {
            let text = |p: &Piece| retrieved.sources[p.passage].passage.text[p.span.clone()].to_owned();
            let texts: Vec<String> = nearest.iter().take(focus).map(text).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut messages = vec![message("system", FOCUS_INSTRUCTION)];
            for (asked, answered) in FOCUS_EXAMPLES {
                messages.extend([message("user", asked), message("assistant", answered)]);
            }
            messages.push(message("user", &focused(question, &texts)));
            let passages = retrieved.sources.len().min(self.defaults.prompt_passages as usize);
            return Ask { messages, passages };
        }
        let context = self.gateway.engines.route(model).and_then(|r| r.context).unwrap_or(DEFAULT_CONTEXT);
        let answer = u64::from(retrieved.query.max_tokens.unwrap_or(self.defaults.max_answer_tokens));
        let passages: Vec<&Passage> = retrieved
            .sources
            .iter()
            .take(self.defaults.prompt_passages as usize)
            .map(|s| &s.passage)
            .collect();
        let guessed: u64 = passages.iter().map(|p| p.text.len() as u64).sum::<u64>() / 2 + answer;
        let exact = guessed > context;
        let headings: Vec<String> = passages.iter().map(|p| p.heading.join(" > ")).collect();
        let mut offers = Vec::with_capacity(passages.len());
        for (passage, heading) in passages.iter().zip(&headings) {
            let counted = if exact { self.count_tokens(model, &passage.text).await } else { None };
            let tokens = counted.unwrap_or_else(|| estimate(&passage.text));
            offers.push(Offer { heading, text: &passage.text, tokens });
        }
        let packed = pack(question, estimate(question), &offers, context, answer);
        Ask {
            messages: vec![message("system", INSTRUCTION), message("user", &packed.user)],
            passages: packed.passages,
        }
    }

    async fn count_tokens(&self, model: &str, text: &str) -> Option<u64> {
        #[derive(Deserialize)]
        struct Reply {
            count: u64,
        }
        let body = serde_json::json!({"model": model, "prompt": text, "add_special_tokens": false});
        let reply = self.gateway.call_json("/tokenize", model, &body).await.ok()?;
        serde_json::from_slice::<Reply>(&reply).ok().map(|r| r.count)
    }

    async fn ask(
        &self,
        model: &str,
        messages: &[serde_json::Value],
        max_tokens: Option<u32>,
        admission: Option<Admission>,
    ) -> Result<Reply, ApiError> {
        let body = serde_json::json!({
            "model": model,
            "messages": messages,
            "stream": true,
            "stream_options": {"include_usage": true},
            "temperature": 0,
            "max_tokens": max_tokens.unwrap_or(self.defaults.max_answer_tokens),
            "stop": ["\nQuestion:", "\nText:"],
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let call = Call {
            path: "/v1/chat/completions",
            model,
            headers: &headers,
            body: Bytes::from(body.to_string()),
            stream: true,
            session: None,
        };
        let response = self.gateway.forward(call, admission).await?;
        let status = response.status();
        if !status.is_success() {
            let body = response
                .into_body()
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            return Err(crate::gateway::engine_error(model, status, &body));
        }
        Ok(Reply::new(model, response.into_body()))
    }
}

/// Measures what the engine does not tell.
struct Clock {
    asked: Instant,
    first: Option<Instant>,
    last: Instant,
    pieces: u64,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self { asked: now, first: None, last: now, pieces: 0 }
    }

    fn token(&mut self) {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.pieces += 1;
    }

    fn fill(&self, timings: &mut Timings, facts: &Facts) {
        let first = self.first.unwrap_or(self.last);
        let told = facts.timings.clone().unwrap_or_default();
        timings.prefill_ms = told.prefill_ms.unwrap_or((first - self.asked).as_secs_f64() * 1e3);
        timings.decode_ms = told.decode_ms.unwrap_or((self.last - first).as_secs_f64() * 1e3);
        let usage = facts.usage.clone().unwrap_or_default();
        timings.prompt_tokens = usage.prompt_tokens;
        timings.answer_tokens =
            if usage.completion_tokens > 0 { usage.completion_tokens } else { self.pieces };
    }
}

fn too_long_question(error: ApiError) -> ApiError {
    if !too_long(&error) {
        return error;
    }
    let message = format!("the question is too long for the embedding model; ask a shorter one ({error})");
    ApiError::invalid("invalid_question", message)
}

fn check_ready(record: &RagRecord) -> Result<(), ApiError> {
    let RagRecord { name, .. } = record;
    // Until everything is staged, the former vectors are whole and answer.
    match &record.rebuild {
        Some(rebuild) if record.state == RagState::Rebuilding && rebuild.staged => {
            let message = format!(
                "rag {name} is being rebuilt; ask again in a moment, or go on with  modelhub rag rebuild {name}"
            );
            Err(ApiError::unavailable("rag_rebuilding", message, 5))
        }
        _ => Ok(()),
    }
}

async fn send(events: &Events, event: QueryEvent) -> Result<(), Stop> {
    events.send(event).await.map_err(|_| Stop::Gone)
}

/// Cosine of two vectors; none when they cannot be compared.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f32>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    (norms > 0.0).then(|| dot(a, b) / norms)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// About how many tokens a question has.
pub fn question_tokens(query: &RagQuery) -> u64 {
    estimate(&query.question)
}

/// Puts a streamed answer together for clients that want it whole.
pub fn assemble(events: Vec<QueryEvent>) -> Result<Answer, ApiError> {
    let mut answer = Answer::default();
    for event in events {
        match event {
            QueryEvent::Passages(p) => answer.passages = p.passages,
            QueryEvent::Delta(_) => {}
            QueryEvent::Citations(c) => {
                answer.answer = c.answer;
                answer.answered = c.answered;
                answer.sentences = c.sentences;
                answer.citations = c.citations;
            }
            QueryEvent::Timings(t) => answer.timings = t,
            QueryEvent::Done(d) => {
                answer.model = d.model;
                answer.trace_id = d.trace_id;
            }
            QueryEvent::Error(e) => return Err(broken_off(e)),
        }
    }
    Ok(answer)
}

/// What was wrong with the question stays the client's to mend; everything else may pass.
fn broken_off(error: QueryError) -> ApiError {
    match StatusCode::from_u16(error.status) {
        // An engine that wants another key is not the client's to mend.
        Ok(status) if status.is_client_error() && !matches!(error.status, 401 | 403) => {
            ApiError::new(status, "engine_refused", error.message)
        }
        _ => ApiError::unavailable("answer_broke_off", error.message, 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_refusal_of_the_question_is_the_clients() {
        let cases = [
            (400, StatusCode::BAD_REQUEST, "engine_refused"),
            (404, StatusCode::NOT_FOUND, "engine_refused"),
            (401, StatusCode::SERVICE_UNAVAILABLE, "answer_broke_off"),
            (502, StatusCode::SERVICE_UNAVAILABLE, "answer_broke_off"),
            (0, StatusCode::SERVICE_UNAVAILABLE, "answer_broke_off"),
        ];
        for (status, want, code) in cases {
            let event = QueryError { message: "max_tokens is too large".into(), code: "x".into(), status };
            let error = assemble(vec![QueryEvent::Error(event)]).expect_err("an error");
            assert_eq!(
                (error.status, error.code, error.message.as_str()),
                (want, code, "max_tokens is too large")
            );
        }
    }

    #[test]
    fn cosine_needs_two_vectors_of_one_length() {
        assert_eq!(cosine(&[1.0, 0.0], &[2.0, 0.0]), Some(1.0));
        assert_eq!(cosine(&[1.0], &[1.0, 0.0]), None);
        assert_eq!(cosine(&[0.0], &[0.0]), None);
    }
}
