//! How many workers the objects of one namespace may have at a time. Turns wait for servers that a tenant runs and names; with all
//! of them at one tenant's, nobody else would have any.

use std::collections::HashMap;

/// Turns that run, by namespace.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Most of a namespace; `None`: any number.
    pub most: Option<usize>,
    running: HashMap<String, usize>,
}

impl Shares {
    /// Whether another turn of the namespace may begin; `beyond`: by a worker that is kept for users' edits.
    pub(super) fn have_room(&self, namespace: &str, beyond: bool) -> bool {
        let running = self.running.get(namespace).copied().unwrap_or_default();
        self.most.is_none_or(|most| running < most + usize::from(beyond))
    }

    /// A turn began.
    pub(super) fn began(&mut self, namespace: &str) {
        *self.running.entry(namespace.to_owned()).or_default() += 1;
    }

    /// A turn ended.
    pub(super) fn ended(&mut self, namespace: &str) {
        if let Some(running) = self.running.get_mut(namespace) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(namespace);
            }
        }
    }
}
