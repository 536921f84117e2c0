//! The bytes that each token stands for.
//!
//! A character can be cut between tokens, so a reply's text is put together from bytes, and only whole characters are
//! shown. Byte-level vocabularies (GPT-2's and its heirs') spell each byte as a printable character; SentencePiece's
//! spell a space as `▁` and lone bytes as `<0xE2>`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// The text of every token of a vocabulary. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TokenTexts {
    entries: Arc<[Entry]>,
    longest: usize,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    bytes: Box<[u8]>,
    special: bool,
}

impl TokenTexts {
    /// Of a tokenizer with `vocab` tokens.
    pub fn of(tokenizer: &Tokenizer, vocab: usize) -> Self {
        let spelled =
            (0..vocab as u32).map(|id| (tokenizer.token(id).unwrap_or_default(), tokenizer.is_special(id)));
        Self::from_spellings(spelled.collect())
    }

    /// From each token's spelling, and whether it is a special one.
    pub(super) fn from_spellings(spelled: Vec<(String, bool)>) -> Self {
        let alphabet = byte_alphabet();
        let in_alphabet = |text: &str| text.chars().all(|c| alphabet.contains_key(&c));
        // One plain token outside of the alphabet can be an added one; a whole vocabulary of them is another kind.
        let plain = spelled.iter().filter(|(_, special)| !special);
        let outside = plain.clone().filter(|(text, _)| !in_alphabet(text)).count();
        let byte_level = outside * 100 <= plain.count();
        let bytes_of = |text: &str| -> Vec<u8> {
            if byte_level && in_alphabet(text) {
                text.chars().map(|c| alphabet[&c]).collect()
            } else if byte_level {
                text.as_bytes().to_vec()
            } else {
                sentence_piece(text)
            }
        };
        let entry = |(text, special): (String, bool)| {
            let bytes = if special { text.into_bytes() } else { bytes_of(&text) };
            Entry { bytes: bytes.into_boxed_slice(), special }
        };
        let entries: Arc<[Entry]> = spelled.into_iter().map(entry).collect();
        let longest = entries.iter().map(|entry| entry.bytes.len()).max().unwrap_or(0);
        Self { entries, longest }
    }

    /// A token's bytes; none for an id outside of the vocabulary.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.entries.get(token as usize).map_or(&[], |entry| &entry.bytes)
    }

    /// Bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Whether it is a special token.
    pub fn is_special(&self, token: u32) -> bool {
        self.entries.get(token as usize).is_some_and(|entry| entry.special)
    }
}

fn sentence_piece(text: &str) -> Vec<u8> {
    let byte = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('▁', " ").into_bytes(),
    }
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for the characters from U+0100 on, in order.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut alphabet = HashMap::with_capacity(256);
    for byte in 0..=255u8 {
        let spelled = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        };
        alphabet.insert(spelled, byte);
    }
    alphabet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(spellings: &[(&str, bool)]) -> TokenTexts {
        TokenTexts::from_spellings(
            spellings.iter().map(|&(text, special)| (text.to_owned(), special)).collect(),
        )
    }

    #[test]
    fn byte_level_spellings_become_their_bytes() {
        let texts =
            texts(&[("Ġthe", false), ("Ċ", false), ("ðŁĺ", false), ("<|im_end|>", true), ("!", false)]);
        let expected: &[&[u8]] = &[b" the", b"\n", b"\xf0\x9f\x98", b"<|im_end|>", b"!"];
        for (token, bytes) in expected.iter().enumerate() {
            assert_eq!(texts.bytes(token as u32), *bytes);
        }
        assert!(texts.is_special(3) && !texts.is_special(0));
        assert_eq!((texts.bytes(99), texts.is_special(99)), (&[][..], false));
    }

    #[test]
    fn sentence_piece_spellings_become_their_bytes() {
        let texts = texts(&[("▁the", false), ("<0xE2>", false), ("</s>", true), ("日本", false)]);
        let expected: &[&[u8]] = &[b" the", b"\xe2", b"</s>", "日本".as_bytes()];
        for (token, bytes) in expected.iter().enumerate() {
            assert_eq!(texts.bytes(token as u32), *bytes);
        }
    }

    #[test]
    fn the_alphabet_has_every_byte_once() {
        let mut bytes: Vec<u8> = byte_alphabet().into_values().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_alphabet()[&'Ġ'], b' ');
    }
}
