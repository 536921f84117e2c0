//! Whether a server of somebody else's answers. It is asked, and nothing is changed on it.
//!
//! What is said of one that does not is the same whatever the reason, which is in the operator's log: a manifest names any host and
//! port, and whoever writes it learns no more of a network that the operator sees than that something answers there.

use aistack_crds::parts::ClientTlsSpec;
use http::StatusCode;

use crate::kernel::ObjectName;
use crate::kernel::cluster::Cluster;
use crate::outside::{Certificates, Silence};

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It answered as such a server does, if only that we may not come in.
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
    let certificates = match tls {
        None => None,
        Some(tls) => match certificates(cluster, namespace, tls).await {
            Ok(certificates) => Some(certificates),
            Err(why) => return Reached::No(why),
        },
    };
    match cluster.outside.visit(url, certificates.as_ref()).await {
        Ok(answer) => judge(answer.status, url),
        Err(silence) => told(&shown(url), &silence),
    }
}

/// Whether anybody takes a connection at the host and port of a URL. The password that it may carry is not used.
pub(crate) async fn connect(cluster: &Cluster, url: &str, default_port: u16) -> Reached {
    let Some((host, port)) = host_and_port(url, default_port) else {
        return Reached::No("the address names no host".to_owned());
    };
    match cluster.outside.connect(&host, port).await {
        Ok(()) => Reached::Yes,
        Err(silence) => told(&shown(url), &silence),
    }
}

fn told(endpoint: &str, silence: &Silence) -> Reached {
    tracing::info!(endpoint, why = %silence, "a server that a manifest names does not answer");
    Reached::No(match silence {
        // These are of the manifest's own making, and tell of nobody else.
        Silence::NotAdmitted => silence.to_string(),
        Silence::Certificate(why) => format!("TLS: {why}"),
        Silence::Late | Silence::TooLong | Silence::Failed(_) => "it does not answer".to_owned(),
    })
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

fn judge(status: StatusCode, url: &str) -> Reached {
    if status.is_server_error() {
        return Reached::No("it answers that it cannot serve".to_owned());
    }
    if status.is_success() || status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return Reached::Yes;
    }
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    Reached::No(format!(
        "what is there does not answer GET {path} as such a server does; is the address right?"
    ))
}

async fn certificates(
    cluster: &Cluster,
    namespace: &str,
    tls: &ClientTlsSpec,
) -> Result<Certificates, String> {
    let secret = ObjectName::new(namespace, tls.secret_name.as_str());
    let identity = if tls.client_certificate {
        Some((text(cluster, &secret, "tls.crt").await?, text(cluster, &secret, "tls.key").await?))
    } else {
        None
    };
    let authority = text(cluster, &secret, "ca.crt").await?;
    Ok(Certificates { authority, identity, server_name: tls.server_name.clone() })
}

async fn text(cluster: &Cluster, secret: &ObjectName, key: &str) -> Result<String, String> {
    let found = cluster.secret_text(secret, key).await;
    let found = found.map_err(|error| crate::kernel::apply::said(&error))?;
    found.ok_or_else(|| format!("Secret {} has no {key}", secret.name))
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
    fn silence_is_told_in_the_same_words_whatever_its_reason() {
        let silences = [Silence::Late, Silence::TooLong, Silence::Failed("connection refused".to_owned())];
        for silence in silences {
            assert_eq!(told("http://e", &silence), Reached::No("it does not answer".to_owned()));
        }
    }

    #[test]
    fn who_answers_is_there_unless_it_says_that_it_cannot_serve() {
        let table =
            [(200, true), (401, true), (403, true), (302, false), (404, false), (500, false), (503, false)];
        for (code, is_there) in table {
            let status = StatusCode::from_u16(code).expect("a status");
            assert_eq!(judge(status, "http://h:1/v1/models") == Reached::Yes, is_there, "{code}");
        }
        let Reached::No(why) = judge(StatusCode::NOT_FOUND, "http://h:1/v1/models") else { panic!("404") };
        assert_eq!(
            why,
            "what is there does not answer GET /v1/models as such a server does; is the address right?"
        );
    }
}
