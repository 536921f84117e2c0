//! A snapshot for a client.

use super::{About, DIGEST, write};
use crate::membership::Description;
use crate::node::Node;
use aistack_chassis::Shutdown;
use bytes::Bytes;
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use wire::etcd::etcdserverpb::SnapshotResponse;

/// Bytes of the file in one message, as with etcd.
const CHUNK: usize = 32 << 10;
/// Messages that wait for the client.
const QUEUE: usize = 16;

/// What a client is sent.
pub type Stream = ReceiverStream<Result<SnapshotResponse, Status>>;
type Sender = mpsc::Sender<Result<SnapshotResponse, Status>>;

/// Writes the state as it stands now into a nameless file in the data directory, and sends that; what is
/// written to the store meanwhile goes on.
pub fn stream(node: Arc<Node>, shutdown: Shutdown) -> Stream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(&node, &shutdown, &sender) {
            tracing::warn!(%error, "a snapshot could not be sent");
            // The client may have gone.
            let _ =
                sender.blocking_send(Err(Status::unavailable(format!("etcdserver: no snapshot: {error}"))));
        }
    });
    ReceiverStream::new(receiver)
}

fn about(node: &Node) -> About {
    let status = node.status();
    let members = status.members.iter().map(|(id, member)| (*id, Description::of(member))).collect();
    About { members, index: status.applied_index, term: status.term }
}

fn send(node: &Node, shutdown: &Shutdown, sender: &Sender) -> io::Result<()> {
    let file = tempfile::tempfile_in(&node.config.data_dir)?;
    let about = about(node);
    let ((file, length), form) =
        node.shared.still(|still| Ok((write(still, &about, file)?, still.rest.release().whole())))?;
    send_file(file, (length, form), sender, || shutdown.is_cancelled())
}

/// Sends a file and its digest; stops when the client has gone.
fn send_file(
    mut file: File,
    (length, form): (u64, String),
    sender: &Sender,
    must_stop: impl Fn() -> bool,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut context = Context::new(&SHA256);
    let message = |remaining_bytes, blob| SnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version: form.clone(),
    };
    let mut left = length;
    while left > 0 {
        if must_stop() {
            return Err(io::Error::other("the server is stopping"));
        }
        let mut part = vec![0; left.min(CHUNK as u64) as usize];
        file.read_exact(&mut part)?;
        context.update(&part);
        left -= part.len() as u64;
        if sender.blocking_send(Ok(message(left, part.into()))).is_err() {
            return Ok(());
        }
    }
    let digest = context.finish();
    debug_assert_eq!(digest.as_ref().len(), DIGEST);
    // Whether the client is still there no longer matters.
    let _ = sender.blocking_send(Ok(message(0, Bytes::copy_from_slice(digest.as_ref()))));
    Ok(())
}
