//! Settings that every server shares: admin port, TLS, API keys, limits, telemetry.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The part of a component's configuration that the chassis acts on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the admin port: `/metrics`, `/healthz`, `/readyz`.
    pub admin_listen: SocketAddr,
    /// TLS for the client-facing listeners. Absent: plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// API keys for the client-facing listeners. Absent: no key is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthConfig>,
    /// Limits of every client-facing listener.
    #[serde(default)]
    pub limits: Limits,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

impl ServerConfig {
    /// Defaults around a given admin address.
    pub fn with_admin(admin_listen: SocketAddr) -> Self {
        Self {
            admin_listen,
            tls: None,
            auth: None,
            limits: Limits::default(),
            telemetry: TelemetryConfig::default(),
        }
    }

    /// Checks the values that serde cannot.
    pub fn validate(&self) -> Result<(), ServerConfigError> {
        let limits = &self.limits;
        let positive = [
            ("server.limits.max_body_bytes", limits.max_body_bytes),
            ("server.limits.max_connections", limits.max_connections),
            ("server.limits.max_concurrent_requests", limits.max_concurrent_requests),
            ("server.limits.max_header_bytes", limits.max_header_bytes),
        ];
        for (field, value) in positive {
            if value == 0 {
                return Err(ServerConfigError::Zero { field });
            }
        }
        if limits.header_timeout_ms == 0 {
            return Err(ServerConfigError::Zero { field: "server.limits.header_timeout_ms" });
        }
        if self.telemetry.otlp_file_max_mib == 0 {
            return Err(ServerConfigError::Zero { field: "server.telemetry.otlp_file_max_mib" });
        }
        if self.tls.as_ref().is_some_and(|tls| tls.client_crl_file.is_some() && tls.client_ca_file.is_none())
        {
            return Err(ServerConfigError::RevokedByNobody);
        }
        if let Some(tls) = &self.tls {
            tls.validate()?;
        }
        let ratio = self.telemetry.sample_ratio;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(ServerConfigError::SampleRatio { ratio });
        }
        Ok(())
    }
}

/// What is wrong with a [`ServerConfig`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ServerConfigError {
    /// A limit of zero would refuse everything.
    #[error("{field} is 0, which would refuse everything; leave it out for the default")]
    Zero {
        /// Path of the field.
        field: &'static str,
    },
    /// Lists of revoked certificates, where none is shown.
    #[error(
        "server.tls.client_crl_file revokes certificates that nobody is asked for; name their CA: server.tls.client_ca_file"
    )]
    RevokedByNobody,
    /// Names of clients' certificates, where none is shown.
    #[error(
        "server.tls.allowed_client_hosts names hosts for certificates that nobody is asked for; name their CA: server.tls.client_ca_file"
    )]
    AllowedByNobody,
    /// No version of TLS is left.
    #[error("server.tls.min_version is 1.3 and max_version 1.2, so that no version is left")]
    NoTlsVersion,
    /// Cipher suites of a version that is not spoken.
    #[error("server.tls.cipher_suites names those of TLS 1.2, which server.tls.min_version leaves out")]
    NoSuites,
    /// The sampling ratio is no probability.
    #[error("server.telemetry.sample_ratio is {ratio}; it is a share from 0.0 to 1.0")]
    SampleRatio {
        /// The value given.
        ratio: f64,
    },
}

/// Server-side TLS, and client certificates when a CA is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the server's certificate chain.
    pub cert_file: PathBuf,
    /// PEM file with the server's private key.
    pub key_file: PathBuf,
    /// PEM file with the CAs that client certificates must chain to. Absent: clients show none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
    /// File (PEM or DER) of the lists of revoked client certificates, signed by their CAs. Certificates of a CA that has no list
    /// in it are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_crl_file: Option<PathBuf>,
    /// Cipher suites of TLS 1.2 that clients may use, by IANA's names such as `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`. Those
    /// of TLS 1.3 are always there. Empty: all that are safe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Hosts that clients' certificates may be valid for: each must be for one of them. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_client_hosts: Vec<String>,
    /// The oldest version of TLS that is spoken. Absent: 1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    /// The newest one. Absent: 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_version: Option<TlsVersion>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsConfig {
    /// A certificate and its key; clients show none.
    pub fn of(cert_file: PathBuf, key_file: PathBuf) -> Self {
        Self {
            cert_file,
            key_file,
            client_ca_file: None,
            client_crl_file: None,
            cipher_suites: Vec::new(),
            allowed_client_hosts: Vec::new(),
            min_version: None,
            max_version: None,
        }
    }

    fn validate(&self) -> Result<(), ServerConfigError> {
        if !self.allowed_client_hosts.is_empty() && self.client_ca_file.is_none() {
            return Err(ServerConfigError::AllowedByNobody);
        }
        if self.min_version > self.max_version.or(Some(TlsVersion::V1_3)) {
            return Err(ServerConfigError::NoTlsVersion);
        }
        if self.min_version == Some(TlsVersion::V1_3) && !self.cipher_suites.is_empty() {
            return Err(ServerConfigError::NoSuites);
        }
        Ok(())
    }
}

