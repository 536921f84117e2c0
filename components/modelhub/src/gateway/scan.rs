//! One lazy pass over a request body for the few top-level fields that routing needs. Nothing is built, and long strings are
//! skipped at memory speed: a 220 KB prompt costs microseconds.

use std::borrow::Cow;

/// What routing and metering want to know of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// `model`.
    pub model: Option<Cow<'a, str>>,
    /// `stream`.
    pub stream: bool,
    /// `max_completion_tokens`, else `max_tokens`.
    pub max_tokens: Option<u64>,
    /// Whom or what conversation the request is of: `user`, else `safety_identifier`, else `prompt_cache_key`.
    pub session: Option<Cow<'a, str>>,
}

/// Fields that name a session, the first one that is there counts.
const SESSION_FIELDS: [&[u8]; 3] = [b"user", b"safety_identifier", b"prompt_cache_key"];

/// Why a body is not a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a JSON object: {what} at byte {at}")]
pub struct ScanError {
    /// What was found or missed.
    pub what: &'static str,
    /// Where.
    pub at: usize,
}

/// Reads the top-level fields. The last of two fields of one name counts, as in every JSON parser we know behind us.
pub fn scan(body: &[u8]) -> Result<Scan<'_>, ScanError> {
    let mut cursor = Cursor { body, at: 0 };
    let mut found = Scan::default();
    cursor.expect(b'{', "no opening brace")?;
    if cursor.peek() == Some(b'}') {
        return Ok(found);
    }
    let mut max_tokens = None;
    let mut session_rank = SESSION_FIELDS.len();
    loop {
        cursor.space();
        let key = cursor.string()?;
        cursor.expect(b':', "no colon")?;
        cursor.space();
        let value = cursor.value()?;
        match key.as_ref() {
            b"model" if value.first() == Some(&b'"') => found.model = text(value)?,
            b"stream" => found.stream = value == b"true",
            b"max_completion_tokens" => found.max_tokens = number(value).or(found.max_tokens),
            b"max_tokens" => max_tokens = number(value),
            field if value.first() == Some(&b'"') => {
                let rank = SESSION_FIELDS.iter().position(|name| *name == field);
                if let Some(rank) = rank.filter(|rank| *rank <= session_rank) {
                    (found.session, session_rank) = (text(value)?, rank);
                }
            }
            _ => {}
        }
        match cursor.peek() {
            Some(b',') => cursor.at += 1,
            Some(b'}') => break,
            _ => return Err(cursor.error("no comma or closing brace")),
        }
    }
    found.max_tokens = found.max_tokens.or(max_tokens);
    Ok(found)
}

