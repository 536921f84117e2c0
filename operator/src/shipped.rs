//! Which components this version has.

use crate::kernel::conditions::{Because, Report};

/// Components that have a binary and so an image.
const SHIPPED: &[&str] = &["tinykv", "vectorforge", "tinyinfer", "modelhub"];

/// Whether a component is part of this version.
pub(crate) fn is_shipped(component: &str) -> bool {
    SHIPPED.contains(&component)
}

/// What a kind says whose component is not.
pub(crate) fn missing(component: &str) -> Report {
    let version = env!("CARGO_PKG_VERSION");
    let message = format!(
        "{component} is not part of version {version}, so nothing is started; the object is valid and stays, and a later version carries it out"
    );
    Report::stalled(format!("waits for {component}"), Because::new("ComponentMissing", message))
}
