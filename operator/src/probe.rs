//! Whether a server of somebody else's answers. It is asked, and nothing is changed on it.

use std::time::Duration;

use aistack_crds::parts::ClientTlsSpec;
use reqwest::StatusCode;

use crate::kernel::ObjectName;
use crate::kernel::cluster::Cluster;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It answered, if only that we may not come in.
    Yes,
    /// It did not, or said that it cannot serve.
    No(String),
}

/// Asks for a page. An answer that a key is wanted is an answer: keys are not ours to use.
pub(crate) async fn http(
    cluster: &Cluster,
    namespace: &str,
    url: &str,
    tls: Option<&ClientTlsSpec>,
) -> Reached {
    let mut builder = reqwest::Client::builder().timeout(PATIENCE);
    if let Some(tls) = tls {
        match authority(cluster, namespace, &tls.secret_name).await {
            Ok(authority) => builder = builder.tls_certs_only([authority]),
            Err(why) => return Reached::No(why),
        }
    }
    let client = match builder.build() {
        Ok(client) => client,
        Err(error) => return Reached::No(aistack_api::cause::innermost(&error)),
    };
    match client.get(url).send().await {
        Ok(answer) => judge(answer.status()),
        Err(error) if error.is_timeout() => Reached::No(format!("no answer in {} s", PATIENCE.as_secs())),
        Err(error) => Reached::No(aistack_api::cause::innermost(&error)),
    }
}

/// Whether anybody takes a connection at the host and port of a URL. The password that it may carry is not used.
pub(crate) async fn connect(url: &str, default_port: u16) -> Reached {
    let Some((host, port)) = host_and_port(url, default_port) else {
        return Reached::No("the address names no host".to_owned());
    };
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => Reached::Yes,
        Ok(Err(error)) => Reached::No(aistack_api::cause::innermost(&error)),
        Err(_) => Reached::No(format!("no answer in {} s", PATIENCE.as_secs())),
    }
}

fn authority_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

fn host_and_port(url: &str, default_port: u16) -> Option<(String, u16)> {
    let authority = authority_of(url);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) => {
            (host, port.parse().ok()?)
        }
        _ => (authority, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// A URL without what may be secret in it.
pub(crate) fn shown(url: &str) -> String {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    format!("{scheme}://{}", authority_of(url))
}

fn judge(status: StatusCode) -> Reached {
    if status.is_server_error() { Reached::No(format!("it answers {status}")) } else { Reached::Yes }
}

async fn authority(cluster: &Cluster, namespace: &str, name: &str) -> Result<reqwest::Certificate, String> {
    let secret = ObjectName::new(namespace, name);
    let pem = cluster.secret_text(&secret, "ca.crt").await;
    let pem = pem.map_err(|error| crate::kernel::apply::said(&error))?;
    let pem = pem.ok_or_else(|| format!("Secret {name} has no ca.crt"))?;
    reqwest::Certificate::from_pem(pem.as_bytes())
        .map_err(|error| format!("ca.crt of Secret {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_off_urls_and_passwords_are_not_shown() {
        let table = [
            ("postgres://db.example.com:5433/platform", Some(("db.example.com", 5433))),
            ("postgres://user:secret@db/platform", Some(("db", 5432))),
            ("postgres://[::1]:7/x", Some(("::1", 7))),
            ("postgres:///x", None),
        ];
        for (url, expected) in table {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_and_port(url, 5432), expected, "{url}");
        }
        assert_eq!(shown("postgres://user:secret@db:1/platform"), "postgres://db:1");
    }

    #[test]
    fn who_answers_is_there_unless_it_says_that_it_cannot_serve() {
        let table = [(200, true), (401, true), (404, true), (500, false), (503, false)];
        for (code, is_there) in table {
            let status = StatusCode::from_u16(code).expect("a status");
            assert_eq!(judge(status) == Reached::Yes, is_there, "{code}");
        }
    }
}
