//! The one signal by which a process stops.

use tokio_util::sync::CancellationToken;

/// Says when to stop. Cheap to clone; every clone sees the same signal.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Cancelled by SIGTERM or SIGINT; a second signal ends the process with code 130.
    pub(crate) fn on_signals() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::default();
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            let (Ok(mut term), Ok(mut int)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                tracing::error!(
                    "no handler for SIGTERM and SIGINT could be set; the process stops without draining"
                );
                return;
            };
            for round in 0.. {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if round > 0 {
                    std::process::exit(130);
                }
                tracing::info!("stopping: running requests get their grace period");
                token.cancel();
            }
        });
        shutdown
    }

    /// Asks everything to stop.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes when it is asked.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// The token itself, for `tokio_util` combinators.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}
