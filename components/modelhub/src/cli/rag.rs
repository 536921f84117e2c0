//! `modelhub rag`

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use aistack_api::rag::{
    Answer, Citation, Passages, QueryEvent, RagCreate, RagDeleted, RagInfo, RagList, RagQuery, RagState,
    RebuildEvent, Timings,
};
use clap::{Args, Subcommand};
use futures::StreamExt;
use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::{ClientError, name_segment};
use super::eval::{self, Eval};
use super::ingest::{self, Ingest};
use super::output::{Output, age, counted, millis, styled, table, thousands};
use super::walk::regular;
use super::{CliError, HubClient};
use crate::sse;

/// Questions about your own files.
#[derive(Debug, Subcommand)]
pub enum RagCommand {
    /// Make a rag (ingest makes it too)
    #[command(
        after_help = "Examples:\n  modelhub rag create handbook\n  modelhub rag create law --passage-words 200 --min-score 0.4"
    )]
    Create(Create),
    /// All rags
    #[command(after_help = "Example:\n  modelhub rag list")]
    List,
    /// One rag
    #[command(after_help = "Example:\n  modelhub rag show handbook -o json")]
    Show {
        /// Its name.
        name: String,
    },
    /// Delete a rag with all its passages
    #[command(after_help = "Example:\n  modelhub rag delete handbook")]
    Delete {
        /// Its name.
        name: String,
    },
    /// Ingest txt, md, html and pdf files; only what changed is sent, what vanished is deleted
    #[command(
        after_help = "Examples:\n  modelhub rag ingest handbook ./docs\n  modelhub rag ingest handbook ./one-file.pdf --keep"
    )]
    Ingest(Ingest),
    /// Embed every passage anew, with the embedding model that is served now; resumable
    ///
    /// Passages stay as they were cut: the files themselves are not kept. To cut them anew, after a change of rag.passage_words
    /// say, delete the rag and ingest again.
    #[command(after_help = "Example:\n  modelhub rag rebuild handbook")]
    Rebuild {
        /// Its name.
        name: String,
    },
    /// Ask; the answer streams, with a citation for each sentence
    #[command(
        after_help = "Examples:\n  modelhub rag query handbook \"How many days in advance must leave be requested?\"\n  \
                            modelhub rag query handbook \"Who approves travel?\" -o json"
    )]
    Query(Query),
    /// Show the passages for a question, without asking a model
    #[command(after_help = "Example:\n  modelhub rag search handbook \"parental leave\" --top-k 10")]
    Search(Search),
    /// Measure retrieval on a file of questions: hit@k, rank, and whether citations open at the quoted text
    #[command(
        after_help = "Example:\n  modelhub rag eval handbook --questions questions.jsonl --source ./docs"
    )]
    Eval(Eval),
    /// Print a local file's text as it is read: a PDF's spans and lines count in it
    #[command(
        after_help = "Examples:\n  modelhub rag text law.pdf | less\n  modelhub rag text law.pdf | tail -c +1201 | head -c 80"
    )]
    Text {
        /// The file.
        file: PathBuf,
    },
}

/// `rag create`
#[derive(Debug, Args)]
pub struct Create {
    /// Its name.
    name: String,
    /// Model that embeds; the server's default when absent.
    #[arg(long, value_name = "MODEL")]
    embed_model: Option<String>,
    /// Model that answers; the server's default when absent.
    #[arg(long, value_name = "MODEL")]
    chat_model: Option<String>,
    /// Longest passage in words.
    #[arg(long, value_name = "N")]
    passage_words: Option<u32>,
    /// Similarity (-1 to 1) below which a passage is not relevant.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f32>,
}

/// `rag search`, and what `rag query` begins with
#[derive(Debug, Args)]
pub struct Search {
    /// Name of the rag.
    name: String,
    /// The question.
    question: String,
    /// How many passages to retrieve.
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Similarity (-1 to 1) below which a passage is not relevant.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f32>,
}

/// `rag query`
#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    search: Search,
    /// Longest answer in tokens.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// Model that answers.
    #[arg(long)]
    model: Option<String>,
}

impl Search {
    fn request(&self) -> RagQuery {
        RagQuery {
            question: self.question.clone(),
            stream: false,
            top_k: self.top_k,
            min_score: self.min_score,
            max_tokens: None,
            model: None,
        }
    }
}

impl Query {
    fn request(&self, stream: bool) -> RagQuery {
        let (max_tokens, model) = (self.max_tokens, self.model.clone());
        RagQuery { stream, max_tokens, model, ..self.search.request() }
    }
}

/// Path of a rag in the API.
pub fn rag_path(name: &str) -> Result<String, ClientError> {
    Ok(format!("/api/v1/rag/{}", name_segment(name)?))
}

