//! `aistack ask`: streams an answer, then its sources and the time of each step.

use std::io::Write;

use aistack_api::cause::innermost;
use aistack_api::rag::{Answer, Citation, Passage, QueryEvent, RagList, RagQuery, Timings};
use console::{Style, style};
use futures::StreamExt;
use serde::Deserialize;

use super::{print, print_as, running_stack, runtime};
use crate::cli::{AskArgs, Output};
use crate::fail::Failure;
use crate::local::plan::secret_file;
use crate::view::{count, span};

/// Largest event that is read.
const EVENT_BYTES: usize = 4 << 20;

/// Runs the command.
pub fn run(args: &AskArgs) -> Result<(), Failure> {
    let question = args.question.join(" ");
    if question.trim().is_empty() {
        return Err(Failure::refused("the question is empty\n  aistack ask \"How do I request leave?\""));
    }
    let hub = Hub::find(args)?;
    runtime()?.block_on(async {
        let client = reqwest::Client::new();
        let rag = match &args.rag {
            Some(name) => name.clone(),
            None => hub.only_rag(&client).await?,
        };
        let query = RagQuery {
            question,
            stream: args.output.output == Output::Table,
            top_k: args.top_k,
            ..RagQuery::default()
        };
        let path = format!("/api/v1/rag/{rag}/query");
        let reply = hub.send(client.post(hub.url(&path)).json(&query)).await?;
        if args.output.output == Output::Table {
            return stream(reply).await;
        }
        let answer: Answer = reply.json().await.map_err(|error| hub.unreachable(&error))?;
        print_as(args.output.output, &answer)
    })
}

/// Where the ModelHub is and what it is shown.
struct Hub {
    base: String,
    key: Option<String>,
}

impl Hub {
    fn find(args: &AskArgs) -> Result<Self, Failure> {
        if let Some(url) = &args.url {
            return Ok(Self { base: url.trim_end_matches('/').to_owned(), key: args.api_key.clone() });
        }
        let folder = running_stack(&args.stack)?;
        let status = folder.status()?;
        if status.url.is_empty() {
            return Err(Failure::refused(format!(
                "stack {} has no modelhub to ask\n  add modelhub: {{}} to its manifest",
                status.stack
            )));
        }
        let generated =
            std::fs::read_to_string(secret_file(folder.path(), "modelhub-admin", "admin-key")).ok();
        Ok(Self { base: status.url, key: args.api_key.clone().or(generated) })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let cause = innermost(error);
        // What rustls says when the answer to its greeting is no TLS.
        if let Some(rest) = self.base.strip_prefix("https://")
            && cause.contains("InvalidContentType")
        {
            return Failure::failed(format!(
                "ModelHub at {}: the server speaks plain HTTP there, not TLS\n  use: --url http://{rest}",
                self.base
            ));
        }
        Failure::failed(format!("ModelHub at {}: {cause}\n  look: aistack status", self.base))
    }

    /// Sends a request; an answer that is not good becomes the sentence in it.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.trim()),
            None => request,
        };
        let reply = request.send().await.map_err(|error| self.unreachable(&error))?;
        if reply.status().is_success() {
            return Ok(reply);
        }
        let status = reply.status();
        let text = reply.text().await.unwrap_or_default();
        Err(Failure::failed(
            sentence(&text).unwrap_or_else(|| format!("ModelHub at {} answered {status}", self.base)),
        ))
    }

    /// The only rag that there is.
    async fn only_rag(&self, client: &reqwest::Client) -> Result<String, Failure> {
        let reply = self.send(client.get(self.url("/api/v1/rag"))).await?;
        let list: RagList = reply.json().await.map_err(|error| self.unreachable(&error))?;
        match list.rags.as_slice() {
            [] => Err(Failure::failed(
                "nothing has been ingested yet\n  modelhub rag create handbook && modelhub rag ingest handbook ./my-docs",
            )),
            [only] => Ok(only.name.clone()),
            several => {
                let names: Vec<&str> = several.iter().map(|rag| rag.name.as_str()).collect();
                Err(Failure::refused(format!(
                    "there are several rags: {}\n  say which with --rag NAME",
                    names.join(", ")
                )))
            }
        }
    }
}

