//! A turn says when it waits outside, so that its worker can serve others meanwhile.

use std::cell::Cell;

tokio::task_local! {
    static TURN: Turn;
}

struct Turn {
    /// Calls that are under way, side by side.
    calls: Cell<usize>,
    tell: Box<dyn Fn(bool) + Send>,
}

/// Runs a turn; `tell` hears `true` when it begins to wait for a server, and `false` when it waits for none any more.
pub(crate) async fn turn<F: Future>(tell: impl Fn(bool) + Send + 'static, turn: F) -> F::Output {
    TURN.scope(Turn { calls: Cell::new(0), tell: Box::new(tell) }, turn).await
}

/// A call under way; however it ends, it is one less.
pub(super) struct Call;

impl Call {
    pub(super) fn begin() -> Self {
        count(|calls| calls + 1, 1);
        Self
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        count(|calls| calls - 1, 0);
    }
}

/// Tells of the change when it comes to `at`.
fn count(change: impl Fn(usize) -> usize, at: usize) {
    // Who calls outside a turn has nobody to tell.
    let _ = TURN.try_with(|turn| {
        turn.calls.set(change(turn.calls.get()));
        if turn.calls.get() == at {
            (turn.tell)(at == 1);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::time::Duration;

    use futures::FutureExt as _;
    use parking_lot::Mutex;

    use super::super::{call, step};
    use super::*;

    #[tokio::test]
    async fn calls_side_by_side_are_one_absence_and_one_that_is_given_up_ends_it() {
        let told = Arc::<Mutex<Vec<bool>>>::default();
        let heard = told.clone();
        let tell = move |is_outside| heard.lock().push(is_outside);
        turn(tell, async {
            let moments = [1, 3, 2].map(|moment| call(tokio::time::sleep(Duration::from_millis(moment))));
            step(futures::future::join_all(moments)).await;
            assert_eq!(*told.lock(), [true, false]);
            assert!(call(pending::<()>()).now_or_never().is_none());
            assert_eq!(*told.lock(), [true, false, true, false]);
        })
        .await;
        assert_eq!(call(ready(1)).await, Ok(1), "outside a turn too");
    }
}
