//! One change of a file at a time: two uploads of the same path must not delete each other's passages.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Locks = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

/// Who may change which file now, within this process.
#[derive(Debug, Default)]
pub struct Turns {
    locks: Arc<Locks>,
}

/// The right to change a file until this is dropped.
#[derive(Debug)]
pub struct Turn {
    locks: Arc<Locks>,
    key: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for its turn with a file of a rag.
    pub async fn take(&self, rag: &str, path: &str) -> Turn {
        let key = format!("{rag}\0{path}");
        let lock = self.locks.lock().entry(key.clone()).or_default().clone();
        let mut turn = Turn { locks: self.locks.clone(), key, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.lock();
        // Only the map knows it still: nobody waits, since to wait is to hold a copy.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let first = turns.take("r", "a").await;
        let other = turns.take("r", "b").await;
        let mut second = Box::pin(turns.take("r", "a"));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        let given_up = turns.take("r", "b");
        assert!(futures::poll!(Box::pin(given_up)).is_pending());
        drop(other);
        assert!(turns.locks.lock().is_empty());
    }
}
