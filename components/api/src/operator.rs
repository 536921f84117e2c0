//! Settings of `aistack-operator`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::server::{ServerConfig, ServerConfigError};

/// The effective configuration of the operator. Environment prefix: `AISTACK_OPERATOR_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorConfig {
    /// Admin port and telemetry.
    #[serde(deserialize_with = "server_with_admin_default")]
    pub server: ServerConfig,
    /// The one namespace that it sees. Absent or empty: all, which needs a ClusterRole.
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Objects that are reconciled at a time.
    pub workers: usize,
    /// Which of several operators works.
    pub lease: LeaseConfig,
    /// Images of pods whose manifests name no tag.
    pub images: ImagesConfig,
    /// PriorityClass of pods that hold data, in TinyKV, VectorForge and ModelHub, whose manifests name none. Absent or empty: none. The
    /// class must be there, or such pods are not made.
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub store_priority_class: Option<String>,
    /// OTLP/gRPC endpoint that pods of ours send traces and metrics to, such as `http://otel-collector.telemetry:4317`; what the operator sends
    /// goes where `server.telemetry` says. Absent or empty: they send none. A change makes their pods anew, those of stores one by one.
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub pods_otlp_endpoint: Option<String>,
    /// Address at which KEDA finds Prometheus, such as `http://prometheus.monitoring.svc:9090`: for InferenceServices with `scaling.by: keda`
    /// that are scaled by requests or tokens. Absent or empty: there is none.
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub prometheus_url: Option<String>,
    /// Base URLs to use in place of Services', by `service.namespace`, such as `modelhub.team: http://127.0.0.1:8080`: for an operator
    /// outside the cluster's network.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, String>,
    /// Whether endpoints that manifests name may be loopback, link-local or a cloud's metadata service: for an operator on somebody's
    /// own machine. In a cluster these are the operator's pod, its node, and the node's credentials.
    pub local_endpoints: bool,
}

impl Default for OperatorConfig {
    fn default() -> Self {
        Self {
            server: default_server(),
            namespace: None,
            workers: 8,
            lease: LeaseConfig::default(),
            images: ImagesConfig::default(),
            store_priority_class: None,
            pods_otlp_endpoint: None,
            prometheus_url: None,
            addresses: BTreeMap::new(),
            local_endpoints: false,
        }
    }
}

/// The Lease by which one of several operators leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseConfig {
    /// Whether there is one. Without it, nothing keeps two operators from working against one another.
    pub enabled: bool,
    /// Its namespace. Absent: that of the operator's pod, else `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// How long it holds after it was renewed, in seconds; another operator waits that long when this one is gone without a word.
    pub duration_seconds: u32,
    /// How long this one tries to renew it before it ends, in seconds; less than `duration_seconds`.
    pub deadline_seconds: u32,
    /// Time between two renewals, in seconds; less than `deadline_seconds`.
    pub renew_seconds: u32,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            namespace: None,
            name: "aistack-operator".to_owned(),
            duration_seconds: 15,
            deadline_seconds: 10,
            renew_seconds: 5,
        }
    }
}

/// Which images pods run whose manifests name no tag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// Registry and path in front of the component's name, such as `registry.example.com/aistack`, of manifests that name none. Absent:
    /// `aistack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Digests that pin images in place of this version's tag, by component (`tinykv`, `vectorforge`, `tinyinfer`, `modelhub`), such as
    /// `sha256:…` with 64 hexadecimal digits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, String>,
}

/// Components that have an image.
pub const COMPONENTS: [&str; 4] = ["tinykv", "vectorforge", "tinyinfer", "modelhub"];

impl ImagesConfig {
    fn validate(&self) -> Result<(), OperatorConfigError> {
        if let Some(repository) = self.repository.as_ref().filter(|repository| !is_repository(repository)) {
            return Err(OperatorConfigError::Repository { repository: repository.clone() });
        }
        for (component, digest) in &self.digests {
            if !COMPONENTS.contains(&component.as_str()) {
                return Err(OperatorConfigError::UnknownComponent { component: component.clone() });
            }
            let digits = digest.strip_prefix("sha256:").unwrap_or_default();
            if digits.len() != 64 || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(OperatorConfigError::Digest {
                    component: component.clone(),
                    digest: digest.clone(),
                });
            }
        }
        Ok(())
    }
}

