//! One choice's text as its client may see it: whole characters, nothing of a stop string, tokens beside their text.

use std::collections::VecDeque;

use super::{StopRules, TokenRecord};
use crate::sampling::{StopMatcher, TokenLogprobs};

/// Puts tokens together to text.
#[derive(Debug)]
pub struct ReplyText {
    matcher: StopMatcher,
    strings: Vec<String>,
    /// Bytes that are no whole character yet.
    cut: Vec<u8>,
    /// Bytes of text so far, shown or held.
    len: usize,
    /// Bytes of text shown.
    shown: usize,
    /// Tokens whose text is not shown yet.
    pending: VecDeque<TokenRecord>,
}

/// What a token added.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    /// Text to show.
    pub text: String,
    /// Tokens to report with it.
    pub tokens: Vec<TokenRecord>,
    /// The stop string that was found: the reply ends here.
    pub stopped_by: Option<String>,
}

impl ReplyText {
    /// An empty reply.
    pub fn new(stop: &StopRules) -> Self {
        Self {
            matcher: StopMatcher::new(stop.strings.clone(), stop.keep),
            strings: stop.strings.clone(),
            cut: Vec::new(),
            len: 0,
            shown: 0,
            pending: VecDeque::new(),
        }
    }

    /// Adds a token that stands for `bytes`.
    pub fn push(&mut self, token: u32, bytes: &[u8], logprobs: Option<TokenLogprobs>) -> Piece {
        self.pending.push_back(TokenRecord { token, logprobs, offset: self.len });
        self.cut.extend_from_slice(bytes);
        let text = take_whole_characters(&mut self.cut);
        self.len += text.len();
        let step = self.matcher.push(&text);
        self.shown += step.text.len();
        let stopped_by = step.by.map(|by| self.strings[by].clone());
        if stopped_by.is_some() {
            // What is left began inside of the stop string or after it.
            let shown = self.shown;
            self.pending.retain(|record| record.offset < shown);
        }
        Piece { tokens: self.due(), text: step.text, stopped_by }
    }

    /// Ends the reply: shows what was held for a stop string. Bytes that never became a character are dropped.
    pub fn finish(&mut self) -> Piece {
        let text = self.matcher.finish();
        self.shown += text.len();
        Piece { text, tokens: self.pending.drain(..).collect(), stopped_by: None }
    }

    /// Tokens whose text is shown.
    fn due(&mut self) -> Vec<TokenRecord> {
        let shown = self.shown;
        let count = self.pending.iter().take_while(|record| record.offset < shown).count();
        self.pending.drain(..count).collect()
    }
}

/// Takes the characters that are whole off the front of `bytes`. Bytes that can never be one become U+FFFD, as any
/// decoder shows them; up to three that still may stay.
fn take_whole_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest: &[u8] = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(whole) => {
                text.push_str(whole);
                rest = &[];
                break;
            }
            Err(error) => {
                let (whole, broken) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(whole).expect("valid up to here"));
                let Some(len) = error.error_len() else {
                    rest = broken;
                    break;
                };
                text.push('\u{fffd}');
                rest = &broken[len..];
            }
        }
    }
    *bytes = rest.to_vec();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(stops: &[&str], tokens: &[&[u8]]) -> Vec<String> {
        let rules =
            StopRules { strings: stops.iter().map(|s| (*s).to_owned()).collect(), ..StopRules::default() };
        let mut reply = ReplyText::new(&rules);
        let mut log = Vec::new();
        let mut show = |piece: &Piece| {
            let tokens: Vec<String> =
                piece.tokens.iter().map(|t| format!("{}@{}", t.token, t.offset)).collect();
            log.push(format!("'{}' {}", piece.text, tokens.join(" ")));
        };
        for (token, bytes) in tokens.iter().enumerate() {
            let piece = reply.push(token as u32, bytes, None);
            show(&piece);
            if piece.stopped_by.is_some() {
                return log;
            }
        }
        show(&reply.finish());
        log
    }

    #[test]
    fn a_character_cut_between_tokens_is_shown_whole() {
        let astronaut = "👩‍🚀".as_bytes();
        let log = story(&[], &[b"a", &astronaut[..2], &astronaut[2..5], &astronaut[5..], b"b"]);
        assert_eq!(log, ["'a' 0@0", "'' ", "'👩' 1@1 2@1", "'\u{200d}🚀' 3@5", "'b' 4@12", "'' "]);
    }

    #[test]
    fn bytes_that_are_no_character_are_replaced_or_dropped() {
        assert_eq!(story(&[], &[b"a\xff", b"b"]), ["'a\u{fffd}' 0@0", "'b' 1@4", "'' "]);
        assert_eq!(story(&[], &[b"a", b"\xf0\x9f"]), ["'a' 0@0", "'' ", "'' 1@1"], "a cut end is not shown");
        assert_eq!(story(&[], &[b"\xf0\x9f", b"x"]), ["'' ", "'\u{fffd}x' 0@0 1@0", "'' "]);
    }

    #[test]
    fn tokens_of_a_stop_string_are_not_reported() {
        assert_eq!(story(&["END"], &[b"one ", b"E", b"ND", b"x"]), ["'one ' 0@0", "'' ", "'' "]);
        assert_eq!(story(&["END"], &[b"one E", b"ND"]), ["'one ' 0@0", "'' "]);
        assert_eq!(story(&["END"], &[b"E", b"N", b"X"]), ["'' ", "'' ", "'ENX' 0@0 1@1 2@2", "'' "]);
        assert_eq!(story(&["END"], &[b"E", b"N"]), ["'' ", "'' ", "'EN' 0@0 1@1"]);
    }
}
