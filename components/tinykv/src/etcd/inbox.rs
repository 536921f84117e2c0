//! Requests of a stream, taken in as they come.
//!
//! HTTP/2 ends a whole connection on which many small messages lie unread (h2's budget for data frames), and whatever else shares it.
//! A client may well send thousands of requests ahead: they wait here, and only past that on the connection.

use prost::Message;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Status, Streaming};

/// Memory for requests that wait, in bytes.
const ROOM: usize = 2 << 20;
/// What a request takes at least.
const LEAST: usize = 256;

/// The requests of one stream.
pub struct Inbox<T>(mpsc::UnboundedReceiver<(Result<T, Status>, Option<OwnedSemaphorePermit>)>);

impl<T: Message + 'static> Inbox<T> {
    /// Takes in `requests` until they end or the inbox goes.
    pub fn of(requests: Streaming<T>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            tokio::select! {
                () = take_in(requests, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Self(receiver)
    }

    /// The next request; `None` when the client has no more.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        self.0.recv().await.map(|(request, _)| request).transpose()
    }
}

async fn take_in<T: Message>(
    mut requests: Streaming<T>,
    sender: &mpsc::UnboundedSender<(Result<T, Status>, Option<OwnedSemaphorePermit>)>,
) {
    let room = Arc::new(Semaphore::new(ROOM / LEAST));
    while let Some(request) = requests.message().await.transpose() {
        let Ok(request) = request else {
            // Whoever reads may be gone.
            let _ = sender.send((request, None));
            return;
        };
        let parts = (request.encoded_len() / LEAST + 1).min(ROOM / LEAST);
        let parts = u32::try_from(parts).expect("there are fewer");
        let permit = Arc::clone(&room).acquire_many_owned(parts).await.ok();
        if sender.send((Ok(request), permit)).is_err() {
            return;
        }
    }
}
