//! Payload indexes: `field_schema` in, `payload_schema` out.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::engine::{FieldInfo, FieldKind, FieldSchema, TextParams, Tokenizer};

/// Creates a payload index.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateIndexJson {
    pub(crate) field_name: String,
    pub(crate) field_schema: Option<SchemaJson>,
}

/// `"keyword"`, or an object with the type and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SchemaJson(pub(crate) FieldSchema);

/// Every parameter of Qdrant's index types. Placement hints are taken and change nothing: indexes are kept in memory.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ParamsJson {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "on_disk")]
    _on_disk: Option<bool>,
    #[serde(rename = "memory")]
    _memory: Option<String>,
    #[serde(rename = "enable_hnsw")]
    _enable_hnsw: Option<bool>,
    #[serde(rename = "is_tenant")]
    _is_tenant: Option<bool>,
    #[serde(rename = "is_principal")]
    _is_principal: Option<bool>,
    #[serde(rename = "lookup")]
    _lookup: Option<bool>,
    #[serde(rename = "range")]
    _range: Option<bool>,
    tokenizer: Option<String>,
    lowercase: Option<bool>,
    min_token_len: Option<usize>,
    max_token_len: Option<usize>,
    prefix: Option<bool>,
    nested: Option<String>,
    ascii_folding: Option<bool>,
    phrase_matching: Option<bool>,
    stopwords: Option<Value>,
    stemmer: Option<Value>,
    scoring: Option<Value>,
}

/// The kind of a Qdrant type name, or why there is none.
fn kind(name: &str) -> Result<FieldKind, String> {
    match name {
        "keyword" => Ok(FieldKind::Keyword),
        "integer" => Ok(FieldKind::Integer),
        "float" => Ok(FieldKind::Float),
        "bool" => Ok(FieldKind::Bool),
        "text" => Ok(FieldKind::Text),
        "geo" | "datetime" | "uuid" => Err(format!(
            "indexes of type `{name}` are not supported by VectorForge, which has keyword, integer, float, bool and text"
        )),
        other => Err(format!("unknown index type `{other}`, expected keyword, integer, float, bool or text")),
    }
}

impl ParamsJson {
    fn schema(self) -> Result<FieldSchema, String> {
        let kind = kind(&self.kind)?;
        let asks = |value: &Option<Value>| value.as_ref().is_some_and(|value| *value != Value::Bool(false));
        let refused = [
            ("prefix", self.prefix == Some(true)),
            ("nested", self.nested.is_some()),
            ("ascii_folding", self.ascii_folding == Some(true)),
            ("phrase_matching", self.phrase_matching == Some(true)),
            ("stopwords", asks(&self.stopwords)),
            ("stemmer", asks(&self.stemmer)),
            ("scoring", asks(&self.scoring)),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, asked)| *asked) {
            return Err(format!("index parameter `{name}` is not supported by VectorForge"));
        }
        let default = TextParams::default();
        let tokenizer = match self.tokenizer.as_deref() {
            None | Some("word") => Tokenizer::Word,
            Some("whitespace") => Tokenizer::Whitespace,
            Some("prefix") => Tokenizer::Prefix,
            Some(other) => {
                return Err(format!(
                    "tokenizer `{other}` is not supported by VectorForge, which has word, whitespace and prefix"
                ));
            }
        };
        let text = TextParams {
            tokenizer,
            lowercase: self.lowercase.unwrap_or(default.lowercase),
            min_token_len: self.min_token_len.unwrap_or(default.min_token_len),
            max_token_len: self.max_token_len.unwrap_or(default.max_token_len),
        };
        Ok(FieldSchema { kind, text })
    }
}

impl<'de> Deserialize<'de> for SchemaJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let schema = match Value::deserialize(deserializer)? {
            Value::String(name) => kind(&name).map(FieldSchema::from),
            other => serde_json::from_value::<ParamsJson>(other).map_err(D::Error::custom)?.schema(),
        };
        schema.map(Self).map_err(D::Error::custom)
    }
}

/// An index as a collection's info shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct IndexInfoJson {
    pub(crate) data_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<Value>,
    pub(crate) points: usize,
}

/// Qdrant's name of a kind.
pub(crate) fn kind_name(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Keyword => "keyword",
        FieldKind::Integer => "integer",
        FieldKind::Float => "float",
        FieldKind::Bool => "bool",
        FieldKind::Text => "text",
    }
}

/// Qdrant's name of a tokenizer.
pub(crate) fn tokenizer_name(tokenizer: Tokenizer) -> &'static str {
    match tokenizer {
        Tokenizer::Word => "word",
        Tokenizer::Whitespace => "whitespace",
        Tokenizer::Prefix => "prefix",
    }
}

impl From<&FieldInfo> for IndexInfoJson {
    fn from(info: &FieldInfo) -> Self {
        let schema = &info.schema;
        let params = (schema.kind == FieldKind::Text).then(|| {
            let text = &schema.text;
            let mut params = json!({
                "type": "text",
                "tokenizer": tokenizer_name(text.tokenizer),
                "lowercase": text.lowercase,
            });
            let default = TextParams::default();
            if text.min_token_len != default.min_token_len {
                params["min_token_len"] = text.min_token_len.into();
            }
            if text.max_token_len != default.max_token_len {
                params["max_token_len"] = text.max_token_len.into();
            }
            params
        });
        Self { data_type: kind_name(schema.kind), params, points: info.points }
    }
}
