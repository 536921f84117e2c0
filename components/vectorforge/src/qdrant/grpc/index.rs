//! Payload indexes from and to protobuf.

use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::{
    FieldType, PayloadIndexParams, PayloadSchemaInfo, PayloadSchemaType, TextIndexParams, TokenizerType,
    stemming_algorithm,
};

use crate::engine::{FieldInfo, FieldKind, FieldSchema, TextParams, Tokenizer};
use crate::qdrant::error::DoorError;

fn refused(what: &str) -> DoorError {
    DoorError::unsupported(format!("{what}; it has keyword, integer, float, bool and text indexes"))
}

/// The index that a request asks for. Parameters say more than the bare type; placement hints change nothing.
pub(crate) fn schema(
    kind: Option<i32>,
    params: Option<PayloadIndexParams>,
) -> Result<FieldSchema, DoorError> {
    match params.and_then(|params| params.index_params) {
        None => {}
        Some(IndexParams::TextIndexParams(text)) => return text_schema(&text),
        Some(IndexParams::KeywordIndexParams(params)) => {
            let nested = params.nested.is_some();
            if params.prefix.is_some() || nested {
                return Err(refused(if nested {
                    "index parameter `nested`"
                } else {
                    "index parameter `prefix`"
                }));
            }
            return Ok(FieldKind::Keyword.into());
        }
        Some(IndexParams::IntegerIndexParams(params)) => {
            return unnested(params.nested.as_deref(), FieldKind::Integer);
        }
        Some(IndexParams::FloatIndexParams(params)) => {
            return unnested(params.nested.as_deref(), FieldKind::Float);
        }
        Some(IndexParams::BoolIndexParams(params)) => {
            return unnested(params.nested.as_deref(), FieldKind::Bool);
        }
        Some(IndexParams::GeoIndexParams(_)) => return Err(refused("geo indexes")),
        Some(IndexParams::DatetimeIndexParams(_)) => return Err(refused("datetime indexes")),
        Some(IndexParams::UuidIndexParams(_)) => return Err(refused("uuid indexes")),
    }
    match kind.map(FieldType::try_from) {
        Some(Ok(FieldType::Keyword)) => Ok(FieldKind::Keyword.into()),
        Some(Ok(FieldType::Integer)) => Ok(FieldKind::Integer.into()),
        Some(Ok(FieldType::Float)) => Ok(FieldKind::Float.into()),
        Some(Ok(FieldType::Bool)) => Ok(FieldKind::Bool.into()),
        Some(Ok(FieldType::Text)) => Ok(FieldKind::Text.into()),
        Some(Ok(FieldType::Geo)) => Err(refused("geo indexes")),
        Some(Ok(FieldType::Datetime)) => Err(refused("datetime indexes")),
        Some(Ok(FieldType::Uuid)) => Err(refused("uuid indexes")),
        Some(Err(unknown)) => Err(DoorError::input(format!("field_type: {unknown}"))),
        None => Err(DoorError::input("field_type is missing: one of keyword, integer, float, bool, text")),
    }
}

fn unnested(nested: Option<&str>, kind: FieldKind) -> Result<FieldSchema, DoorError> {
    match nested {
        None => Ok(kind.into()),
        Some(_) => Err(refused("index parameter `nested`")),
    }
}

fn text_schema(wire: &TextIndexParams) -> Result<FieldSchema, DoorError> {
    let stems = wire.stemmer.as_ref().is_some_and(|stemmer| {
        !matches!(stemmer.stemming_params, None | Some(stemming_algorithm::StemmingParams::Disabled(_)))
    });
    let asked = [
        ("nested", wire.nested.is_some()),
        ("phrase_matching", wire.phrase_matching == Some(true)),
        ("ascii_folding", wire.ascii_folding == Some(true)),
        ("stopwords", wire.stopwords.is_some()),
        ("scoring", wire.scoring.is_some()),
        ("stemmer", stems),
    ];
    if let Some((name, _)) = asked.iter().find(|(_, asked)| *asked) {
        return Err(refused(&format!("index parameter `{name}`")));
    }
    let default = TextParams::default();
    let tokenizer = match TokenizerType::try_from(wire.tokenizer) {
        Ok(TokenizerType::Unknown | TokenizerType::Word) => Tokenizer::Word,
        Ok(TokenizerType::Whitespace) => Tokenizer::Whitespace,
        Ok(TokenizerType::Prefix) => Tokenizer::Prefix,
        Ok(other) => return Err(refused(&format!("tokenizer `{}`", other.as_str_name()))),
        Err(unknown) => return Err(DoorError::input(format!("tokenizer: {unknown}"))),
    };
    let text = TextParams {
        tokenizer,
        lowercase: wire.lowercase.unwrap_or(default.lowercase),
        min_token_len: wire.min_token_len.map_or(default.min_token_len, |length| length as usize),
        max_token_len: wire.max_token_len.map_or(default.max_token_len, |length| length as usize),
    };
    Ok(FieldSchema { kind: FieldKind::Text, text })
}

/// An index as a collection's info shows it.
pub(crate) fn schema_info(info: &FieldInfo) -> PayloadSchemaInfo {
    let data_type = match info.schema.kind {
        FieldKind::Keyword => PayloadSchemaType::Keyword,
        FieldKind::Integer => PayloadSchemaType::Integer,
        FieldKind::Float => PayloadSchemaType::Float,
        FieldKind::Bool => PayloadSchemaType::Bool,
        FieldKind::Text => PayloadSchemaType::Text,
    };
    let params = (info.schema.kind == FieldKind::Text).then(|| {
        let text = &info.schema.text;
        let default = TextParams::default();
        let tokenizer = match text.tokenizer {
            Tokenizer::Word => TokenizerType::Word,
            Tokenizer::Whitespace => TokenizerType::Whitespace,
            Tokenizer::Prefix => TokenizerType::Prefix,
        };
        let changed = |length: usize, default: usize| (length != default).then_some(length as u64);
        PayloadIndexParams {
            index_params: Some(IndexParams::TextIndexParams(TextIndexParams {
                tokenizer: tokenizer as i32,
                lowercase: Some(text.lowercase),
                min_token_len: changed(text.min_token_len, default.min_token_len),
                max_token_len: changed(text.max_token_len, default.max_token_len),
                ..TextIndexParams::default()
            })),
        }
    });
    PayloadSchemaInfo { data_type: data_type as i32, params, points: Some(info.points as u64) }
}
