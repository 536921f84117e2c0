//! gRPC messages on an HTTP body: a flag, a length, the bytes; the status stands in the trailers.

use axum::body::Body;
use axum::http::{HeaderMap, Response};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tonic::Status;

const HEAD: usize = 5;

/// A message as it goes over the wire.
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + message.len());
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// The messages of an answer.
pub struct Frames {
    body: Body,
    buffer: BytesMut,
    /// What the answer's headers or trailers said.
    status: Option<Status>,
}

impl Frames {
    pub fn of(response: Response<Body>) -> Self {
        let status = status_of(response.headers());
        Self { body: response.into_body(), buffer: BytesMut::new(), status }
    }

    /// The next message; `None` at the end of an answer that went well.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.status = self.status.take().or_else(|| status_of(&trailers));
                        }
                    }
                },
                Some(Err(error)) => return Err(Status::internal(error.to_string())),
                None => {
                    return match self.status.take() {
                        Some(status) if status.code() != tonic::Code::Ok => Err(status),
                        _ => Ok(None),
                    };
                }
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let head: [u8; HEAD] = self.buffer.get(..HEAD)?.try_into().ok()?;
        let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.buffer.len() < HEAD + size {
            return None;
        }
        self.buffer.advance(HEAD);
        Some(self.buffer.split_to(size).freeze())
    }
}

fn status_of(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}
