//! How a command ends when it does not end well: one message, one exit code.

use std::fmt;

/// Exit codes, so that scripts can tell endings apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Something went wrong.
    Failed = 1,
    /// The command line or the manifest cannot be used.
    Refused = 2,
    /// The stack is up already, or is not up.
    WrongState = 3,
    /// The stack is up and not every pod is Ready.
    NotReady = 4,
}

/// A command's bad ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code.
    pub code: Code,
    /// What is wrong; further lines say why and what to do.
    pub message: String,
}

impl Failure {
    /// Something went wrong.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: Code::Failed, message: message.into() }
    }

    /// The input cannot be used.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { code: Code::Refused, message: message.into() }
    }

    /// The stack is in another state than the command needs.
    pub fn wrong_state(message: impl Into<String>) -> Self {
        Self { code: Code::WrongState, message: message.into() }
    }

    /// Not every pod is Ready.
    pub fn not_ready(message: impl Into<String>) -> Self {
        Self { code: Code::NotReady, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<crate::local::state::StateError> for Failure {
    fn from(error: crate::local::state::StateError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<crate::local::supervise::SuperviseError> for Failure {
    fn from(error: crate::local::supervise::SuperviseError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
