//! What members ask their leader, beside commands: only the leader's clocks of leases count, and
//! only it knows how far the others are.

use crate::membership::{MemberRefusal, Request};
use crate::node::Node;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use replication::Answerer;
use std::sync::{Arc, Weak};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Give a lease its full time again.
    Renew(i64),
    /// How long a lease has left.
    Left(i64),
    /// Change the members.
    Change(Request),
}

/// What the leader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// So many seconds.
    Seconds(i64),
    /// There is no such lease.
    Nothing,
    /// It has only just begun to lead, or leads no more.
    NotNow,
    /// The members are as asked for, or why not.
    Changed(Result<(), MemberRefusal>),
}

const CHANGE: u8 = 3;
const CHANGED: u8 = 4;

fn with_json(tag: u8, value: &impl serde::Serialize) -> Bytes {
    let json = serde_json::to_vec(value).expect("strings and numbers are JSON");
    let mut out = BytesMut::with_capacity(1 + json.len());
    out.put_u8(tag);
    out.put_slice(&json);
    out.freeze()
}

impl Question {
    /// The question as bytes.
    pub fn encode(&self) -> Bytes {
        let (tag, id) = match self {
            Self::Renew(id) => (1, *id),
            Self::Left(id) => (2, *id),
            Self::Change(request) => return with_json(CHANGE, request),
        };
        let mut out = BytesMut::with_capacity(9);
        out.put_u8(tag);
        out.put_i64_le(id);
        out.freeze()
    }

    /// Reads [`encode`](Self::encode) back.
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.first() == Some(&CHANGE) {
            return serde_json::from_slice(&bytes[1..]).ok().map(Self::Change);
        }
        if bytes.len() != 9 {
            return None;
        }
        match (bytes.get_u8(), bytes.get_i64_le()) {
            (1, id) => Some(Self::Renew(id)),
            (2, id) => Some(Self::Left(id)),
            _ => None,
        }
    }
}

impl Reply {
    /// The reply as bytes.
    pub fn encode(&self) -> Bytes {
        let (tag, seconds) = match self {
            Self::Changed(outcome) => return with_json(CHANGED, outcome),
            Self::Seconds(seconds) => (1, *seconds),
            Self::Nothing => (2, 0),
            Self::NotNow => (3, 0),
        };
        let mut out = BytesMut::with_capacity(9);
        out.put_u8(tag);
        out.put_i64_le(seconds);
        out.freeze()
    }

    /// Reads [`encode`](Self::encode) back.
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.first() == Some(&CHANGED) {
            return serde_json::from_slice(&bytes[1..]).ok().map(Self::Changed);
        }
        if bytes.len() != 9 {
            return None;
        }
        match (bytes.get_u8(), bytes.get_i64_le()) {
            (1, seconds) => Some(Self::Seconds(seconds)),
            (2, _) => Some(Self::Nothing),
            (3, _) => Some(Self::NotNow),
            _ => None,
        }
    }
}

/// Answers what other members ask this one, for as long as it lives.
pub fn answerer(node: Weak<Node>) -> Answerer {
    Arc::new(move |question| {
        let node = node.upgrade();
        Box::pin(async move {
            let reply = match (node, Question::decode(question)) {
                (Some(node), Some(Question::Renew(id))) => node.renew_here(id).await,
                (Some(node), Some(Question::Left(id))) => node.left_here(id),
                (Some(node), Some(Question::Change(request))) => node.change_here(&request).await,
                (None, _) | (_, None) => Reply::NotNow,
            };
            reply.encode()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MemberChange;

    #[test]
    fn questions_and_replies_read_back_and_other_bytes_do_not() {
        let change = Request { change: MemberChange::Remove(u64::MAX), again: true };
        for question in [Question::Renew(-1), Question::Left(i64::MAX), Question::Change(change)] {
            assert_eq!(Question::decode(question.encode()), Some(question));
        }
        let refused = Reply::Changed(Err(MemberRefusal::Unhealthy));
        for reply in [Reply::Seconds(7), Reply::Nothing, Reply::NotNow, Reply::Changed(Ok(())), refused] {
            assert_eq!(Reply::decode(reply.encode()), Some(reply));
        }
        for bytes in [&b""[..], b"\x01", b"\x0912345678", b"\x01123456789"] {
            assert_eq!(Question::decode(Bytes::copy_from_slice(bytes)), None);
            assert_eq!(Reply::decode(Bytes::copy_from_slice(bytes)), None);
        }
    }
}
