//! `modelhub rag eval`: retrieval and citations measured on questions with known answers.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use aistack_api::rag::{Answer, Passage, Passages, RagQuery};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::output::{Output, table};
use super::rag::rag_path;
use super::{CliError, HubClient};
use crate::text::FileKind;

/// `rag eval`
#[derive(Debug, Args)]
pub struct Eval {
    /// Name of the rag.
    name: String,
    /// JSON lines: {"question", "file", "contains"}: the file and the words that answer it.
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// Directory that was ingested: checks that every span opens at the quoted text.
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Passages that count as found.
    #[arg(long, default_value_t = 3, value_name = "K")]
    k: u32,
    /// JSON lines: {"question"}: questions near the topic that no file answers. Implies --answers.
    #[arg(long, value_name = "FILE")]
    unanswerable: Option<PathBuf>,
    /// Ask the answering model too, and check the answers' citations.
    #[arg(long)]
    answers: bool,
    /// Fail when fewer than this share of the questions is found.
    #[arg(long, value_name = "SHARE")]
    require: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Question {
    #[serde(rename = "question")]
    text: String,
    file: String,
    contains: String,
}

/// What came of an evaluation.
#[derive(Debug, Default, Serialize)]
struct Report {
    questions: usize,
    k: u32,
    hit_at_1: f64,
    hit_at_k: f64,
    mean_reciprocal_rank: f64,
    spans_checked: usize,
    spans_wrong: Vec<String>,
    missed: Vec<Missed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Answers>,
}

#[derive(Debug, Serialize)]
struct Missed {
    question: String,
    wanted: String,
    found: Vec<String>,
}

/// What came of asking the model.
#[derive(Debug, Default, Serialize)]
struct Answers {
    /// Answers that hold the wanted words, or quote them.
    right_or_quoted: f64,
    /// Answers that cite the wanted file.
    cite_the_file: f64,
    /// Sentences that a passage supports, of all sentences.
    supported_sentences: f64,
    /// Questions that got “I don't know”.
    unanswered: usize,
    /// Questions asked that no file answers.
    unanswerable: usize,
    /// Those of them that were answered with a mark of support all the same.
    invented: Vec<String>,
}

/// A question that no file answers.
#[derive(Debug, Clone, Deserialize)]
struct Unanswerable {
    question: String,
}

pub async fn run(command: Eval, client: &HubClient, output: Output) -> Result<(), CliError> {
    let questions: Vec<Question> = read_lines(&command.questions)?;
    let unanswerable: Vec<Unanswerable> =
        command.unanswerable.as_deref().map(read_lines).transpose()?.unwrap_or_default();
    let mut report = Report { questions: questions.len(), k: command.k, ..Report::default() };
    let base = rag_path(&command.name)?;
    for question in &questions {
        let query = RagQuery {
            question: question.text.clone(),
            top_k: Some(command.k.max(10)),
            ..RagQuery::default()
        };
        let found: Passages = client.post(&format!("{base}/search"), &query).await?;
        let rank = found.passages.iter().position(|p| answers(question, p));
        report.mean_reciprocal_rank += rank.map_or(0.0, |r| 1.0 / (r + 1) as f64);
        report.hit_at_1 += f64::from(u8::from(rank == Some(0)));
        if rank.is_some_and(|r| r < command.k as usize) {
            report.hit_at_k += 1.0;
        } else {
            let found = found.passages.iter().take(command.k as usize);
            report.missed.push(Missed {
                question: question.text.clone(),
                wanted: question.file.clone(),
                found: found.map(|p| format!("{} {:.2}", p.file, p.score)).collect(),
            });
        }
        for passage in &found.passages {
            check_span(
                &command,
                &mut report,
                &passage.file,
                passage.start_byte,
                passage.end_byte,
                &passage.text,
            );
        }
    }
    let count = questions.len() as f64;
    report.hit_at_1 /= count;
    report.hit_at_k /= count;
    report.mean_reciprocal_rank /= count;
    if command.answers || !unanswerable.is_empty() {
        let mut answers = ask_all(&command, client, &questions, &mut report).await?;
        answers.unanswerable = unanswerable.len();
        for Unanswerable { question } in unanswerable {
            let answer = ask(&command, client, &question).await?;
            // What follows an unmarked sentence is the closest passage, which claims to answer nothing.
            if answer.answered && answer.sentences.first().is_some_and(|s| s.supported) {
                answers.invented.push(question);
            }
        }
        report.answers = Some(answers);
    }
    output.print(&report, render);
    if !report.spans_wrong.is_empty() {
        return Err(CliError::Failed(format!(
            "{} spans do not open at their text",
            report.spans_wrong.len()
        )));
    }
    match command.require {
        Some(share) if report.hit_at_k < share => {
            Err(CliError::Failed(format!("hit@{} is {:.3}, less than {share}", report.k, report.hit_at_k)))
        }
        _ => Ok(()),
    }
}

async fn ask(command: &Eval, client: &HubClient, question: &str) -> Result<Answer, CliError> {
    let query = RagQuery { question: question.to_owned(), ..RagQuery::default() };
    Ok(client.post(&format!("{}/query", rag_path(&command.name)?), &query).await?)
}

fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>, CliError> {
    let text = std::fs::read_to_string(path).map_err(|e| CliError::file(path, e))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let questions = lines
        .map(|(i, line)| {
            serde_json::from_str(line)
                .map_err(|e| CliError::Usage(format!("{}:{}: {e}", path.display(), i + 1)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if questions.is_empty() {
        return Err(CliError::Usage(format!("{}: no questions", path.display())));
    }
    Ok(questions)
}

async fn ask_all(
    command: &Eval,
    client: &HubClient,
    questions: &[Question],
    report: &mut Report,
) -> Result<Answers, CliError> {
    let mut totals = Answers::default();
    let (mut sentences, mut supported) = (0_usize, 0_usize);
    for question in questions {
        let answer = ask(command, client, &question.text).await?;
        let wanted = flat(&question.contains);
        let quoted = answer.citations.iter().any(|c| flat(&c.quote).contains(&wanted));
        totals.right_or_quoted += f64::from(u8::from(quoted || flat(&answer.answer).contains(&wanted)));
        totals.cite_the_file += f64::from(u8::from(answer.citations.iter().any(|c| c.file == question.file)));
        totals.unanswered += usize::from(!answer.answered);
        if answer.answered {
            sentences += answer.sentences.len();
            supported += answer.sentences.iter().filter(|s| s.supported).count();
        }
        for c in &answer.citations {
            check_span(command, report, &c.file, c.start_byte, c.end_byte, &c.quote);
        }
    }
    let count = questions.len() as f64;
    totals.right_or_quoted /= count;
    totals.cite_the_file /= count;
    totals.supported_sentences = supported as f64 / sentences.max(1) as f64;
    Ok(totals)
}

fn answers(question: &Question, passage: &Passage) -> bool {
    passage.file == question.file && flat(&passage.text).contains(&flat(&question.contains))
}

/// Whether the span of the file is the quoted text (for html: without its markup; for pdf: of its extracted text).
fn check_span(command: &Eval, report: &mut Report, file: &str, start: u64, end: u64, quote: &str) {
    let Some(source) = &command.source else { return };
    let kind = FileKind::of(file);
    report.spans_checked += 1;
    let mut bytes = std::fs::read(source.join(file)).unwrap_or_default();
    if kind == Some(FileKind::Pdf) {
        bytes = crate::text::read(file, &bytes).map(|d| d.text.into_bytes()).unwrap_or_default();
    }
    let span = bytes.get(start as usize..end as usize).unwrap_or_default();
    let right = if kind == Some(FileKind::Html) {
        let document = crate::text::read("span.html", span).map(|d| d.text).unwrap_or_default();
        flat(&document) == flat(quote)
    } else {
        span == quote.as_bytes()
    };
    if !right {
        report.spans_wrong.push(format!("{file} {start}..{end}"));
    }
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn render(report: &Report) -> String {
    let mut rows = vec![
        vec!["questions".to_owned(), report.questions.to_string()],
        vec!["hit@1".to_owned(), format!("{:.3}", report.hit_at_1)],
        vec![format!("hit@{}", report.k), format!("{:.3}", report.hit_at_k)],
        vec!["mean reciprocal rank".to_owned(), format!("{:.3}", report.mean_reciprocal_rank)],
        vec![
            "spans that open at their text".to_owned(),
            format!("{} of {}", report.spans_checked - report.spans_wrong.len(), report.spans_checked),
        ],
    ];
    if let Some(a) = &report.answers {
        rows.push(vec!["answers with the wanted words".to_owned(), format!("{:.3}", a.right_or_quoted)]);
        rows.push(vec!["answers citing the wanted file".to_owned(), format!("{:.3}", a.cite_the_file)]);
        rows.push(vec!["sentences with support".to_owned(), format!("{:.3}", a.supported_sentences)]);
        rows.push(vec!["unanswered".to_owned(), a.unanswered.to_string()]);
        if a.unanswerable > 0 {
            let figure = format!("{} of {}", a.invented.len(), a.unanswerable);
            rows.push(vec!["answers to what no file says".to_owned(), figure]);
        }
    }
    let mut text = table(&["what", "figure"], &rows);
    for missed in &report.missed {
        let found = missed.found.join(", ");
        let _ = write!(
            text,
            "
missed  {}
        wanted {}, found {found}",
            missed.question, missed.wanted
        );
    }
    text
}
