//! Bodies of the JSON gateway.

use crate::json;
use bytes::BytesMut;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use std::sync::LazyLock;

const DESCRIPTORS: &[u8] = include_bytes!("../../../wire/src/generated/etcd.bin");
/// Those with the most forms in them.
const MESSAGES: [&str; 8] = [
    "etcdserverpb.RangeRequest",
    "etcdserverpb.TxnRequest",
    "etcdserverpb.PutRequest",
    "etcdserverpb.WatchRequest",
    "etcdserverpb.LeaseGrantRequest",
    "etcdserverpb.AuthRoleGrantPermissionRequest",
    "etcdserverpb.MemberAddRequest",
    "etcdserverpb.TxnResponse",
];

static POOL: LazyLock<Vec<MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    MESSAGES.iter().map(|name| pool.get_message_by_name(name).expect("a message of that name")).collect()
});

/// The first byte says which message, the rest is a body. Returns whether a message could be read; then it can be written, and is the same.
pub fn gateway(data: &[u8]) -> bool {
    let Some((which, body)) = data.split_first() else { return false };
    let descriptor = &POOL[usize::from(*which) % MESSAGES.len()];
    let mut good = false;
    // A body is a stream of values, which comes in pieces.
    let (early, late) = body.split_at(body.len() / 2);
    let mut buffer = BytesMut::from(early);
    for (piece, ended) in [(&b""[..], false), (late, true)] {
        buffer.extend_from_slice(piece);
        while let Ok(Some(text)) = json::take(&mut buffer, ended) {
            let Ok(message) = json::encode(&text, descriptor) else { continue };
            let written =
                json::text(descriptor.clone(), message.clone().into()).expect("what was read can be written");
            let again = json::encode(&written, descriptor).expect("what was written can be read");
            let rewritten =
                json::text(descriptor.clone(), again.into()).expect("what was read can be written");
            assert_eq!(written, rewritten);
            good = true;
        }
    }
    // The same bytes as what a handler might answer.
    let _ = json::text(descriptor.clone(), body.to_vec().into());
    good
}
