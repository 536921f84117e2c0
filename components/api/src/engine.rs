//! What an inference engine is for: said by whoever configures one, whichever engine it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineTask {
    /// Generates text.
    #[default]
    Chat,
    /// Turns text into vectors.
    Embed,
}

/// An OpenAI server's URL, or its path, up to but without `/v1`: people paste the base URL that OpenAI's clients want.
pub fn base_url(endpoint: &str) -> &str {
    let endpoint = endpoint.trim_end_matches('/');
    endpoint.strip_suffix("/v1").unwrap_or(endpoint)
}

impl std::fmt::Display for EngineTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Embed => "embed",
        })
    }
}
