//! The commands, one file each.

pub mod ask;
pub mod doctor;
pub mod down;
pub mod logs;
pub mod render;
pub mod status;
pub mod trace;
pub mod up;
pub mod version;

use std::io::ErrorKind;
use std::path::Path;

use aistack_crds::check::nearest;
use aistack_operator::{Compiled, compile};
use serde::Serialize;

use crate::cli::{Output, StackArgs};
use crate::fail::Failure;
use crate::local::state::StackFolder;

/// Reads and builds a manifest; `-` is standard input.
pub(crate) fn read_manifest(file: &Path) -> Result<Compiled, Failure> {
    let name = file.display().to_string();
    let text =
        if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|error| {
        const EXAMPLE: &str = "name a manifest with -f, for example -f examples/quickstart/stack.yaml";
        let (what, fix) = match error.kind() {
            ErrorKind::NotFound => ("there is no such file".to_owned(), EXAMPLE),
            ErrorKind::IsADirectory => ("is a folder".to_owned(), EXAMPLE),
            ErrorKind::PermissionDenied => {
                ("may not be read by this user".to_owned(), "chmod or chown it, or copy it")
            }
            ErrorKind::InvalidData => ("is not UTF-8 text".to_owned(), "a manifest is YAML, saved as UTF-8"),
            _ => (error.to_string(), EXAMPLE),
        };
        Failure::refused(format!("{name}: {what}\n  {fix}"))
    })?;
    let shown = if name == "-" { "standard input" } else { &name };
    compile(shown, &text).map_err(|refused| Failure::refused(refused.to_string()))
}

/// The stack that a command is about: the named one, or the only one that is up.
pub(crate) fn running_stack(args: &StackArgs) -> Result<StackFolder, Failure> {
    if let Some(name) = &args.stack {
        let folder = StackFolder::of(name)?;
        return if folder.is_up() { Ok(folder) } else { Err(not_up(&missing_stack(name, &folder)?)) };
    }
    let mut up: Vec<StackFolder> = StackFolder::all()?.into_iter().filter(StackFolder::is_up).collect();
    match (up.pop(), up.is_empty()) {
        (None, _) => Err(not_up("no stack is up")),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            let names: Vec<String> = up.iter().chain([&last]).map(StackFolder::stack).collect();
            Err(Failure::refused(format!(
                "several stacks are up: {}\n  say which with --stack NAME",
                names.join(", ")
            )))
        }
    }
}

/// `stack x is not up`, or that there never was one of that name.
pub(crate) fn missing_stack(name: &str, folder: &StackFolder) -> Result<String, Failure> {
    if folder.path().exists() {
        return Ok(format!("stack {name} is not up"));
    }
    let known: Vec<String> = StackFolder::all()?.iter().map(StackFolder::stack).collect();
    Ok(match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("there is no stack {name}; did you mean {near}?"),
        None => format!("there is no stack {name}"),
    })
}

fn not_up(what: &str) -> Failure {
    Failure::wrong_state(format!(
        "{what}\n  start one: aistack up --detach -f examples/quickstart/stack.yaml"
    ))
}

/// Prints a value for programs; the caller prints tables.
pub(crate) fn print_as<T: Serialize>(output: Output, value: &T) -> Result<(), Failure> {
    let text = match output {
        Output::Json => {
            serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?
        }
        Output::Yaml | Output::Table => {
            serde_yaml_ng::to_string(value).map_err(|error| Failure::failed(error.to_string()))?
        }
    };
    print(text.trim_end());
    Ok(())
}

/// Prints a line; a reader that hung up (`| head`) ends the program quietly.
pub(crate) fn print(line: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// A runtime on this thread. The kernel ties pods to the thread that starts them, so there is only this one.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    // Whoever installed a provider before did what is done here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
