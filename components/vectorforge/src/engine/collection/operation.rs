//! Writes as they stand in the log: decided (filters resolved to ids), so that replaying them needs no judgement.

use std::path::Path;

use crate::engine::config::FieldSchema;
use crate::engine::error::EngineError;
use crate::engine::json_path::JsonPath;
use crate::engine::point::{Payload, Point, PointId, Vectors};
use crate::engine::storage::codec::{Malformed, Reader, Writer};

/// A decided write.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Put points, replacing those that are there.
    Upsert(Vec<Point>),
    /// Delete points.
    Delete(Vec<PointId>),
    /// Replace some vectors of points.
    UpdateVectors(Vec<(PointId, Vectors)>),
    /// Remove some vectors of points.
    DeleteVectors(Vec<PointId>, Vec<String>),
    /// Merge into payloads, at a path or at the root.
    SetPayload(Vec<PointId>, Payload, Option<JsonPath>),
    /// Replace payloads.
    OverwritePayload(Vec<PointId>, Payload),
    /// Remove keys from payloads.
    DeletePayload(Vec<PointId>, Vec<JsonPath>),
    /// Empty payloads.
    ClearPayload(Vec<PointId>),
    /// Build a payload index.
    CreateIndex(JsonPath, FieldSchema),
    /// Drop a payload index.
    DropIndex(JsonPath),
}

impl Operation {
    /// The record's body: a tag byte and the fields.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Upsert(points) => {
                out.u8(1);
                out.u32(points.len() as u32);
                for point in points {
                    write_id(&mut out, point.id);
                    write_vectors(&mut out, &point.vectors);
                    write_payload(&mut out, &point.payload);
                }
            }
            Self::Delete(ids) => {
                out.u8(2);
                write_ids(&mut out, ids);
            }
            Self::UpdateVectors(updates) => {
                out.u8(3);
                out.u32(updates.len() as u32);
                for (id, vectors) in updates {
                    write_id(&mut out, *id);
                    write_vectors(&mut out, vectors);
                }
            }
            Self::DeleteVectors(ids, names) => {
                out.u8(4);
                write_ids(&mut out, ids);
                out.u32(names.len() as u32);
                for name in names {
                    out.bytes(name.as_bytes());
                }
            }
            Self::SetPayload(ids, payload, key) => {
                out.u8(5);
                write_ids(&mut out, ids);
                write_payload(&mut out, payload);
                out.bytes(key.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes());
            }
            Self::OverwritePayload(ids, payload) => {
                out.u8(6);
                write_ids(&mut out, ids);
                write_payload(&mut out, payload);
            }
            Self::DeletePayload(ids, keys) => {
                out.u8(7);
                write_ids(&mut out, ids);
                out.u32(keys.len() as u32);
                for key in keys {
                    out.bytes(key.to_string().as_bytes());
                }
            }
            Self::ClearPayload(ids) => {
                out.u8(8);
                write_ids(&mut out, ids);
            }
            Self::CreateIndex(key, schema) => {
                out.u8(9);
                out.bytes(key.to_string().as_bytes());
                out.bytes(&serde_json::to_vec(schema).expect("plain data"));
            }
            Self::DropIndex(key) => {
                out.u8(10);
                out.bytes(key.to_string().as_bytes());
            }
        }
        out.0
    }

    /// Reads what [`Self::encode`] wrote; `log` is named in the error.
    pub fn decode(body: &[u8], log: &Path) -> Result<Self, EngineError> {
        let mut input = Reader(body);
        let operation = read(&mut input).and_then(|operation| input.finish().map(|()| operation));
        operation
            .map_err(|malformed| EngineError::corrupt(log, format!("a record does not parse: {malformed}")))
    }
}