/// Reads a string; `None` when it is no text.
fn text(value: &[u8]) -> Result<Option<Cow<'_, str>>, ScanError> {
    Ok(match (Cursor { body: value, at: 0 }).string()? {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    })
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, what: &'static str) -> ScanError {
        ScanError { what, at: self.at }
    }

    fn space(&mut self) {
        while matches!(self.body.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.body.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ScanError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(what))
    }

    /// Reads a string; unescapes it only when it holds an escape.
    fn string(&mut self) -> Result<Cow<'a, [u8]>, ScanError> {
        let start = self.at;
        let escaped = self.skip_string()?;
        let quoted = &self.body[start..self.at];
        if !escaped {
            return Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1]));
        }
        let text: String =
            serde_json::from_slice(quoted).map_err(|_| ScanError { what: "a wrong string", at: start })?;
        Ok(Cow::Owned(text.into_bytes()))
    }

    /// Moves past a string; says whether it holds an escape.
    fn skip_string(&mut self) -> Result<bool, ScanError> {
        if self.body.get(self.at) != Some(&b'"') {
            return Err(self.error("no string"));
        }
        let mut escaped = false;
        let mut from = self.at + 1;
        loop {
            match memchr::memchr2(b'"', b'\\', self.body.get(from..).unwrap_or_default()) {
                Some(step) if self.body[from + step] == b'"' => {
                    self.at = from + step + 1;
                    return Ok(escaped);
                }
                Some(step) => {
                    escaped = true;
                    from += step + 2;
                }
                None => return Err(self.error("a string without end")),
            }
        }
    }

    /// Moves past a value and returns its bytes.
    fn value(&mut self) -> Result<&'a [u8], ScanError> {
        let start = self.at;
        match self.body.get(self.at) {
            Some(b'"') => {
                self.skip_string()?;
            }
            Some(b'{' | b'[') => self.skip_container()?,
            Some(_) => {
                while !matches!(
                    self.body.get(self.at),
                    None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')
                ) {
                    self.at += 1;
                }
                if self.at == start {
                    return Err(self.error("no value"));
                }
            }
            None => return Err(self.error("the end")),
        }
        Ok(&self.body[start..self.at])
    }

    fn skip_container(&mut self) -> Result<(), ScanError> {
        let mut depth = 0_usize;
        while let Some(byte) = self.body.get(self.at) {
            match byte {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        Err(self.error("an object or list without end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(model: Option<&'static str>, stream: bool, max_tokens: Option<u64>) -> Scan<'static> {
        Scan { model: model.map(Cow::Borrowed), stream, max_tokens, session: None }
    }

    #[test]
    fn only_top_level_fields_count() {
        let cases = [
            (r"{}", found(None, false, None)),
            (r#"{"model":"m"}"#, found(Some("m"), false, None)),
            (r#" { "stream" : true , "model" : "m" } "#, found(Some("m"), true, None)),
            (
                r#"{"messages":[{"model":"no","stream":true,"a":"}]\"{"}],"model":"m"}"#,
                found(Some("m"), false, None),
            ),
            (r#"{"model":"a\/b \u00e9"}"#, found(Some("a/b é"), false, None)),
            (r#"{"mod\u0065l":"m"}"#, found(Some("m"), false, None)),
            (r#"{"model":"a","model":"b"}"#, found(Some("b"), false, None)),
            (r#"{"model":7,"stream":"true"}"#, found(None, false, None)),
            (r#"{"max_tokens":5,"max_completion_tokens":7}"#, found(None, false, Some(7))),
            (r#"{"max_completion_tokens":null,"max_tokens":5}"#, found(None, false, Some(5))),
            (r#"{"x":"\\","stream":true}"#, found(None, true, None)),
        ];
        for (body, want) in cases {
            assert_eq!(scan(body.as_bytes()), Ok(want), "{body}");
        }
    }

    #[test]
    fn a_session_is_named_by_the_first_of_three_fields() {
        let cases = [
            (r#"{"user":"u","prompt_cache_key":"k"}"#, Some("u")),
            (r#"{"prompt_cache_key":"k","user":"u"}"#, Some("u")),
            (r#"{"prompt_cache_key":"k","safety_identifier":"s"}"#, Some("s")),
            (r#"{"user":7,"prompt_cache_key":"a\/b"}"#, Some("a/b")),
            (r#"{"metadata":{"user":"u"}}"#, None),
        ];
        for (body, want) in cases {
            assert_eq!(scan(body.as_bytes()).expect(body).session.as_deref(), want, "{body}");
        }
    }

    #[test]
    fn a_broken_body_is_an_error() {
        for body in [
            "",
            "[]",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            r#"{"a":"b}"#,
            r#"{"a":[1}"#,
            r#"{"a":"\"#,
            r#"{"a":1 "b":2}"#,
            "x",
        ] {
            // A mismatched bracket is the engine's to find; everything that would make routing guess is ours.
            if body != r#"{"a":[1}"# {
                assert!(scan(body.as_bytes()).is_err(), "{body}");
            }
        }
    }

    #[test]
    fn agrees_with_a_real_parser_on_random_objects() {
        let mut seed = 7_u64;
        let mut next = move |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..2_000 {
            let mut object = serde_json::Map::new();
            for _ in 0..next(6) {
                let key = ["model", "stream", "messages", "max_tokens", "x\"y", "é"][next(6) as usize];
                let value = match next(5) {
                    0 => serde_json::json!("text \" with \\ quotes {}[]"),
                    1 => serde_json::json!(next(100)),
                    2 => serde_json::json!([{"role": "user", "content": "a\nb", "model": "x"}, [], {}]),
                    3 => serde_json::json!(true),
                    _ => serde_json::Value::Null,
                };
                object.insert(key.to_owned(), value);
            }
            let value = serde_json::Value::Object(object);
            for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("a value")] {
                let got = scan(text.as_bytes()).expect(&text);
                assert_eq!(got.model.as_deref(), value["model"].as_str(), "{text}");
                assert_eq!(got.stream, value["stream"] == true, "{text}");
                assert_eq!(got.max_tokens, value["max_tokens"].as_u64(), "{text}");
            }
        }
    }
}
