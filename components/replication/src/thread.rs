//! The thread that Raft runs on. Its tasks (the core, the state machine, the reads) hand work to
//! one another with every command; on one thread that costs no wake-up of another, and a thread
//! that must be woken on a busy machine waits for its turn.

use std::future::Future;
use std::io;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

/// A thread with a runtime of its own; ends when it is dropped.
pub struct RaftThread {
    handle: Handle,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl RaftThread {
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, mut stopping) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        std::thread::Builder::new().name("raft".to_owned()).spawn(move || {
            // An error means that the sender is gone, which asks for the same.
            let _ = runtime.block_on(stopping.wait_for(|stop| *stop));
            drop(runtime);
            end.send_replace(true);
        })?;
        Ok(Self { handle, stop, ended })
    }

    /// Where to spawn what shall run there.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` there; `None` when the thread ends before it.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.handle.spawn(async move {
            // Whoever asked may have gone.
            let _ = sender.send(work.await);
        });
        receiver.await.ok()
    }

    /// Ends the thread and everything on it.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        // An error means that it has ended already.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}
