//! Named readiness checks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What `/readyz` answers from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Health {
    /// Sets one named check. A process is ready when it has a check and all of them are true.
    pub fn set_ready(&self, check: &'static str, ready: bool) {
        let before = self.lock().insert(check, ready);
        if before != Some(ready) {
            tracing::info!(check, ready, "readiness");
        }
    }

    /// Whether every check is true, and there is one.
    pub fn is_ready(&self) -> bool {
        let checks = self.lock();
        !checks.is_empty() && checks.values().all(|ready| *ready)
    }

    /// A line per check, as Kubernetes' own components print them.
    pub fn report(&self) -> String {
        let checks = self.lock();
        if checks.is_empty() {
            return "[-]starting\n".to_owned();
        }
        let lines = checks.iter().map(|(name, ready)| format!("[{}]{name}", if *ready { '+' } else { '-' }));
        lines.chain([String::new()]).collect::<Vec<_>>().join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, bool>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_a_check_and_all_of_them() {
        let health = Health::default();
        assert!(!health.is_ready());
        health.set_ready("engine", true);
        assert!(health.is_ready());
        health.set_ready("store", false);
        assert!(!health.is_ready());
        assert_eq!(health.report(), "[+]engine\n[-]store\n");
    }
}