fn is_http(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// Whether it is a registry and path, as the kinds' `image.repository`.
fn is_repository(text: &str) -> bool {
    let mut parts = text.split('/');
    let host = parts.next().unwrap_or_default();
    let (host, port) = host.split_once(':').unwrap_or((host, "0"));
    let ends_well = |part: &str| {
        let ends = part.bytes().next().zip(part.bytes().last());
        ends.is_some_and(|(first, last)| first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
    };
    let is_host = ends_well(host)
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let is_part = |part: &str| {
        ends_well(part)
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
            })
    };
    is_host && port.parse::<u16>().is_ok() && parts.all(is_part)
}

/// Whether a namespace and most other objects can have that name: a label of RFC 1123.
pub fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| is_inner(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl OperatorConfig {
    /// Checks the values that serde cannot.
    pub fn validate(&self) -> Result<(), OperatorConfigError> {
        self.server.validate()?;
        let (tls, auth) = (self.server.tls.is_some(), self.server.auth.is_some());
        if let Some(field) = tls.then_some("tls").or(auth.then_some("auth")) {
            return Err(OperatorConfigError::NoClients { field });
        }
        if self.workers == 0 {
            return Err(OperatorConfigError::NoWorkers);
        }
        for (field, url) in
            [("prometheus_url", &self.prometheus_url), ("pods_otlp_endpoint", &self.pods_otlp_endpoint)]
        {
            if let Some(url) = url.as_ref().filter(|url| !is_http(url)) {
                return Err(OperatorConfigError::NoAddress { field, url: url.clone() });
            }
        }
        if let Some(namespace) = self.namespace.as_ref().filter(|namespace| !is_label(namespace)) {
            return Err(OperatorConfigError::Namespace { namespace: namespace.clone() });
        }
        self.images.validate()?;
        let lease = &self.lease;
        if lease.renew_seconds == 0
            || lease.renew_seconds >= lease.deadline_seconds
            || lease.deadline_seconds >= lease.duration_seconds
        {
            return Err(OperatorConfigError::LeaseTimes {
                renew: lease.renew_seconds,
                deadline: lease.deadline_seconds,
                duration: lease.duration_seconds,
            });
        }
        Ok(())
    }
}

/// What is wrong with an [`OperatorConfig`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OperatorConfigError {
    /// The shared settings.
    #[error(transparent)]
    Server(#[from] ServerConfigError),
    /// It would protect nothing.
    #[error(
        "server.{field} is of ports for clients, and the operator has none: its admin port is plain HTTP for the kubelet and Prometheus; \
         remove it, and keep others from that port by a NetworkPolicy"
    )]
    NoClients {
        /// The part of `server`.
        field: &'static str,
    },
    /// Nothing would be reconciled.
    #[error("workers is 0, so nothing would be reconciled; leave it out for the default")]
    NoWorkers,
    /// Nobody is there.
    #[error("{field}: {url} is no http:// or https:// address")]
    NoAddress {
        /// Which one.
        field: &'static str,
        /// As written.
        url: String,
    },
    /// There is no such namespace.
    #[error(
        "namespace: {namespace:?} is no name of a namespace; write lower-case letters, digits and '-', 63 at most"
    )]
    Namespace {
        /// As written.
        namespace: String,
    },
    /// No image has such a name.
    #[error(
        "images.repository: {repository:?} is no registry and path; write them in lower case, without a scheme and with single slashes, for \
         example registry.example.com:5000/aistack"
    )]
    Repository {
        /// As written.
        repository: String,
    },
    /// A digest of an image that no pod runs.
    #[error("images.digests: {component} is no component; those are {}", COMPONENTS.join(", "))]
    UnknownComponent {
        /// As written.
        component: String,
    },
    /// No image has it.
    #[error(
        "images.digests.{component}: {digest} is no digest; it is sha256: and 64 hexadecimal digits, as `cargo xtask images` prints them"
    )]
    Digest {
        /// Of what.
        component: String,
        /// As written.
        digest: String,
    },
    /// Two could lead at once, or none for long.
    #[error(
        "lease: renew_seconds {renew}, deadline_seconds {deadline} and duration_seconds {duration} must rise in this order"
    )]
    LeaseTimes {
        /// Between renewals.
        renew: u32,
        /// Until it gives up.
        deadline: u32,
        /// Until another takes over.
        duration: u32,
    },
}

/// An environment variable that is set to nothing names nothing.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let named = Option::<String>::deserialize(deserializer)?;
    Ok(named.filter(|name| !name.is_empty()))
}

fn default_server() -> ServerConfig {
    ServerConfig::with_admin(([127, 0, 0, 1], 8090).into())
}

