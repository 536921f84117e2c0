//! Where the components' programs are: beside this one, else on the PATH.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::plan::PodPlan;

/// Programs of ours, and how a missing one is had.
pub const COMPONENTS: [&str; 4] = ["tinykv", "vectorforge", "tinyinfer", "modelhub"];

/// A program is missing.
#[derive(Debug, thiserror::Error)]
#[error("{}\n  {fix}", self.what())]
pub struct ProgramError {
    /// Programs that are nowhere.
    pub missing: Vec<String>,
    /// How to get them.
    pub fix: String,
}

impl ProgramError {
    fn what(&self) -> String {
        let (verb, noun) = if self.missing.len() == 1 { ("is", "program") } else { ("are", "programs") };
        format!("the {noun} {} {verb} neither beside aistack nor on the PATH", self.missing.join(", "))
    }
}

/// Finds the programs of all pods, or says which are missing.
pub fn find_all(pods: &[PodPlan]) -> Result<BTreeMap<String, PathBuf>, ProgramError> {
    let mut found = BTreeMap::new();
    let mut missing = Vec::new();
    for pod in pods {
        match find(&pod.program) {
            Some(path) => {
                found.insert(pod.program.clone(), path);
            }
            None if !missing.contains(&pod.program) => missing.push(pod.program.clone()),
            None => {}
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(ProgramError { fix: how_to_get(&missing), missing }) }
}

/// The command that builds the missing programs.
pub fn how_to_get(missing: &[String]) -> String {
    let ours: Vec<&String> =
        missing.iter().filter(|program| COMPONENTS.contains(&program.as_str())).collect();
    if ours.is_empty() {
        return "install it, or put its folder on the PATH".to_owned();
    }
    let packages: Vec<String> = ours.iter().map(|program| format!("-p {program}")).collect();
    format!("build: cargo build --release {}", packages.join(" "))
}

/// Finds one program.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| is_executable(path));
    }
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_comes_with_its_build_command() {
        let error = ProgramError {
            missing: vec!["tinykv".into(), "modelhub".into()],
            fix: how_to_get(&["tinykv".into(), "modelhub".into()]),
        };
        assert_eq!(
            error.to_string(),
            "the programs tinykv, modelhub are neither beside aistack nor on the PATH\n  build: cargo build --release -p tinykv -p modelhub"
        );
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }
}
