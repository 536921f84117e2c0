//! How long a step of a reconciliation may wait for servers that are not ours: one tenant's that never answer must not keep its
//! objects from everything else.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::absence::Call;

/// What all calls of one step may take together.
pub(crate) const STEP: Duration = Duration::from_secs(3);

tokio::task_local! {
    /// What the calls of this step have left.
    static LEFT: Cell<Duration>;
}

/// It took longer than it may, or the calls before it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late;

/// Runs a step; its calls share [`STEP`].
pub(crate) async fn step<F: Future>(step: F) -> F::Output {
    sharing(STEP, step).await
}

async fn sharing<F: Future>(patience: Duration, step: F) -> F::Output {
    LEFT.scope(Cell::new(patience), step).await
}

/// A call of a step. Beside others of the same step it may take what was left when it began.
pub(crate) async fn call<F: Future>(call: F) -> Result<F::Output, Late> {
    let left = LEFT.try_with(Cell::get).unwrap_or(STEP);
    if left.is_zero() {
        return Err(Late);
    }
    let began = Instant::now();
    let under_way = Call::begin();
    let ended = timeout(left, call).await;
    drop(under_way);
    // Outside a step nothing is shared.
    let _ = LEFT.try_with(|left| left.set(left.get().saturating_sub(began.elapsed())));
    ended.map_err(|_| Late)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn all_calls_of_a_step_share_one_patience() {
        let began = Instant::now();
        let quick = || call(std::future::ready(()));
        let ended = sharing(SHORT, async {
            (quick().await, call(pending::<()>()).await, call(pending::<()>()).await, quick().await)
        });
        assert_eq!(ended.await, (Ok(()), Err(Late), Err(Late), Err(Late)));
        let another = sharing(SHORT, async { quick().await });
        assert_eq!(another.await, Ok(()), "the next step has its own");
        let side_by_side = futures::future::join_all((0..64).map(|_| call(pending::<()>())));
        sharing(SHORT, side_by_side).await;
        assert!(began.elapsed() < 10 * SHORT, "{:?}", began.elapsed());
    }
}