/// A file that names only part of `server` keeps the rest as it is by default.
fn server_with_admin_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ServerConfig, D::Error> {
    let mut value = serde_json::Value::deserialize(deserializer)?;
    if let Some(fields) = value.as_object_mut() {
        fields.entry("admin_listen").or_insert_with(|| default_server().admin_listen.to_string().into());
    }
    serde_json::from_value(value).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_lease_rise() {
        let with = |renew, deadline, duration| {
            let mut config = OperatorConfig::default();
            config.lease.renew_seconds = renew;
            config.lease.deadline_seconds = deadline;
            config.lease.duration_seconds = duration;
            config.validate().is_ok()
        };
        for (renew, deadline, duration, is_valid) in
            [(5, 10, 15, true), (1, 2, 3, true), (0, 10, 15, false), (10, 10, 15, false), (5, 15, 15, false)]
        {
            assert_eq!(with(renew, deadline, duration), is_valid, "{renew} {deadline} {duration}");
        }
    }

    #[test]
    fn what_protects_ports_that_it_has_not_is_refused() {
        for (server, is_valid) in [
            (serde_json::json!({}), true),
            (serde_json::json!({"auth": {"keys_file": "/keys"}}), false),
            (serde_json::json!({"tls": {"cert_file": "/tls.crt", "key_file": "/tls.key"}}), false),
        ] {
            let config = serde_json::json!({"server": server});
            let config: OperatorConfig = serde_json::from_value(config).expect("a part is enough");
            assert_eq!(config.validate().is_ok(), is_valid, "{server}");
        }
    }

    #[test]
    fn addresses_of_others_are_addresses_or_nothing() {
        for (url, is_valid) in
            [("", true), ("http://p:9090", true), ("https://p", true), ("p:9090", false), ("http://", false)]
        {
            for field in ["prometheus_url", "pods_otlp_endpoint"] {
                let config: OperatorConfig =
                    serde_json::from_value(serde_json::json!({field: url})).expect("a part is enough");
                assert_eq!(config.validate().is_ok(), is_valid, "{field}: {url}");
            }
        }
    }

    #[test]
    fn a_file_may_name_a_part() {
        let config: OperatorConfig =
            serde_json::from_str(r#"{"server": {}, "namespace": "team"}"#).expect("a part is enough");
        assert_eq!(
            config,
            OperatorConfig { namespace: Some("team".to_owned()), ..OperatorConfig::default() }
        );
    }

    #[test]
    fn an_empty_namespace_is_all_of_them() {
        let config: OperatorConfig = serde_json::from_str(r#"{"namespace": ""}"#).expect("it is a text");
        assert_eq!(config, OperatorConfig::default());
    }

    #[test]
    fn names_that_nothing_can_have_are_refused() {
        let namespace = |name: &str| {
            let named = OperatorConfig { namespace: Some(name.to_owned()), ..OperatorConfig::default() };
            named.validate().is_ok()
        };
        for (name, is_valid) in
            [("team", true), ("a-1", true), ("Bad_NS", false), ("-a", false), ("a.b", false), ("", false)]
        {
            assert_eq!(namespace(name), is_valid, "{name}");
        }
        let repository = |name: &str| {
            let mut config = OperatorConfig::default();
            config.images.repository = Some(name.to_owned());
            config.validate().is_ok()
        };
        for (name, is_valid) in [
            ("aistack", true),
            ("registry.example.com:5000/team/aistack", true),
            ("Foo/Bar", false),
            ("https://registry.example.com", false),
            ("a//b", false),
            ("a/", false),
            ("a:port/b", false),
        ] {
            assert_eq!(repository(name), is_valid, "{name}");
        }
    }

    #[test]
    fn digests_are_of_components_and_whole() {
        let with = |component: &str, digest: String| {
            let mut config = OperatorConfig::default();
            config.images.digests.insert(component.to_owned(), digest);
            config.validate().map_err(|error| error.to_string())
        };
        assert_eq!(with("tinykv", format!("sha256:{}", "0a".repeat(32))), Ok(()));
        for (component, digest, says) in [
            ("etcd", format!("sha256:{}", "a".repeat(64)), "etcd is no component"),
            ("tinykv", "sha256:abc".to_owned(), "sha256:abc is no digest"),
            ("tinykv", "A".repeat(64), "is no digest"),
        ] {
            let said = with(component, digest).expect_err(says);
            assert!(said.contains(says), "{said}");
        }
    }
}