/// The message of an error body in the form of the OpenAI API.
fn sentence(body: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    serde_json::from_str::<Body>(body).ok().map(|body| body.error.message)
}

fn broke_off(why: &str) -> Failure {
    Failure::failed(format!("the answer broke off: {why}\n  look: aistack status; then ask again"))
}

/// Prints the answer as it is written.
async fn stream(reply: reqwest::Response) -> Result<(), Failure> {
    let mut events = Events::default();
    let mut shown = Shown::default();
    let mut pieces = reply.bytes_stream();
    print("");
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| broke_off(&innermost(&error)))?;
        for event in events.push(&piece)? {
            shown.event(event)?;
        }
    }
    if shown.ended { Ok(()) } else { Err(broke_off("ModelHub ended it")) }
}

/// Server-sent events out of pieces of bytes.
#[derive(Default)]
struct Events {
    buffer: Vec<u8>,
}

impl Events {
    fn push(&mut self, piece: &[u8]) -> Result<Vec<QueryEvent>, Failure> {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() > EVENT_BYTES {
            return Err(Failure::failed("ModelHub sent an event of more than 4 MiB"));
        }
        let mut events = Vec::new();
        while let Some((end, skip)) = boundary(&self.buffer) {
            let block: Vec<u8> = self.buffer.drain(..end + skip).take(end).collect();
            let text = String::from_utf8_lossy(&block);
            let field = |name: &str| {
                text.lines()
                    .filter_map(|line| line.strip_prefix(name))
                    .map(str::trim_start)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            let (name, data) = (field("event:"), field("data:"));
            let event = QueryEvent::parse(&name, &data).map_err(|error| {
                Failure::failed(format!("ModelHub sent an event {name} that cannot be read: {error}"))
            })?;
            events.extend(event);
        }
        Ok(events)
    }
}

/// End of the first event and length of the empty line behind it.
fn boundary(buffer: &[u8]) -> Option<(usize, usize)> {
    let find =
        |mark: &[u8]| buffer.windows(mark.len()).position(|window| window == mark).map(|at| (at, mark.len()));
    [find(b"\n\n"), find(b"\r\n\r\n")].into_iter().flatten().min()
}

/// What has been printed so far.
#[derive(Default)]
struct Shown {
    passages: Vec<Passage>,
    timings: Timings,
    ended: bool,
    within_line: bool,
}

impl Shown {
    /// The next piece of the answer, each of its lines set in.
    fn indented(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len() + 4);
        for piece in text.split_inclusive('\n') {
            if !self.within_line && !piece.trim().is_empty() {
                shown.push_str("    ");
            }
            shown.push_str(piece);
            self.within_line = !piece.ends_with('\n');
        }
        shown
    }

    fn event(&mut self, event: QueryEvent) -> Result<(), Failure> {
        match event {
            QueryEvent::Passages(passages) => self.passages = passages.passages,
            QueryEvent::Delta(delta) => {
                let mut out = std::io::stdout().lock();
                out.write_all(self.indented(&delta.text).as_bytes())?;
                out.flush()?;
            }
            QueryEvent::Citations(citations) => {
                if self.within_line {
                    print("");
                }
                if !citations.citations.is_empty() {
                    print("");
                }
                for line in citation_lines(&citations.citations) {
                    print(&line);
                }
            }
            QueryEvent::Timings(timings) => self.timings = timings,
            QueryEvent::Done(done) => {
                self.ended = true;
                print(&format!("\n    {}", times(&self.timings, &done.trace_id)));
            }
            QueryEvent::Error(error) => return Err(Failure::failed(error.message)),
        }
        Ok(())
    }
}

