//! Who may use what is served over plain HTTP: by the name a server is called by, the page that asks, and the certificate.
//! What refuses does so in etcd's words.

use super::Encrypted;
use crate::node::Node;
use aistack_chassis::ClientName;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// Lets a request pass to what plain HTTP serves, or refuses it.
pub async fn visitors(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return next.run(request).await;
    }
    let http = &node.config.http;
    if request.extensions().get::<Encrypted>().is_none() {
        let host = host_of(&request);
        if !allows(&http.allowed_hosts, host) {
            tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
            return (StatusCode::MISDIRECTED_REQUEST, unrecognized(host)).into_response();
        }
    } else if node.config.auth.certificate_names
        && node.shared.guarded()
        && request.uri().path().starts_with("/v3")
        && request.extensions().get::<ClientName>().is_some_and(|name| !name.0.is_empty())
    {
        let text = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let origin = match request.headers().get(header::ORIGIN) {
        _ if allows(&http.cors_origins, "*") => Some(HeaderValue::from_static("*")),
        Some(origin) if origin.to_str().is_ok_and(|it| allows(&http.cors_origins, it)) => {
            Some(origin.clone())
        }
        _ => None,
    };
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::OK.into_response(),
        _ => next.run(request).await,
    };
    if let Some(origin) = origin {
        allow(response.headers_mut(), origin);
    }
    response
}

fn allows(list: &[String], one: &str) -> bool {
    list.is_empty() || list.iter().any(|allowed| allowed == "*" || allowed == one)
}

/// By which name the server is called, without a port.
fn host_of(request: &Request) -> &str {
    let named = request.uri().host();
    let host = named.or_else(|| request.headers().get(header::HOST)?.to_str().ok()).unwrap_or_default();
    let bare = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => host,
        _ => host,
    };
    bare.trim_start_matches('[').trim_end_matches(']')
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    const METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE";
    const HEADERS: &str = "accept, content-type, authorization";
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
}

fn unrecognized(host: &str) -> String {
    format!(
        "tinykv received the request, but does not go by the name in its Host header.\n\nEither is a way out:\n\
         - call it over TLS, where every name will do;\n\
         - add the name to those that it goes by, such as: --host-whitelist {host:?}\n\n\
         That keeps web pages from reaching it by a name of their own (\"DNS rebinding\", CVE-2018-5702).\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn a_host_is_a_name_without_its_port() {
        for (header, expected) in [
            ("a.example:2379", "a.example"),
            ("a.example", "a.example"),
            ("[::1]:1", "::1"),
            ("10.0.0.1:80", "10.0.0.1"),
        ] {
            let request =
                Request::builder().header(header::HOST, header).body(Body::empty()).expect("a request");
            assert_eq!(host_of(&request), expected);
        }
    }

    #[test]
    fn an_empty_list_and_a_star_allow_all() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert!(allows(&[], "a") && allows(&list(&["*"]), "a") && allows(&list(&["b", "a"]), "a"));
        assert!(!allows(&list(&["b"]), "a") && !allows(&list(&["b"]), "*"));
    }
}