fn read(input: &mut Reader<'_>) -> Result<Operation, Malformed> {
    Ok(match input.u8()? {
        1 => Operation::Upsert(read_list(input, |input| {
            Ok(Point { id: read_id(input)?, vectors: read_vectors(input)?, payload: read_payload(input)? })
        })?),
        2 => Operation::Delete(read_list(input, read_id)?),
        3 => Operation::UpdateVectors(read_list(input, |input| Ok((read_id(input)?, read_vectors(input)?)))?),
        4 => Operation::DeleteVectors(
            read_list(input, read_id)?,
            read_list(input, |input| Ok(input.text()?.to_owned()))?,
        ),
        5 => {
            let (ids, payload) = (read_list(input, read_id)?, read_payload(input)?);
            let key = match input.text()? {
                "" => None,
                key => Some(read_key(key)?),
            };
            Operation::SetPayload(ids, payload, key)
        }
        6 => Operation::OverwritePayload(read_list(input, read_id)?, read_payload(input)?),
        7 => Operation::DeletePayload(
            read_list(input, read_id)?,
            read_list(input, |input| read_key(input.text()?))?,
        ),
        8 => Operation::ClearPayload(read_list(input, read_id)?),
        9 => {
            let key = read_key(input.text()?)?;
            let schema =
                serde_json::from_slice(input.bytes()?).map_err(|_| Malformed("a schema does not parse"))?;
            Operation::CreateIndex(key, schema)
        }
        10 => Operation::DropIndex(read_key(input.text()?)?),
        _ => return Err(Malformed("an operation of an unknown kind")),
    })
}

fn write_id(out: &mut Writer, id: PointId) {
    match id {
        PointId::Num(number) => {
            out.u8(0);
            out.u64(number);
        }
        PointId::Uuid(uuid) => {
            out.u8(1);
            out.u128(uuid);
        }
    }
}

fn read_id(input: &mut Reader<'_>) -> Result<PointId, Malformed> {
    match input.u8()? {
        0 => Ok(PointId::Num(input.u64()?)),
        1 => Ok(PointId::Uuid(input.u128()?)),
        _ => Err(Malformed("an id of an unknown kind")),
    }
}

fn write_ids(out: &mut Writer, ids: &[PointId]) {
    out.u32(ids.len() as u32);
    for id in ids {
        write_id(out, *id);
    }
}

fn read_list<T>(
    input: &mut Reader<'_>,
    item: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = input.u32()?;
    (0..count).map(|_| item(input)).collect()
}

fn write_vectors(out: &mut Writer, vectors: &Vectors) {
    out.u32(vectors.0.len() as u32);
    for (name, vector) in &vectors.0 {
        out.bytes(name.as_bytes());
        out.floats(vector);
    }
}

fn read_vectors(input: &mut Reader<'_>) -> Result<Vectors, Malformed> {
    Ok(read_list(input, |input| Ok((input.text()?.to_owned(), input.floats()?)))?.into_iter().collect())
}

fn write_payload(out: &mut Writer, payload: &Payload) {
    out.bytes(&serde_json::to_vec(payload).expect("JSON came from JSON"));
}

fn read_payload(input: &mut Reader<'_>) -> Result<Payload, Malformed> {
    serde_json::from_slice(input.bytes()?).map_err(|_| Malformed("a payload does not parse"))
}

fn read_key(text: &str) -> Result<JsonPath, Malformed> {
    text.parse().map_err(|_| Malformed("a payload key does not parse"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::config::FieldKind;

    #[test]
    fn operations_survive_the_log_and_cut_ones_are_refused() {
        let payload =
            json!({"a": [1, 2.5, null, "x"], "ü": {"b": true}}).as_object().expect("an object").clone();
        let ids = vec![PointId::Num(7), PointId::Uuid(u128::MAX - 1)];
        let key: JsonPath = "a[].\"b.c\"".parse().expect("a path");
        let point = Point {
            id: ids[1],
            vectors: [(String::new(), vec![1.5, -0.0]), ("v".to_owned(), vec![])].into_iter().collect(),
            payload: payload.clone(),
        };
        for operation in [
            Operation::Upsert(vec![point]),
            Operation::Delete(ids.clone()),
            Operation::UpdateVectors(vec![(ids[0], Vectors::unnamed(vec![1.0]))]),
            Operation::DeleteVectors(ids.clone(), vec!["v".to_owned()]),
            Operation::SetPayload(ids.clone(), payload.clone(), Some(key.clone())),
            Operation::SetPayload(ids.clone(), payload.clone(), None),
            Operation::OverwritePayload(ids.clone(), payload),
            Operation::DeletePayload(ids.clone(), vec![key.clone()]),
            Operation::ClearPayload(ids),
            Operation::CreateIndex(key.clone(), FieldKind::Text.into()),
            Operation::DropIndex(key),
        ] {
            let body = operation.encode();
            assert_eq!(Operation::decode(&body, Path::new("log")).expect("just encoded"), operation);
            for length in 0..body.len() {
                assert!(
                    Operation::decode(&body[..length], Path::new("log")).is_err(),
                    "{operation:?} cut to {length}"
                );
            }
        }
    }
}
