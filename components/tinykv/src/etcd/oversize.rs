//! Messages that are too large for gRPC, refused in the words and by the code of Go's library, which etcd's clients know.

use http::Response;
use tonic::{Code, Status};

/// The same answer, with such a refusal put into those words.
pub(super) fn in_words_of_go<B: Default>(response: Response<B>) -> Response<B> {
    let is_one = response.headers().get("grpc-status").is_some_and(|code| code == "11");
    let told = is_one.then(|| Status::from_header_map(response.headers())).flatten();
    match told.as_ref().and_then(refusal) {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// What Go's library says where tonic said `status`; nothing where it is about something else.
pub(super) fn refusal(status: &Status) -> Option<Status> {
    let sizes = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (size, limit) = sizes.split_once(" bytes, the limit is: ")?;
    let limit = limit.strip_suffix(" bytes")?;
    let text = format!("grpc: received message larger than max ({size} vs. {limit})");
    (status.code() == Code::OutOfRange).then(|| Status::resource_exhausted(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use tonic::codec::{Codec as _, Streaming};
    use tonic_prost::ProstCodec;

    #[tokio::test]
    async fn what_tonic_says_of_a_large_message_is_what_go_says() {
        // As tonic itself says it: its words are nobody's promise.
        let mut message = vec![0, 0, 0, 0, 200];
        message.extend_from_slice(&[0; 200]);
        let mut codec = ProstCodec::<(), ()>::default();
        let decoder = codec.decoder();
        let mut stream =
            Streaming::<()>::new_request(decoder, Full::new(bytes::Bytes::from(message)), None, Some(100));
        let said = stream.message().await.expect_err("too large");
        let answer = in_words_of_go(said.into_http::<()>());
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "grpc: received message larger than max (200 vs. 100)");
        let other = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        assert!(refusal(&other).is_none());
        let kept = in_words_of_go(other.into_http::<()>());
        assert_eq!(Status::from_header_map(kept.headers()).expect("a status").code(), Code::OutOfRange);
    }
}