/// One line a source: number, file and lines, quote, score.
fn citation_lines(citations: &[Citation]) -> Vec<String> {
    let place = |citation: &Citation| {
        if let Some(page) = citation.page {
            format!("{} page {page}", citation.file)
        } else if citation.start_line == citation.end_line {
            format!("{}:{}", citation.file, citation.start_line)
        } else {
            format!("{}:{}-{}", citation.file, citation.start_line, citation.end_line)
        }
    };
    let width = citations.iter().map(|citation| place(citation).chars().count()).max().unwrap_or(0);
    citations
        .iter()
        .map(|citation| {
            let quote = citation.quote.split_whitespace().collect::<Vec<_>>().join(" ");
            let short = console::truncate_str(&quote, 78, "");
            let quote = if short.len() < quote.len() {
                format!("{} …", short.trim_end())
            } else {
                short.into_owned()
            };
            format!(
                "    {} {:<width$}   \"{quote}\"   {}",
                Style::new().bold().apply_to(format!("[{}]", citation.number)),
                place(citation),
                style(format!("{:.2}", citation.score)).dim(),
            )
        })
        .collect()
}

/// The time of each step.
fn times(timings: &Timings, trace: &str) -> String {
    let time = |milliseconds: f64| {
        if milliseconds < 1000.0 {
            let places = usize::from(milliseconds < 10.0);
            format!("{milliseconds:.places$} ms")
        } else {
            span(std::time::Duration::from_secs_f64(milliseconds / 1000.0))
        }
    };
    let mut steps = vec![
        format!("embed {}", time(timings.embed_ms)),
        format!("search {}", time(timings.search_ms)),
        format!("prefill {} ({} tokens)", time(timings.prefill_ms), count(timings.prompt_tokens)),
        format!("decode {} ({} tokens)", time(timings.decode_ms), count(timings.answer_tokens)),
    ];
    if !trace.is_empty() {
        steps.push(format!("trace {}", trace.chars().take(8).collect::<String>()));
    }
    steps.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_in_any_pieces() {
        let text = "event: delta\ndata: {\"text\":\"ten \"}\n\nevent: later\ndata: {}\n\n: a comment\n\nevent: delta\r\ndata: {\"text\":\"days\"}\r\n\r\nevent: del";
        for size in [1, 3, 7, 1000] {
            let mut events = Events::default();
            let found: Vec<QueryEvent> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| events.push(piece).expect("good events"))
                .collect();
            let words: Vec<String> = found
                .into_iter()
                .map(|event| match event {
                    QueryEvent::Delta(delta) => delta.text,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(words, ["ten ", "days"], "pieces of {size}");
        }
    }

    #[test]
    fn sources_and_times() {
        console::set_colors_enabled(false);
        let citation = |number, start_line, end_line| Citation {
            number,
            file: "people/leave.md".into(),
            start_line,
            end_line,
            quote: "Requests are made\n at least ten days before.".into(),
            score: 0.834,
            ..Citation::default()
        };
        assert_eq!(
            citation_lines(&[citation(1, 12, 14), citation(2, 9, 9)]),
            [
                "    [1] people/leave.md:12-14   \"Requests are made at least ten days before.\"   0.83",
                "    [2] people/leave.md:9       \"Requests are made at least ten days before.\"   0.83",
            ]
        );
        let timings = Timings {
            embed_ms: 11.2,
            search_ms: 0.6,
            prefill_ms: 812.0,
            prompt_tokens: 1_204,
            decode_ms: 1_400.0,
            answer_tokens: 38,
            ..Timings::default()
        };
        assert_eq!(
            times(&timings, "4bf92f3577b34da6"),
            "embed 11 ms · search 0.6 ms · prefill 812 ms (1,204 tokens) · decode 1.4 s (38 tokens) · trace 4bf92f35"
        );
    }

    #[test]
    fn errors_are_the_sentence_in_the_body() {
        let body = r#"{"error":{"message":"rag x is unknown; there is handbook","type":"invalid_request_error","code":"rag_not_found"}}"#;
        assert_eq!(sentence(body).as_deref(), Some("rag x is unknown; there is handbook"));
        assert_eq!(sentence("<html>"), None);
    }
}