pub async fn run(command: RagCommand, client: &HubClient, output: Output) -> Result<(), CliError> {
    match command {
        RagCommand::Create(c) => {
            let Create { name, embed_model, chat_model, passage_words, min_score } = c;
            let request = RagCreate { name, embed_model, chat_model, passage_words, min_score };
            let rag: RagInfo = client.post("/api/v1/rag", &request).await?;
            output.print(&rag, |r| {
                format!(
                    "rag {} embeds with {}; next  modelhub rag ingest {} DIR",
                    r.name, r.embed_model, r.name
                )
            });
            Ok(())
        }
        RagCommand::List => {
            let list: RagList = client.get("/api/v1/rag").await?;
            output.print(&list, |list| rag_table(&list.rags));
            Ok(())
        }
        RagCommand::Show { name } => {
            let rag: RagInfo = client.get(&rag_path(&name)?).await?;
            output.print(&rag, |rag| rag_table(std::slice::from_ref(rag)));
            Ok(())
        }
        RagCommand::Delete { name } => {
            let gone: RagDeleted = client.delete(&rag_path(&name)?).await?;
            output.print(&gone, |g| format!("deleted rag {}, {}", g.deleted, counted(g.passages, "passage")));
            Ok(())
        }
        RagCommand::Ingest(i) => ingest::run(&i, client, output).await,
        RagCommand::Rebuild { name } => rebuild(&name, client, output).await,
        RagCommand::Query(q) => query(&q, client, output).await,
        RagCommand::Search(q) => {
            let found: Passages =
                client.post(&format!("{}/search", rag_path(&q.name)?), &q.request()).await?;
            output.print(&found, passages_table);
            Ok(())
        }
        RagCommand::Eval(e) => eval::run(e, client, output).await,
        RagCommand::Text { file } => print_text(&file),
    }
}

fn rag_table(rags: &[RagInfo]) -> String {
    if rags.is_empty() {
        return "no rags; make one with  modelhub rag ingest NAME DIR".to_owned();
    }
    let row = |r: &RagInfo| {
        let state = match r.state {
            RagState::Ready => "ready",
            RagState::Rebuilding => "rebuilding",
        };
        let embeds = format!("{} ({} d)", r.embed_model, r.dimension);
        vec![
            r.name.clone(),
            state.to_owned(),
            thousands(r.files),
            thousands(r.stored.unwrap_or(r.passages)),
            embeds,
            age(r.created_ms),
        ]
    };
    let rows: Vec<Vec<String>> = rags.iter().map(row).collect();
    let mut text = table(&["name", "state", "files", "passages", "embeds with", "age"], &rows);
    for rag in rags.iter().filter(|r| r.stored != Some(r.passages)) {
        let _ = match rag.stored {
            None => write!(
                text,
                "\n  {}: the vector store does not answer; the count is what was ingested",
                rag.name
            ),
            Some(stored) => write!(
                text,
                "\n  {}: the vector store holds {stored}, the files that were ingested whole have {}; ingest again to mend it",
                rag.name,
                counted(rag.passages, "passage"),
            ),
        };
    }
    text
}

fn passages_table(found: &Passages) -> String {
    if found.passages.is_empty() {
        return "nothing relevant; try  --min-score 0".to_owned();
    }
    let row = |p: &aistack_api::rag::Passage| {
        let text: String = p.text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
        vec![
            p.number.to_string(),
            format!("{:.2}", p.score),
            place(&p.file, p.start_line, p.end_line, p.page),
            text,
        ]
    };
    let rows: Vec<Vec<String>> = found.passages.iter().map(row).collect();
    table(&["", "score", "place", "text"], &rows)
}

fn place(file: &str, first: u64, last: u64, page: Option<u32>) -> String {
    match page {
        Some(page) => format!("{file} page {page}"),
        None if first == last => format!("{file}:{first}"),
        None => format!("{file}:{first}-{last}"),
    }
}

fn print_text(file: &Path) -> Result<(), CliError> {
    let what = std::fs::metadata(file).map_err(|e| CliError::file(file, e))?;
    regular(file, what.file_type())?;
    let bytes = std::fs::read(file).map_err(|e| CliError::file(file, e))?;
    let document = crate::text::read(&file.display().to_string(), &bytes);
    let document = document.map_err(|e| CliError::Failed(e.to_string()))?;
    // A pager that was left in the middle is no failure.
    let _ = std::io::stdout().write_all(document.text.as_bytes());
    Ok(())
}