/// API keys, held as SHA-256 digests so that the file gives no key away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// File with one key a line: `sha256:<64 hex digits>  <name>`; `#` starts a comment. A plain key is refused.
    pub keys_file: PathBuf,
}

/// Limits of a listener. Every one has a default that suits a small machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body, in bytes. Over it: 413.
    pub max_body_bytes: usize,
    /// Largest header block of an HTTP/1 request, in bytes. Over it: 431.
    pub max_header_bytes: usize,
    /// Connections open at a time on one listener, as far as the limit of open files allows. Over it: 503 with `Retry-After`.
    pub max_connections: usize,
    /// Requests in progress at a time on one listener. Over it: 503 with `Retry-After`.
    pub max_concurrent_requests: usize,
    /// Time in which a client must send its request's headers, in milliseconds (slow-loris guard).
    pub header_timeout_ms: u64,
    /// Time in which a client must send its request's body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Time that running requests get to finish after SIGTERM, in milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_header_bytes: 64 << 10,
            max_connections: 16_384,
            max_concurrent_requests: 4_096,
            header_timeout_ms: 10_000,
            body_timeout_ms: 60_000,
            drain_timeout_ms: 10_000,
        }
    }
}

/// Logs, traces and metrics of a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// OTLP/gRPC endpoint for traces and metrics, such as `http://otel-collector:4317`. Absent: nothing is exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// File that spans are appended to as OTLP JSON, one export request a line (the OpenTelemetry file exporter's form).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_file: Option<PathBuf>,
    /// Size at which `otlp_file` is set aside as `FILE.1`, in MiB; so at most twice this is kept.
    pub otlp_file_max_mib: u64,
    /// Share of new traces that are recorded, from 0.0 to 1.0. A sampled parent is always followed.
    pub sample_ratio: f64,
    /// `service.name` of exported telemetry. Absent: the component's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// `service.instance.id` of exported telemetry, such as the pod's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_file: None,
            otlp_file_max_mib: 16,
            sample_ratio: 1.0,
            service_name: None,
            instance: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig::with_admin(([127, 0, 0, 1], 0).into())
    }

    fn tls() -> TlsConfig {
        TlsConfig::of("cert".into(), "key".into())
    }

    #[test]
    fn validation_names_the_field() {
        type Change = fn(&mut ServerConfig);
        let table: &[(Change, Option<&str>)] = &[
            (|_| {}, None),
            (|c| c.limits.max_body_bytes = 0, Some("max_body_bytes")),
            (|c| c.limits.max_connections = 0, Some("max_connections")),
            (|c| c.limits.header_timeout_ms = 0, Some("header_timeout_ms")),
            (|c| c.telemetry.otlp_file_max_mib = 0, Some("otlp_file_max_mib")),
            (|c| c.telemetry.sample_ratio = f64::NAN, Some("sample_ratio")),
            (|c| c.telemetry.sample_ratio = 1.5, Some("sample_ratio")),
            (|c| c.tls = Some(tls()), None),
            (
                |c| c.tls = Some(TlsConfig { allowed_client_hosts: vec!["a".into()], ..tls() }),
                Some("allowed_client_hosts"),
            ),
            (
                |c| {
                    let (min, max) = (Some(TlsVersion::V1_3), Some(TlsVersion::V1_2));
                    c.tls = Some(TlsConfig { min_version: min, max_version: max, ..tls() });
                },
                Some("no version is left"),
            ),
            (
                |c| {
                    let suites = vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".into()];
                    c.tls = Some(TlsConfig {
                        min_version: Some(TlsVersion::V1_3),
                        cipher_suites: suites,
                        ..tls()
                    });
                },
                Some("cipher_suites"),
            ),
        ];
        for (change, expected) in table {
            let mut config = config();
            change(&mut config);
            match (config.validate(), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(field)) => assert!(error.to_string().contains(field), "{error}"),
                (result, expected) => panic!("{result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn unknown_fields_are_errors() {
        let error = serde_json::from_str::<ServerConfig>(r#"{"admin_listen":"127.0.0.1:1","limit":{}}"#)
            .expect_err("limit is no field");
        assert!(error.to_string().contains("unknown field `limit`"), "{error}");
    }
}
