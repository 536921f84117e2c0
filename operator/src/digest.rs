//! A digest that is part of a name, or stands for a text.

use sha2::{Digest as _, Sha256};

/// The first `bytes` of a text's SHA-256, in hex.
pub(crate) fn digest(text: &str, bytes: usize) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..bytes])
}
