//! A model's version, and what it is called in names that Kubernetes takes.

use crate::digest::digest;

/// Longest readable part of a name.
const READABLE: usize = 8;

/// A version; without a name when the manifest names none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    name: Option<String>,
}

impl Version {
    /// The one of a service that does not speak of versions.
    pub fn unnamed() -> Self {
        Self { name: None }
    }

    /// One of the registry.
    pub fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()) }
    }

    /// Whether it has no name.
    pub fn is_unnamed(&self) -> bool {
        self.name.is_none()
    }

    /// What it is called in a route.
    pub fn target(&self) -> &str {
        self.name.as_deref().unwrap_or("current")
    }

    /// What is added to the names of its objects, 13 characters at most: the version itself where that is a name, else the readable part
    /// of it and a digest.
    pub fn suffix(&self) -> String {
        let Some(name) = &self.name else { return String::new() };
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if name.len() <= READABLE && name.chars().all(is_plain) {
            return format!("-v{name}");
        }
        let readable: String =
            name.to_lowercase().chars().filter(|c| is_plain(*c)).take(READABLE / 2).collect();
        format!("-v{readable}-{}", digest(name, 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_names_that_stay_apart() {
        assert_eq!(Version::unnamed().suffix(), "");
        assert_eq!(Version::named("3").suffix(), "-v3");
        assert_eq!(Version::named("2026a").suffix(), "-v2026a");
        let odd: Vec<String> = ["1.0", "1-0", "V3", "v3/x", &"x".repeat(64)]
            .into_iter()
            .map(|name| Version::named(name).suffix())
            .collect();
        assert_eq!(odd.iter().collect::<std::collections::BTreeSet<_>>().len(), odd.len(), "{odd:?}");
        for suffix in odd {
            let is_label = suffix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            assert!(is_label && suffix.len() <= 13 && !suffix.ends_with('-'), "{suffix}");
        }
    }
}
