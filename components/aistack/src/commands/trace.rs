//! `aistack trace`: where the time of one request went.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use console::{Term, style};

use super::{print, print_as, running_stack};
use crate::cli::{Output, StackArgs, TraceArgs, TraceOutput};
use crate::fail::Failure;
use crate::local::state::StackFolder;
use crate::spans::{Trace, jaeger, otlp, read, waterfall};

/// Components write their spans every half second, each at its own beat.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// Longest wait for spans that have not been written yet.
const PATIENCE: Duration = Duration::from_secs(3);
/// Traces that `--list` shows.
const LISTED: usize = 20;

/// Runs the command.
pub fn run(args: &TraceArgs) -> Result<(), Failure> {
    let folder = recorded_stack(&args.stack)?;
    if args.list {
        return list(&all(&folder, "")?, args.output);
    }
    let trace = find(&folder, args.id.as_deref())?;
    match args.output {
        TraceOutput::Table => table(&trace),
        TraceOutput::Json => print_as(Output::Json, &trace)?,
        TraceOutput::Yaml => print_as(Output::Yaml, &trace)?,
        TraceOutput::Otlp => print_as(Output::Json, &otlp(&trace))?,
        TraceOutput::Jaeger => print_as(Output::Json, &jaeger(&trace))?,
    }
    let missing = trace.missing_parents();
    if !missing.is_empty() {
        eprintln!(
            "{} trace {} is not whole: the span{} {} caused others and {} not recorded here",
            style("warning:").yellow().bold().for_stderr(),
            trace.trace_id,
            if missing.len() == 1 { "" } else { "s" },
            missing.join(", "),
            if missing.len() == 1 { "is" } else { "are" },
        );
    }
    Ok(())
}

/// The named stack, the one that is up, or the only one that has traces.
fn recorded_stack(args: &StackArgs) -> Result<StackFolder, Failure> {
    let folder = match (&args.stack, running_stack(args)) {
        (_, Ok(folder)) => folder,
        (Some(name), Err(failure)) => {
            let folder = StackFolder::of(name)?;
            if !folder.path().exists() {
                return Err(failure);
            }
            folder
        }
        (None, Err(failure)) => {
            let mut recorded: Vec<StackFolder> =
                StackFolder::all()?.into_iter().filter(|folder| folder.traces().exists()).collect();
            match (recorded.pop(), recorded.is_empty()) {
                (Some(only), true) => only,
                _ => return Err(failure),
            }
        }
    };
    if folder.traces().exists() {
        return Ok(folder);
    }
    Err(Failure::wrong_state(format!(
        "stack {} records no traces\n  record them: aistack down, then aistack up --detach --traces -f FILE, and ask again",
        folder.stack()
    )))
}

