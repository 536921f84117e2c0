//! Reads token counts out of a reply that passes by, without parsing it and without holding it back.

/// Bytes kept from the end of what went by: a usage object is far shorter.
const TAIL: usize = 768;

/// Tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read.
    pub prompt: u64,
    /// Tokens written.
    pub completion: u64,
    /// False when the engine did not say and the counts are estimates.
    pub reported: bool,
}

/// Watches a reply.
#[derive(Debug, Default)]
pub struct Meter {
    tail: Vec<u8>,
    events: u64,
}

impl Meter {
    /// Takes note of a piece of the reply.
    pub fn see(&mut self, piece: &[u8], stream: bool) {
        if stream {
            self.events += memchr::memmem::find_iter(piece, b"data:").count() as u64;
        }
        if piece.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&piece[piece.len() - TAIL..]);
            return;
        }
        let over = (self.tail.len() + piece.len()).saturating_sub(TAIL);
        self.tail.drain(..over.min(self.tail.len()));
        self.tail.extend_from_slice(piece);
    }

    /// The tokens of the reply, once it is over. `request_bytes` serves for an estimate (four bytes a token, one event a token)
    /// when the engine reports nothing, as it does for streams without `stream_options.include_usage` or cut short.
    pub fn usage(&self, request_bytes: usize) -> Usage {
        if let Some(at) = memchr::memmem::rfind(&self.tail, b"\"usage\"") {
            let object = &self.tail[at..];
            let prompt = field(object, b"\"prompt_tokens\"");
            let completion = field(object, b"\"completion_tokens\"");
            if prompt.is_some() || completion.is_some() {
                let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
                return Usage { prompt, completion, reported: true };
            }
        }
        Usage { prompt: request_bytes as u64 / 4, completion: self.events.saturating_sub(1), reported: false }
    }
}

fn field(object: &[u8], name: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(object, name)? + name.len();
    let digits: Vec<u8> = object[at..]
        .iter()
        .copied()
        .skip_while(|b| matches!(b, b':' | b' ' | b'\n' | b'\t'))
        .take_while(u8::is_ascii_digit)
        .collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_found_however_the_reply_is_cut() {
        let filler = "x".repeat(3_000);
        let json = format!(
            r#"{{"choices":[{{"text":"{filler}"}}],"usage":{{"prompt_tokens": 12,"completion_tokens":34}}}}"#
        );
        let sse = "data: {\"a\":1}\n\ndata: {\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"total_tokens\":46,\"completion_tokens\":34}}\n\ndata: [DONE]\n\n";
        for (reply, stream) in [(json.as_str(), false), (sse, true)] {
            for size in [1, 7, 100, 5_000] {
                let mut meter = Meter::default();
                reply.as_bytes().chunks(size).for_each(|piece| meter.see(piece, stream));
                assert_eq!(
                    meter.usage(0),
                    Usage { prompt: 12, completion: 34, reported: true },
                    "pieces of {size}"
                );
            }
        }
    }

    #[test]
    fn without_a_report_it_is_estimated() {
        let mut meter = Meter::default();
        meter.see(b"data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", true);
        assert_eq!(meter.usage(400), Usage { prompt: 100, completion: 2, reported: false });
    }
}