/// A progress bar on a terminal, silence elsewhere.
pub fn bar(total: u64, what: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    if let Ok(style) = ProgressStyle::with_template("  {msg:30!} [{bar:30}] {percent:>3} %  {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what.to_owned())
}

async fn rebuild(name: &str, client: &HubClient, output: Output) -> Result<(), CliError> {
    let response = client.send(client.request(Method::POST, &format!("{}/rebuild", rag_path(name)?))).await?;
    let mut stream = response.bytes_stream();
    let mut pending = Vec::new();
    let bar = bar(0, name);
    while let Some(piece) = stream.next().await {
        pending.extend_from_slice(&piece.map_err(|e| client.broke_off(&e))?);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(RebuildEvent::Progress { done, total }) => {
                    bar.set_length(total);
                    bar.set_position(done);
                }
                Ok(RebuildEvent::Done { rag }) => {
                    bar.finish_and_clear();
                    output.print(&rag, |r| {
                        format!(
                            "{}  {} embedded anew with {} ({} d)",
                            r.name,
                            counted(r.passages, "passage"),
                            r.embed_model,
                            r.dimension
                        )
                    });
                    return Ok(());
                }
                Ok(RebuildEvent::Error { message }) => {
                    return Err(CliError::Failed(format!(
                        "{message}\n  go on with  modelhub rag rebuild {name}"
                    )));
                }
                Err(error) => return Err(CliError::Failed(format!("an event that cannot be read: {error}"))),
            }
        }
    }
    Err(CliError::Failed(format!("the rebuild broke off; go on with  modelhub rag rebuild {name}")))
}

async fn query(command: &Query, client: &HubClient, output: Output) -> Result<(), CliError> {
    let path = format!("{}/query", rag_path(&command.search.name)?);
    if output == Output::Json {
        let answer: Answer = client.post(&path, &command.request(false)).await?;
        output.print(&answer, |a| a.answer.clone());
        return Ok(());
    }
    let response = client.send(client.request(Method::POST, &path).json(&command.request(true))).await?;
    let mut stream = response.bytes_stream();
    let mut reader = sse::Reader::default();
    let mut screen = Screen::default();
    println!();
    while let Some(piece) = stream.next().await {
        for event in reader.push(&piece.map_err(|e| client.broke_off(&e))?) {
            let parsed = QueryEvent::parse(&event.name, &event.data);
            let parsed =
                parsed.map_err(|e| CliError::Failed(format!("an event that cannot be read: {e}")))?;
            if let Some(event) = parsed
                && screen.show(event)?
            {
                return Ok(());
            }
        }
    }
    Err(CliError::Failed("the answer broke off; ask again".to_owned()))
}

/// Shows a streamed answer.
#[derive(Debug, Default)]
struct Screen {
    started: bool,
    timings: Timings,
}

impl Screen {
    /// Shows an event; true after the last one.
    fn show(&mut self, event: QueryEvent) -> Result<bool, CliError> {
        match event {
            QueryEvent::Passages(_) => {}
            QueryEvent::Delta(delta) => {
                if !self.started {
                    print!("  ");
                }
                self.started = true;
                print!("{}", delta.text.replace('\n', "\n  "));
                // A terminal that is gone ends the command at the next print.
                let _ = std::io::stdout().flush();
            }
            QueryEvent::Citations(citations) => {
                println!("\n");
                for citation in &citations.citations {
                    println!("{}", citation_line(citation));
                }
                if citations.answered && citations.sentences.iter().any(|s| !s.supported) {
                    println!("  {}", styled("[?] no passage says this", "33"));
                }
            }
            QueryEvent::Timings(timings) => self.timings = timings,
            QueryEvent::Done(done) => {
                println!("\n  {}", styled(&timing_line(&self.timings, &done.trace_id), "2"));
                return Ok(true);
            }
            QueryEvent::Error(error) => {
                println!();
                return Err(CliError::Failed(error.message));
            }
        }
        Ok(false)
    }
}

fn citation_line(citation: &Citation) -> String {
    const QUOTE: usize = 60;
    let flat = citation.quote.split_whitespace().collect::<Vec<_>>().join(" ");
    let quote = if flat.chars().count() > QUOTE {
        flat.chars().take(QUOTE).collect::<String>() + " …"
    } else {
        flat
    };
    let place = place(&citation.file, citation.start_line, citation.end_line, citation.page);
    format!("  [{}] {place:<28}  “{quote}”  {:.2}", citation.number, citation.score)
}

fn timing_line(t: &Timings, trace_id: &str) -> String {
    let mut line = format!("embed {} · search {}", millis(t.embed_ms), millis(t.search_ms));
    if t.prompt_tokens > 0 || t.answer_tokens > 0 {
        let _ = write!(
            line,
            " · prefill {} ({} tokens) · decode {} ({} tokens)",
            millis(t.prefill_ms),
            thousands(t.prompt_tokens),
            millis(t.decode_ms),
            thousands(t.answer_tokens)
        );
    }
    if !trace_id.is_empty() {
        let _ = write!(line, " · trace {trace_id}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_when_the_store_holds_something_else() {
        let rag = |stored| RagInfo {
            name: "handbook".into(),
            embed_model: "m".into(),
            dimension: 384,
            chat_model: None,
            passage_words: 120,
            min_score: 0.3,
            files: 41,
            passages: 46,
            stored,
            state: RagState::Ready,
            created_ms: 0,
        };
        assert_eq!(rag_table(&[rag(Some(46))]).lines().count(), 2);
        let lost = rag_table(&[rag(Some(0))]);
        assert!(lost.contains("holds 0, the files that were ingested whole have 46 passages"), "{lost}");
        assert!(rag_table(&[rag(None)]).contains("does not answer"));
    }
}
