//! What members say to one another, as bytes. Integers are little-endian; a frame around each
//! message carries its checksum.

use super::storage::{from_entry, to_entry};
use super::types::{Position, RaftEntry, Types, Vote, from_vote, get_log_id, put_log_id, take, to_vote};
use crate::log::{Record, Vote as LogVote, decode_record, encode_record};
use bytes::{Buf as _, BufMut as _, Bytes};
use openraft::AsyncRuntime;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use std::io;

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a peer sent a malformed {what}"))
}

pub fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    let LogVote { term, leader, committed } = from_vote(vote);
    out.put_u64_le(term);
    out.put_u64_le(leader);
    out.put_u8(u8::from(committed));
}

pub fn get_vote(bytes: &mut Bytes) -> Option<Vote> {
    let mut fields = take(bytes, 17)?;
    let (term, leader) = (fields.get_u64_le(), fields.get_u64_le());
    Some(to_vote(LogVote { term, leader, committed: fields.get_u8() != 0 }))
}

pub fn append<R: Send + Sync + 'static, A: AsyncRuntime>(
    request: AppendEntriesRequest<Types<R, A>>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    put_vote(&mut out, &request.vote);
    put_log_id(&mut out, request.prev_log_id.as_ref());
    put_log_id(&mut out, request.leader_commit.as_ref());
    out.put_u32_le(request.entries.len() as u32);
    for entry in request.entries {
        let entry = from_entry(entry);
        // The group stands in the frame.
        let record = Record::Entry { group: 0, id: entry.id, kind: entry.kind, payload: entry.payload };
        encode_record(&record, &mut out);
    }
    out
}

pub fn read_append<R: Send + Sync + 'static, A: AsyncRuntime>(
    mut bytes: Bytes,
) -> io::Result<AppendEntriesRequest<Types<R, A>>> {
    let wrong = || malformed("append");
    let vote = get_vote(&mut bytes).ok_or_else(wrong)?;
    let prev_log_id = get_log_id(&mut bytes).ok_or_else(wrong)?;
    let leader_commit = get_log_id(&mut bytes).ok_or_else(wrong)?;
    let count = take(&mut bytes, 4).ok_or_else(wrong)?.get_u32_le();
    let mut entries: Vec<RaftEntry> = Vec::new();
    for _ in 0..count {
        let (record, size) = decode_record(&bytes).map_err(|_| wrong())?;
        bytes.advance(size);
        let Record::Entry { id, kind, payload, .. } = record else { return Err(wrong()) };
        entries.push(to_entry(crate::log::Entry { id, kind, payload })?);
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub fn appended<R: Send + Sync + 'static, A: AsyncRuntime>(
    response: &AppendEntriesResponse<Types<R, A>>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    match response {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(id) => {
            out.put_u8(1);
            put_log_id(&mut out, id.as_ref());
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            put_vote(&mut out, vote);
        }
    }
    out
}

pub fn read_appended<R: Send + Sync + 'static, A: AsyncRuntime>(
    mut bytes: Bytes,
) -> io::Result<AppendEntriesResponse<Types<R, A>>> {
    let wrong = || malformed("answer to an append");
    Ok(match take(&mut bytes, 1).ok_or_else(wrong)?.get_u8() {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(get_log_id(&mut bytes).ok_or_else(wrong)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(get_vote(&mut bytes).ok_or_else(wrong)?),
        _ => return Err(wrong()),
    })
}

pub fn vote<R: Send + Sync + 'static, A: AsyncRuntime>(request: &VoteRequest<Types<R, A>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_vote(&mut out, &request.vote);
    put_log_id(&mut out, request.last_log_id.as_ref());
    out.put_u8(u8::from(request.leadership_transfer));
    out
}

pub fn read_vote<R: Send + Sync + 'static, A: AsyncRuntime>(
    mut bytes: Bytes,
) -> io::Result<VoteRequest<Types<R, A>>> {
    let wrong = || malformed("request for a vote");
    let vote = get_vote(&mut bytes).ok_or_else(wrong)?;
    let last = get_log_id(&mut bytes).ok_or_else(wrong)?;
    let mut request = VoteRequest::new(vote, last);
    request.leadership_transfer = take(&mut bytes, 1).ok_or_else(wrong)?.get_u8() != 0;
    Ok(request)
}

pub fn voted<R: Send + Sync + 'static, A: AsyncRuntime>(response: &VoteResponse<Types<R, A>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_vote(&mut out, &response.vote);
    put_log_id(&mut out, response.last_log_id.as_ref());
    out.put_u8(u8::from(response.vote_granted));
    out
}

pub fn read_voted<R: Send + Sync + 'static, A: AsyncRuntime>(
    mut bytes: Bytes,
) -> io::Result<VoteResponse<Types<R, A>>> {
    let wrong = || malformed("vote");
    let vote = get_vote(&mut bytes).ok_or_else(wrong)?;
    let last = get_log_id(&mut bytes).ok_or_else(wrong)?;
    let granted = take(&mut bytes, 1).ok_or_else(wrong)?.get_u8() != 0;
    Ok(VoteResponse::new(vote, last, granted))
}

pub fn transfer<R: Send + Sync + 'static, A: AsyncRuntime>(
    request: &TransferLeaderRequest<Types<R, A>>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_vote(&mut out, request.from_leader());
    out.put_u64_le(*request.to_node_id());
    put_log_id(&mut out, request.last_log_id());
    out
}

