//! `EnvPool`: environments that agents act in.

mod build;
mod control;
mod validate;

pub use build::build;
pub use control::EnvController;
pub use validate::{ValidatedEnvPool, validate};

/// Component and binary.
pub(crate) const COMPONENT: &str = "envruntime";
/// Port of OpenEnv, MCP, REST and the pages.
pub(crate) const HTTP_PORT: u16 = 8600;
/// Port of metrics and health.
pub(crate) const ADMIN_PORT: u16 = 8601;
