//! Where a model lies: a path, or a name in the model cache or in the image.

use std::path::{Path, PathBuf};

/// Why no model was found.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// A path that is not there.
    #[error("model {path}: no such file or folder")]
    NoSuchPath {
        /// The path.
        path: PathBuf,
    },
    /// A name that the cache does not hold.
    #[error("model {name} is not in the model cache {cache}{known}\n  fetch it with: cargo xtask models", cache = cache.display())]
    NotInCache {
        /// The name.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// What is there, as a sentence.
        known: String,
    },
    /// No cache to look in.
    #[error(
        "model {name}: HOME is not set; set AISTACK_MODELS to the folder that holds models, or give a path"
    )]
    NoCache {
        /// The name.
        name: String,
    },
}

/// `$AISTACK_MODELS`, else `aistack/models` in the XDG cache.
pub fn cache_dir() -> Option<PathBuf> {
    let from = |name: &str, rest: &str| std::env::var_os(name).map(|dir| Path::new(&dir).join(rest));
    from("AISTACK_MODELS", "")
        .or_else(|| from("XDG_CACHE_HOME", "aistack/models"))
        .or_else(|| from("HOME", ".cache/aistack/models"))
}

/// Models that a container image carries (`cargo xtask images --model`), for what the cache lacks.
const IN_IMAGE: &str = "/usr/share/aistack/models";

/// The file or folder to load for `model`, a path or a name.
pub fn locate(model: &str) -> Result<PathBuf, LocateError> {
    locate_in(model, cache_dir().as_deref(), Path::new(IN_IMAGE))
}

fn locate_in(model: &str, cache: Option<&Path>, image: &Path) -> Result<PathBuf, LocateError> {
    let path = Path::new(model);
    let is_path = model.contains('/') || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if is_path {
        return if path.exists() {
            Ok(only_gguf(path).unwrap_or_else(|| path.to_owned()))
        } else {
            Err(LocateError::NoSuchPath { path: path.to_owned() })
        };
    }
    if let Some(found) = cache.into_iter().chain([image]).find_map(|folder| lies_in(folder, model)) {
        return Ok(found);
    }
    let Some(cache) = cache else { return Err(LocateError::NoCache { name: model.to_owned() }) };
    Err(LocateError::NotInCache { name: model.to_owned(), cache: cache.to_owned(), known: known(cache) })
}

fn lies_in(folder: &Path, model: &str) -> Option<PathBuf> {
    let folder = folder.join(model);
    let gguf = folder.join("model.gguf");
    if gguf.is_file() {
        return Some(gguf);
    }
    folder.is_dir().then(|| only_gguf(&folder).unwrap_or(folder))
}

/// The one `.gguf` file of a folder, whatever it is called: files that were fetched keep the name that they had.
fn only_gguf(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let mut found = files.filter(|file| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn known(cache: &Path) -> String {
    let entries = std::fs::read_dir(cache).into_iter().flatten().filter_map(Result::ok);
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    if names.is_empty() {
        ", which is empty".to_owned()
    } else {
        format!(", which holds {}", names.join(", "))
    }
}

/// The name that a model goes by when none was configured: the folder's for `NAME/model.gguf`, else the file's stem.
pub fn default_name(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let parent = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match (stem.as_deref(), parent) {
        (Some("model"), Some(parent)) if path.extension().is_some() => parent,
        _ => path.file_name().map_or_else(
            || "model".to_owned(),
            |name| if path.is_dir() { name.to_string_lossy().into_owned() } else { stem.unwrap_or_default() },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_lead_to_files() {
        let cache = tempfile::tempdir().unwrap();
        let at = |name: &str| cache.path().join(name);
        std::fs::create_dir_all(at("chat")).unwrap();
        std::fs::write(at("chat/model.gguf"), "").unwrap();
        std::fs::create_dir_all(at("embed")).unwrap();
        std::fs::create_dir_all(at(".chat.123")).unwrap();
        let image = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(image.path().join("shipped")).unwrap();
        std::fs::create_dir_all(image.path().join("embed")).unwrap();
        let find = |model: &str| locate_in(model, Some(cache.path()), image.path());
        assert_eq!(find("chat").unwrap(), at("chat/model.gguf"));
        assert_eq!(find("embed").unwrap(), at("embed"), "the cache comes before the image");
        assert_eq!(find("shipped").unwrap(), image.path().join("shipped"));
        assert_eq!(locate_in("shipped", None, image.path()).unwrap(), image.path().join("shipped"));
        std::fs::create_dir_all(at("fetched")).unwrap();
        std::fs::write(at("fetched/SmolLM2-Q4.gguf"), "").unwrap();
        assert_eq!(find("fetched").unwrap(), at("fetched/SmolLM2-Q4.gguf"));
        std::fs::write(at("fetched/other.gguf"), "").unwrap();
        assert_eq!(find("fetched").unwrap(), at("fetched"), "of two, neither is meant");
        let path = at("chat/model.gguf");
        assert_eq!(find(path.to_str().unwrap()).unwrap(), path);
        assert_eq!(default_name(&path), "chat");
        assert_eq!(default_name(&at("embed")), "embed");
        assert_eq!(default_name(Path::new("/x/Qwen.Q4_1.gguf")), "Qwen.Q4_1");
        let missing = find("llama-7b").unwrap_err().to_string();
        assert!(missing.contains("which holds chat, embed, fetched\n"), "{missing}");
        assert!(matches!(find("./nowhere/x"), Err(LocateError::NoSuchPath { .. })));
        assert!(matches!(find("x.gguf"), Err(LocateError::NoSuchPath { .. })));
        assert!(matches!(locate_in("chat", None, image.path()), Err(LocateError::NoCache { .. })));
    }
}