fn all(folder: &StackFolder, prefix: &str) -> Result<Vec<Trace>, Failure> {
    match read(&folder.traces(), prefix) {
        Ok(traces) => Ok(traces),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::failed(format!("read {}: {error}", folder.traces().display()))),
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The trace with this id, else the latest ask; waits for what a running stack has not written yet.
fn find(folder: &StackFolder, id: Option<&str>) -> Result<Trace, Failure> {
    let begun = Instant::now();
    let is_up = folder.is_up();
    if is_up && id.is_none() {
        // The latest ask may be younger than the files.
        std::thread::sleep(WRITTEN_WITHIN);
    }
    loop {
        let patient = is_up && begun.elapsed() < PATIENCE;
        let found = match id {
            Some(prefix) => pick(all(folder, prefix)?, prefix),
            None => latest(all(folder, "")?),
        };
        match found {
            Ok(trace) if !patient || is_whole(&trace) => return Ok(trace),
            Err(failure) if !patient => {
                return Err(failure.unwrap_or_else(|| unknown(folder, id)));
            }
            Err(Some(ambiguous)) => return Err(ambiguous),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn is_whole(trace: &Trace) -> bool {
    let settled = u64::try_from(WRITTEN_WITHIN.as_nanos()).unwrap_or(u64::MAX);
    trace.missing_parents().is_empty() && now_ns().saturating_sub(trace.end_ns()) > settled
}

fn pick(mut traces: Vec<Trace>, prefix: &str) -> Result<Trace, Option<Failure>> {
    if traces.len() > 1 {
        let ids: Vec<&str> = traces.iter().map(|trace| trace.trace_id.as_str()).take(5).collect();
        let message =
            format!("{} traces begin with {prefix}: {}\n  give more digits", traces.len(), ids.join(", "));
        return Err(Some(Failure::refused(message)));
    }
    traces.pop().ok_or(None)
}

fn latest(traces: Vec<Trace>) -> Result<Trace, Option<Failure>> {
    traces.into_iter().rfind(Trace::is_ask).ok_or(None)
}

fn unknown(folder: &StackFolder, id: Option<&str>) -> Failure {
    let Some(id) = id else {
        return Failure::failed(format!(
            "nobody has asked stack {} anything since it records traces\n  ask: aistack ask \"…\"; other requests: aistack trace --list",
            folder.stack()
        ));
    };
    let asked: Vec<String> = all(folder, "")
        .unwrap_or_default()
        .iter()
        .rev()
        .filter(|trace| trace.is_ask())
        .take(3)
        .map(|trace| trace.trace_id.chars().take(8).collect())
        .collect();
    let known =
        if asked.is_empty() { String::new() } else { format!("the latest asks are {}; ", asked.join(", ")) };
    Failure::failed(format!(
        "no recorded trace begins with {id}\n  {known}all of them: aistack trace --list; each pod keeps its latest 16 to 32 MiB"
    ))
}

fn table(trace: &Trace) {
    print(&format!(
        "trace {}   {}   {:.0} ms   {} spans of {} components",
        style(&trace.trace_id).bold(),
        when(trace),
        trace.end_ns().saturating_sub(trace.start_ns()) as f64 / 1e6,
        trace.spans.len(),
        trace.components().len(),
    ));
    let terminal = Term::stdout();
    let columns = if terminal.is_term() { usize::from(terminal.size().1) } else { 120 };
    for line in waterfall(trace, columns) {
        if terminal.is_term() {
            print(&console::truncate_str(&line, columns, "…"));
        } else {
            print(&line);
        }
    }
}

fn when(trace: &Trace) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(trace.start_ns())).to_string()
}

fn list(traces: &[Trace], output: TraceOutput) -> Result<(), Failure> {
    #[derive(serde::Serialize)]
    struct Entry<'a> {
        trace_id: &'a str,
        at: String,
        milliseconds: f64,
        name: &'a str,
        spans: usize,
    }
    // Polls of the engines and the store have one span; what people do has more.
    let shown = traces.iter().rev().filter(|trace| trace.spans.len() > 1 || trace.is_ask()).take(LISTED);
    let entries: Vec<Entry<'_>> = shown
        .map(|trace| Entry {
            trace_id: &trace.trace_id,
            at: when(trace),
            milliseconds: trace.end_ns().saturating_sub(trace.start_ns()) as f64 / 1e6,
            name: trace.root().map(|span| span.name.as_str()).unwrap_or_default(),
            spans: trace.spans.len(),
        })
        .collect();
    match output {
        TraceOutput::Table => {
            for entry in &entries {
                let line = format!(
                    "{}  {}  {:>8.1} ms  {:>3} spans  {}",
                    entry.trace_id, entry.at, entry.milliseconds, entry.spans, entry.name
                );
                print(&line);
            }
            if entries.is_empty() {
                print("no traces yet");
            }
            Ok(())
        }
        TraceOutput::Json => print_as(Output::Json, &entries),
        TraceOutput::Yaml => print_as(Output::Yaml, &entries),
        TraceOutput::Otlp | TraceOutput::Jaeger => Err(Failure::refused(
            "a list is printed as table, json or yaml\n  one trace for Jaeger: aistack trace -o jaeger TRACE_ID",
        )),
    }
}