pub fn read_transfer<R: Send + Sync + 'static, A: AsyncRuntime>(
    mut bytes: Bytes,
) -> io::Result<TransferLeaderRequest<Types<R, A>>> {
    let wrong = || malformed("transfer of leadership");
    let from = get_vote(&mut bytes).ok_or_else(wrong)?;
    let to = take(&mut bytes, 8).ok_or_else(wrong)?.get_u64_le();
    let last = get_log_id(&mut bytes).ok_or_else(wrong)?;
    Ok(TransferLeaderRequest::new(from, to, last))
}

/// A file of a snapshot: its path below the state's directory, and its size.
pub type SnapshotFile = (String, u64);

pub fn snapshot(vote: &Vote, position: &Position, files: &[SnapshotFile]) -> Vec<u8> {
    let mut out = Vec::new();
    put_vote(&mut out, vote);
    let position = position.encode();
    out.put_u32_le(position.len() as u32);
    out.put_slice(&position);
    out.put_u32_le(files.len() as u32);
    for (path, size) in files {
        out.put_u64_le(*size);
        out.put_u32_le(path.len() as u32);
        out.put_slice(path.as_bytes());
    }
    out
}

pub fn read_snapshot(mut bytes: Bytes) -> io::Result<(Vote, Position, Vec<SnapshotFile>)> {
    let wrong = || malformed("snapshot");
    let vote = get_vote(&mut bytes).ok_or_else(wrong)?;
    let size = take(&mut bytes, 4).ok_or_else(wrong)?.get_u32_le() as usize;
    let position = Position::decode(&take(&mut bytes, size).ok_or_else(wrong)?)?;
    let mut files = Vec::new();
    for _ in 0..take(&mut bytes, 4).ok_or_else(wrong)?.get_u32_le() {
        let size = take(&mut bytes, 8).ok_or_else(wrong)?.get_u64_le();
        let length = take(&mut bytes, 4).ok_or_else(wrong)?.get_u32_le() as usize;
        let path = take(&mut bytes, length).ok_or_else(wrong)?;
        files.push((String::from_utf8(path.to_vec()).map_err(|_| wrong())?, size));
    }
    Ok((vote, position, files))
}

/// A piece of a snapshot's file.
pub struct Piece {
    pub transfer: u64,
    pub file: u32,
    pub offset: u64,
    pub bytes: Bytes,
}

pub fn piece(piece: &Piece) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.bytes.len() + 20);
    out.put_u64_le(piece.transfer);
    out.put_u32_le(piece.file);
    out.put_u64_le(piece.offset);
    out.put_slice(&piece.bytes);
    out
}

pub fn read_piece(mut bytes: Bytes) -> io::Result<Piece> {
    let mut head = take(&mut bytes, 20).ok_or_else(|| malformed("piece of a snapshot"))?;
    Ok(Piece { transfer: head.get_u64_le(), file: head.get_u32_le(), offset: head.get_u64_le(), bytes })
}

pub fn number(bytes: &mut Bytes) -> io::Result<u64> {
    Ok(take(bytes, 8).ok_or_else(|| malformed("number"))?.get_u64_le())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::EntryId;
    use crate::raft::types::{Origin, Payload, to_log_id};
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry as _;

    type T = Types<u64>;

    fn log_id(index: u64) -> crate::raft::types::LogId {
        to_log_id(EntryId { term: 3, leader: 9, index })
    }

    /// Every message reads back as sent; every shortened one is refused and none panics.
    #[test]
    fn messages_read_back_and_shortened_ones_are_refused() {
        let vote = to_vote(LogVote { term: 7, leader: u64::MAX, committed: true });
        let payload = |origin| EntryPayload::Normal(Payload { command: Bytes::from_static(b"xyz"), origin });
        let entries: Vec<RaftEntry> = vec![
            RaftEntry::new(log_id(4), EntryPayload::Blank),
            RaftEntry::new(log_id(5), payload(None)),
            RaftEntry::new(log_id(6), payload(Some(Origin { node: 1, request: 2 }))),
        ];
        let request: AppendEntriesRequest<T> =
            AppendEntriesRequest { vote, prev_log_id: Some(log_id(3)), entries, leader_commit: None };
        let bytes = Bytes::from(append(request.clone()));
        let read: AppendEntriesRequest<T> = read_append(bytes.clone()).expect("whole");
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
        for end in 0..bytes.len() {
            assert!(read_append::<u64, openraft_rt_tokio::TokioRuntime>(bytes.slice(..end)).is_err());
        }
        for response in [
            AppendEntriesResponse::<T>::Success,
            AppendEntriesResponse::PartialSuccess(Some(log_id(8))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote),
        ] {
            let bytes = Bytes::from(appended(&response));
            assert_eq!(
                read_appended::<u64, openraft_rt_tokio::TokioRuntime>(bytes).expect("whole"),
                response
            );
        }
        let files = vec![("a/b".to_owned(), 5), (String::new(), 0)];
        let bytes = Bytes::from(snapshot(&vote, &Position::default(), &files));
        assert_eq!(read_snapshot(bytes.clone()).expect("whole").2, files);
        for end in 0..bytes.len() {
            assert!(read_snapshot(bytes.slice(..end)).is_err());
        }
    }
}
