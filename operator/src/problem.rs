//! How this crate says no: the file, the field, what is wrong, and what to do.

use std::collections::BTreeSet;
use std::fmt;

use aistack_crds::check::Violation;

/// One thing that is wrong with an object, in the words a person reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Object that it is about, such as `AIStack quickstart`; empty when the file as a whole is meant.
    pub object: String,
    /// Path of the field; empty when the object as a whole is meant.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// Why, and what to do; may be empty.
    pub fix: String,
    /// Whether another object that comes later would mend it.
    pub is_awaited: bool,
}

impl Problem {
    /// A problem with a field.
    pub fn new(path: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            object: String::new(),
            path: path.into(),
            what: what.into(),
            fix: fix.into(),
            is_awaited: false,
        }
    }

    /// Another object that comes later would mend it.
    #[must_use]
    pub(crate) fn awaited(self) -> Self {
        Self { is_awaited: true, ..self }
    }

    /// Names the object.
    #[must_use]
    pub fn of(mut self, object: impl Into<String>) -> Self {
        self.object = object.into();
        self
    }

    /// The messages of the CRD rules are one line; what stands after the first `; ` is why and what to do.
    pub(crate) fn from_violation(object: &str, violation: Violation) -> Self {
        let (what, fix) = violation.message.split_once("; ").unwrap_or((&violation.message, ""));
        Self {
            object: object.to_owned(),
            what: what.to_owned(),
            fix: fix.to_owned(),
            path: violation.path,
            is_awaited: false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.object.is_empty(), self.path.is_empty()) {
            (_, false) => write!(f, "{}: {}", self.path, self.what)?,
            (false, true) => write!(f, "{} {}", self.object, self.what)?,
            (true, true) => f.write_str(&self.what)?,
        }
        if !self.fix.is_empty() {
            write!(f, "\n  {}", self.fix)?;
        }
        Ok(())
    }
}

/// A file that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// The file as the user named it.
    pub file: String,
    /// Never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With one object in question the path says where; with several it would not.
        let objects: BTreeSet<&str> = self.problems.iter().map(|problem| problem.object.as_str()).collect();
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\nerror: ")?;
            }
            write!(f, "{}: ", self.file)?;
            if objects.len() > 1 && !problem.object.is_empty() && !problem.path.is_empty() {
                write!(f, "{}: ", problem.object)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
