//! Server-sent events, read piece by piece: a line may be cut anywhere, and nothing is scanned twice.

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event:` line; empty when there was none.
    pub name: String,
    /// The `data:` lines, joined with line breaks.
    pub data: String,
}

/// Reads events out of a stream of pieces.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Reader {
    /// Takes a piece and gives the events that it completed.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = piece;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.take_line(line.strip_suffix(b"\r").unwrap_or(&line)));
        }
        self.line.extend_from_slice(rest);
        events
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_the_stream_is_cut() {
        let stream = ": comment\n\nevent: delta\r\ndata: {\"é\":1}\r\n\r\ndata: a\ndata:b\nid: 7\n\nevent: x\n\ndata: [DONE]\n\ndata: cut";
        for size in 1..12 {
            let mut reader = Reader::default();
            let got: Vec<(String, String)> = stream
                .as_bytes()
                .chunks(size)
                .flat_map(|p| reader.push(p))
                .map(|e| (e.name, e.data))
                .collect();
            let want = [("delta", "{\"é\":1}"), ("", "a\nb"), ("", "[DONE]")];
            // An event without data is none, but its name must not leak into the next one.
            assert_eq!(got, want.map(|(n, d)| (n.to_owned(), d.to_owned())), "pieces of {size}");
        }
    }
}
