//! `aistack doctor`: what is missing on this machine, and how to get it.

use std::path::Path;

use serde::Serialize;

use super::{print, print_as};
use crate::cli::Output;
use crate::fail::Failure;
use crate::local::ports::holder;
use crate::local::programs::{self, COMPONENTS};
use crate::local::state::{StackFolder, models_folder};
use crate::view::size;

/// Models of the quickstart, and a file that each has.
const MODELS: [(&str, &str); 2] = [("smollm2-135m-instruct", "gguf"), ("all-minilm-l6-v2", "safetensors")];
/// Free space below which a stack runs into trouble soon.
const DISK_BYTES: u64 = 2 << 30;
/// Memory below which both models of the quickstart do not fit.
const MEMORY_BYTES: u64 = 2 << 30;

/// What was found about one thing.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    name: String,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Missing,
    Note,
}

/// Runs the command.
pub fn run(output: Output) -> Result<(), Failure> {
    let mut findings = programs_found();
    findings.extend(models_found()?);
    findings.push(memory());
    findings.push(disk()?);
    findings.push(front_door());
    findings.push(gpu());
    let missing = findings.iter().filter(|finding| finding.state == State::Missing).count();
    if output == Output::Table {
        table(&findings);
    } else {
        print_as(output, &findings)?;
    }
    if missing == 0 {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "{missing} needed thing{} missing",
            if missing == 1 { " is" } else { "s are" }
        )))
    }
}

fn table(findings: &[Finding]) {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for finding in findings {
        let mark = match finding.state {
            State::Ok => console::style("ok     ").green(),
            State::Missing => console::style("missing").red(),
            State::Note => console::style("note   ").yellow(),
        };
        print(&format!("  {mark}  {:<8} {:<width$}  {}", finding.what, finding.name, finding.detail));
        if !finding.fix.is_empty() {
            print(&format!("           {}", finding.fix));
        }
    }
}

fn programs_found() -> Vec<Finding> {
    COMPONENTS
        .into_iter()
        .map(|program| {
            if let Some(path) = programs::find(program) {
                return found("program", program, State::Ok, path.display().to_string(), "");
            }
            let fix = programs::how_to_get(&[program.to_owned()]);
            found(
                "program",
                program,
                State::Missing,
                "neither beside aistack nor on the PATH".to_owned(),
                &fix,
            )
        })
        .collect()
}

fn models_found() -> Result<Vec<Finding>, Failure> {
    let cache = models_folder()?;
    let look = |(model, extension): (&str, &str)| {
        let folder = cache.join(model);
        if let Some(bytes) = weights(&folder, extension) {
            return found("model", model, State::Ok, format!("{}   {}", size(bytes), folder.display()), "");
        }
        let detail = format!("no .{extension} file in {}", folder.display());
        found("model", model, State::Missing, detail, "fetch: cargo xtask models")
    };
    Ok(MODELS.into_iter().map(look).collect())
}

fn weights(folder: &Path, extension: &str) -> Option<u64> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|found| found == extension))
        .find_map(|file| Some(file.metadata().ok()?.len()))
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok());
    match kibibytes.map(|kibibytes| kibibytes << 10) {
        Some(bytes) if bytes >= MEMORY_BYTES => found("memory", "available", State::Ok, size(bytes), ""),
        Some(bytes) => found(
            "memory",
            "available",
            State::Note,
            size(bytes),
            "the quickstart wants 2 GiB; close something large",
        ),
        None => found("memory", "available", State::Note, "cannot be told on this system".to_owned(), ""),
    }
}

fn disk() -> Result<Finding, Failure> {
    let folder = StackFolder::of("doctor")?;
    // The nearest folder that exists says which file system it will be.
    let path = folder.path().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if let Err(errno) = nix::unistd::access(path, nix::unistd::AccessFlags::W_OK) {
        let detail = format!("{} cannot be written to: {}", path.display(), errno.desc());
        return Ok(found("disk", "state", State::Missing, detail, "put state elsewhere: XDG_STATE_HOME=DIR"));
    }
    let free = nix::sys::statvfs::statvfs(path).map(|stat| stat.blocks_available() * stat.fragment_size());
    Ok(match free {
        Ok(bytes) if bytes >= DISK_BYTES => {
            found("disk", "state", State::Ok, format!("{} free at {}", size(bytes), path.display()), "")
        }
        Ok(bytes) => {
            let detail = format!("{} free at {}", size(bytes), path.display());
            found(
                "disk",
                "state",
                State::Note,
                detail,
                "make room, or put state elsewhere: XDG_STATE_HOME=DIR",
            )
        }
        Err(errno) => found("disk", "state", State::Note, format!("{}: {errno}", path.display()), ""),
    })
}

fn front_door() -> Finding {
    match holder(8080) {
        None => found("port", "8080", State::Ok, "free".to_owned(), ""),
        Some(holder) => {
            let detail = format!("taken by {} (pid {})", holder.name, holder.pid);
            let ours = COMPONENTS.contains(&holder.name.as_str());
            let fix = if ours { "" } else { "stop it, or: aistack up --port 8090" };
            found("port", "8080", if ours { State::Ok } else { State::Note }, detail, fix)
        }
    }
}

fn gpu() -> Finding {
    if Path::new("/dev/nvidiactl").exists() {
        found("gpu", "nvidia", State::Note, "present; this version computes on the CPU".to_owned(), "")
    } else {
        found("gpu", "nvidia", State::Ok, "none, and none is needed".to_owned(), "")
    }
}

fn found(what: &'static str, name: &str, state: State, detail: String, fix: &str) -> Finding {
    Finding { what, name: name.to_owned(), state, detail, fix: fix.to_owned() }
}
