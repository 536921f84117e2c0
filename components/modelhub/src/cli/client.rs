//! The server as the command line sees it.

use std::fmt::Write;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::rag::{check_name, check_path};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL.
    #[error("--url {url} cannot be used: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Nobody answers.
    #[error(
        "no server answers at {url}: {reason}\n  start one with  aistack up  or  modelhub serve,  or name another with  --url"
    )]
    Connect {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The connection failed in the middle.
    #[error("the connection to {url} broke off: {reason}")]
    BrokeOff {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server refused; its own sentence.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Name of the kind of failure.
        code: String,
        /// The sentence.
        message: String,
    },
    /// What would be another address than the one that was meant.
    #[error("{0}")]
    Name(String),
    /// A reply of another shape.
    #[error("{url} answered something else than ModelHub does: {reason}")]
    Shape {
        /// Where.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl ClientError {
    /// Whether the server refused with this code.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

/// A connection to a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HubClient {
    client: reqwest::Client,
    base: String,
    key: Option<String>,
}

impl HubClient {
    /// Prepares calls to a server.
    pub fn new(url: &str, key: Option<&str>) -> Result<Self, ClientError> {
        let wrong = |reason: String| ClientError::Url { url: url.to_owned(), reason };
        let parsed: http::Uri = url.parse().map_err(|e: http::uri::InvalidUri| wrong(e.to_string()))?;
        if parsed.scheme().is_none() || parsed.host().is_none() {
            return Err(wrong("give a scheme and a host, such as http://127.0.0.1:8080".to_owned()));
        }
        let client =
            reqwest::Client::builder().tcp_nodelay(true).build().map_err(|e| wrong(crate::innermost(&e)))?;
        Ok(Self { client, base: url.trim_end_matches('/').to_owned(), key: key.map(str::to_owned) })
    }

    /// The server's URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request that is not sent yet; each part of `path` that comes from a user went through [`name_segment`], [`file_segments`] or [`encode`].
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request; an error status becomes the server's own sentence.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let response = request.send().await.map_err(|e| {
            let (url, reason) = (self.base.clone(), crate::innermost(&e));
            if e.is_connect() {
                ClientError::Connect { url, reason }
            } else {
                ClientError::BrokeOff { url, reason }
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(refused(status, &body))
    }

    /// The whole body of a reply.
    pub async fn body(&self, response: reqwest::Response) -> Result<Bytes, ClientError> {
        response.bytes().await.map_err(|e| self.broke_off(&e))
    }

    /// A reply that broke off.
    pub fn broke_off(&self, error: &reqwest::Error) -> ClientError {
        ClientError::BrokeOff { url: self.base.clone(), reason: crate::innermost(error) }
    }

    /// A JSON reply.
    pub async fn json<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let body = self.body(response).await?;
        serde_json::from_slice(&body)
            .map_err(|e| ClientError::Shape { url: self.base.clone(), reason: e.to_string() })
    }

    /// GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, path)).await
    }

    /// POST of a JSON body.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// PUT of a JSON body.
    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        if_match: Option<i64>,
    ) -> Result<T, ClientError> {
        let request = self.request(Method::PUT, path).json(body);
        let request = match if_match {
            Some(revision) => request.header(http::header::IF_MATCH, format!("\"{revision}\"")),
            None => request,
        };
        self.json(request).await
    }

    /// DELETE.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(self.request(Method::DELETE, path)).await
    }
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let parsed: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &parsed["error"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let message = text(&error["message"]).or_else(|| text(error));
    let message = message
        .unwrap_or_else(|| format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(300)])));
    ClientError::Refused { status, code: text(&error["code"]).unwrap_or_default(), message }
}

/// A name as one segment of a path, by the server's own rule: nothing that could lead to another noun is sent.
pub fn name_segment(name: &str) -> Result<String, ClientError> {
    check_name(name).map_err(|refused| ClientError::Name(refused.message))?;
    Ok(encode(name))
}

/// A file's path as segments of a path, by the server's own rule.
pub fn file_segments(path: &str) -> Result<String, ClientError> {
    check_path(path).map_err(|refused| ClientError::Name(refused.message))?;
    Ok(path.split('/').map(encode).collect::<Vec<_>>().join("/"))
}

/// Text percent-encoded, for a segment or a value of a query.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_sentence_is_shown() {
        let body = br#"{"error":{"message":"there is no rag x","code":"rag_not_found"}}"#;
        let error = refused(StatusCode::NOT_FOUND, body);
        assert_eq!(error.to_string(), "there is no rag x");
        assert!(error.is("rag_not_found"));
        assert_eq!(refused(StatusCode::BAD_GATEWAY, b"<html>").to_string(), "502 Bad Gateway: <html>");
    }

    #[test]
    fn paths_are_encoded_part_by_part() {
        assert_eq!(file_segments("people/a b?.md").expect("a path"), "people/a%20b%3F.md");
        assert_eq!(file_segments("é/x").expect("a path"), "%C3%A9/x");
        assert_eq!(encode("/a/b"), "%2Fa%2Fb");
        for path in ["", "../a", "a/../../b", "a/./b", "/a"] {
            let error = file_segments(path).expect_err(path).to_string();
            assert!(error.contains("cannot be a file's path"), "{path}: {error}");
        }
    }

    #[test]
    fn a_name_that_leads_to_another_noun_is_refused_with_the_servers_sentence() {
        assert_eq!(name_segment("a.b-c_1").expect("a name"), "a.b-c_1");
        for name in ["", ".", "..", "../models/victim", "a/b", "a?b", "a#b", "%2e%2e", "a b"] {
            let error = name_segment(name).expect_err(name).to_string();
            assert_eq!(error, check_name(name).expect_err(name).message);
            assert!(error.contains("cannot be a name"), "{name}: {error}");
        }
    }
}
