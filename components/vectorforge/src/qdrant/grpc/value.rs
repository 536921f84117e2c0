//! JSON values, ids and vectors between protobuf and the engine.

use std::collections::HashMap;

use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::{
    DenseVector, ListValue, NamedVectorsOutput, PointId as WireId, Struct, Value as WireValue, Vector,
    VectorOutput, Vectors as WireVectors, VectorsOutput, vector, vector_output, vectors, vectors_output,
};
use serde_json::{Map, Number, Value};

use crate::engine::{Payload, PointId, UNNAMED, Vectors};
use crate::qdrant::error::DoorError;
use crate::qdrant::json::id::parse_uuid;
use crate::qdrant::json::vector::not_dense;

/// A payload of a request.
pub(crate) fn payload(fields: HashMap<String, WireValue>) -> Result<Payload, DoorError> {
    fields.into_iter().map(|(key, field)| Ok((key, value(field)?))).collect()
}

/// A JSON value. Protobuf can carry floats that JSON cannot.
fn value(wire: WireValue) -> Result<Value, DoorError> {
    Ok(match wire.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::IntegerValue(number)) => Value::from(number),
        Some(Kind::DoubleValue(number)) => match Number::from_f64(number) {
            Some(number) => Value::Number(number),
            None => return Err(DoorError::input(format!("payload: {number} is no JSON number"))),
        },
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => {
            Value::Array(list.values.into_iter().map(value).collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(inner)) => Value::Object(
            inner
                .fields
                .into_iter()
                .map(|(key, field)| Ok((key, value(field)?)))
                .collect::<Result<Map<_, _>, DoorError>>()?,
        ),
    })
}

/// A payload of an answer.
pub(crate) fn wire_payload(payload: Option<Payload>) -> HashMap<String, WireValue> {
    payload.unwrap_or_default().into_iter().map(|(key, value)| (key, wire_value(value))).collect()
}

/// A JSON value for the wire. Integers beyond `i64` become doubles, as they do in Qdrant.
pub(crate) fn wire_value(value: Value) -> WireValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Kind::IntegerValue(number),
            None => Kind::DoubleValue(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Kind::StringValue(text),
        Value::Array(list) => {
            Kind::ListValue(ListValue { values: list.into_iter().map(wire_value).collect() })
        }
        Value::Object(map) => Kind::StructValue(Struct {
            fields: map.into_iter().map(|(key, value)| (key, wire_value(value))).collect(),
        }),
    };
    WireValue { kind: Some(kind) }
}

/// A point id of a request.
pub(crate) fn id(wire: Option<WireId>) -> Result<PointId, DoorError> {
    match wire.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => Ok(PointId::Num(number)),
        Some(PointIdOptions::Uuid(text)) => parse_uuid(&text).map_err(DoorError::Input),
        None => Err(DoorError::input("a point id is missing")),
    }
}

/// A list of ids.
pub(crate) fn ids(wire: Vec<WireId>) -> Result<Vec<PointId>, DoorError> {
    wire.into_iter().map(|wire| id(Some(wire))).collect()
}

/// A point id of an answer.
pub(crate) fn wire_id(id: PointId) -> WireId {
    let options = match id {
        PointId::Num(number) => PointIdOptions::Num(number),
        PointId::Uuid(_) => PointIdOptions::Uuid(id.to_string()),
    };
    WireId { point_id_options: Some(options) }
}

/// The vectors of a point.
pub(crate) fn point_vectors(wire: Option<WireVectors>) -> Result<Vectors, DoorError> {
    match wire.and_then(|vectors| vectors.vectors_options) {
        None => Ok(Vectors::default()),
        Some(vectors::VectorsOptions::Vector(vector)) => Ok(Vectors::unnamed(dense(vector)?)),
        Some(vectors::VectorsOptions::Vectors(named)) => {
            named.vectors.into_iter().map(|(name, vector)| Ok((name, dense(vector)?))).collect()
        }
    }
}

/// A dense vector, in its present form or in the one before 1.16 (a bare list of floats).
#[allow(deprecated)]
pub(crate) fn dense(wire: Vector) -> Result<Vec<f32>, DoorError> {
    let refused = |key| Err(DoorError::Unsupported(not_dense(Some(key))));
    match wire.vector {
        Some(vector::Vector::Dense(dense)) => Ok(dense.data),
        Some(vector::Vector::Sparse(_)) => refused("indices"),
        Some(vector::Vector::MultiDense(_)) => Err(DoorError::unsupported("multivectors")),
        Some(vector::Vector::Document(_) | vector::Vector::Image(_) | vector::Vector::Object(_)) => {
            refused("model")
        }
        None if wire.indices.is_some() => refused("indices"),
        None if wire.vectors_count.is_some_and(|count| count > 1) => {
            Err(DoorError::unsupported("multivectors"))
        }
        None => Ok(wire.data),
    }
}

/// The vectors of an answer.
pub(crate) fn wire_vectors(vectors: Option<Vectors>) -> Option<VectorsOutput> {
    let mut vectors = vectors?.0;
    let options = match vectors.remove(UNNAMED) {
        Some(unnamed) if vectors.is_empty() => vectors_output::VectorsOptions::Vector(wire_vector(unnamed)),
        unnamed => {
            let unnamed = unnamed.map(|vector| (UNNAMED.to_owned(), vector));
            let all = vectors.into_iter().chain(unnamed);
            vectors_output::VectorsOptions::Vectors(NamedVectorsOutput {
                vectors: all.map(|(name, vector)| (name, wire_vector(vector))).collect(),
            })
        }
    };
    Some(VectorsOutput { vectors_options: Some(options) })
}

fn wire_vector(data: Vec<f32>) -> VectorOutput {
    VectorOutput {
        vector: Some(vector_output::Vector::Dense(DenseVector { data })),
        ..VectorOutput::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn payloads_survive_the_way_there_and_back() {
        let Value::Object(before) = json!({"n": null, "b": true, "i": -3, "f": 1.0, "s": "x", "l": [1, [2.5], {}], "o": {"k": {"k": []}}})
        else {
            unreachable!("json! of braces is an object")
        };
        let after = payload(wire_payload(Some(before.clone()))).expect("finite");
        for (key, value) in &before {
            assert_eq!(after.get(key), Some(value), "{key}");
        }
        assert_eq!(after.len(), before.len());
    }

    #[test]
    fn a_float_that_json_cannot_hold_is_refused() {
        for bad in [f64::NAN, f64::INFINITY] {
            let fields = HashMap::from([("x".to_owned(), WireValue { kind: Some(Kind::DoubleValue(bad)) })]);
            assert!(payload(fields).is_err());
        }
    }
}
