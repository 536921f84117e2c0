//! JSON to messages and back, by the descriptors of etcd's own proto files.

use super::frames::frame;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::value::RawValue;
use tonic::Status;

fn options() -> DeserializeOptions {
    DeserializeOptions::new().deny_unknown_fields(false)
}

fn malformed(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// What is no JSON; where it ends too early, in the words of etcd's gateway.
fn unreadable(error: &serde_json::Error) -> Status {
    if error.is_eof() { Status::invalid_argument("unexpected EOF") } else { malformed(error) }
}

/// Reads the one message of a body; none at all stands for an empty one.
pub async fn message(body: Body, descriptor: &MessageDescriptor) -> Result<Vec<u8>, Status> {
    let text = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| malformed(&error))?;
    let first = serde_json::Deserializer::from_slice(&text).into_iter::<&RawValue>().next();
    match first.transpose().map_err(|error| unreadable(&error))? {
        Some(value) => encode(value.get(), descriptor),
        None => Ok(Vec::new()),
    }
}

/// Reads messages off a body as they come, each framed.
pub fn messages(
    body: Body,
    descriptor: MessageDescriptor,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let state = (body.into_data_stream(), BytesMut::new(), false);
    stream::unfold(state, move |(mut chunks, mut buffer, mut ended)| {
        let descriptor = descriptor.clone();
        async move {
            loop {
                match take(&mut buffer, ended) {
                    Ok(Some(text)) => {
                        let framed = encode(&text, &descriptor).map(|message| frame(&message));
                        ended |= framed.is_err();
                        return Some((framed, (chunks, buffer, ended)));
                    }
                    Ok(None) if ended => return None,
                    Ok(None) => match chunks.next().await {
                        Some(Ok(chunk)) => buffer.extend_from_slice(&chunk),
                        Some(Err(_)) | None => ended = true,
                    },
                    Err(status) => {
                        buffer.clear();
                        return Some((Err(status), (chunks, buffer, true)));
                    }
                }
            }
        }
    })
}

/// Takes one whole value off the buffer.
pub fn take(buffer: &mut BytesMut, ended: bool) -> Result<Option<String>, Status> {
    let mut values = serde_json::Deserializer::from_slice(buffer).into_iter::<&RawValue>();
    let text = match values.next() {
        None => return Ok(None),
        Some(Ok(value)) => value.get().to_owned(),
        Some(Err(error)) if error.is_eof() && !ended => return Ok(None),
        Some(Err(error)) => return Err(unreadable(&error)),
    };
    let read = values.byte_offset();
    let _ = buffer.split_to(read);
    Ok(Some(text))
}

/// A message from its JSON.
pub fn encode(text: &str, descriptor: &MessageDescriptor) -> Result<Vec<u8>, Status> {
    let mut json = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut json, &options())
        .map_err(|error| malformed(&error))?;
    Ok(message.encode_to_vec())
}

/// A message as JSON.
pub fn text(descriptor: MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let message =
        DynamicMessage::decode(descriptor, message).map_err(|error| Status::internal(error.to_string()))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(true)
        .skip_default_fields(true);
    let mut out = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options)
        .map_err(|error| Status::internal(error.to_string()))?;
    String::from_utf8(out).map_err(|error| Status::internal(error.to_string()))
}

/// An error as JSON.
pub fn status(status: &Status) -> String {
    serde_json::json!({ "code": i32::from(status.code()), "message": status.message() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DescriptorPool;

    fn descriptor(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(wire::etcd::FILE_DESCRIPTOR_SET).expect("descriptors");
        pool.get_message_by_name(name).expect("a message of that name")
    }

    #[test]
    fn values_come_off_a_body_one_by_one() {
        let mut buffer = BytesMut::from(&b"{\"a\":1} {\"b\":{"[..]);
        assert_eq!(take(&mut buffer, false).expect("read").as_deref(), Some("{\"a\":1}"));
        assert_eq!(take(&mut buffer, false).expect("more to come"), None);
        buffer.extend_from_slice(b"}}\n");
        assert_eq!(take(&mut buffer, false).expect("read").as_deref(), Some("{\"b\":{}}"));
        assert_eq!(take(&mut buffer, true).expect("the end"), None);
        let cut = take(&mut BytesMut::from(&b"{\"a\":"[..]), true).expect_err("cut off");
        assert_eq!(cut.message(), "unexpected EOF");
        assert!(take(&mut BytesMut::from(&b"nonsense"[..]), false).is_err());
    }

    #[test]
    fn messages_are_read_and_written_as_etcd_does() {
        let range = descriptor("etcdserverpb.RangeRequest");
        let text_of =
            |json: &str| text(range.clone(), encode(json, &range).expect("read").into()).expect("written");
        let table = [
            (r#"{"key":"Zm9v","range_end":"Zm9w"}"#, r#"{"key":"Zm9v","range_end":"Zm9w"}"#),
            (
                r#"{"key":"Zm9v","rangeEnd":"Zm9w","limit":"5"}"#,
                r#"{"key":"Zm9v","range_end":"Zm9w","limit":"5"}"#,
            ),
            (
                r#"{"limit":5,"unknown":[1],"sort_order":"DESCEND"}"#,
                r#"{"limit":"5","sort_order":"DESCEND"}"#,
            ),
            (r#"{"sort_order":2,"serializable":false}"#, r#"{"sort_order":"DESCEND"}"#),
        ];
        for (json, expected) in table {
            assert_eq!(text_of(json), expected, "{json}");
        }
        for json in [r#"{"key":5}"#, r#"{"key":"not base64!"}"#, r#"{"limit":"x"}"#, "[]"] {
            assert!(encode(json, &range).is_err(), "{json}");
        }
    }
}
