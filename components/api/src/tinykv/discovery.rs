//! How members find one another through a cluster that runs already.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the members of a new cluster find one another: in etcd's registry of another cluster, etcd's or TinyKV's. Before the
/// first of them starts, the key `/_etcd/registry/TOKEN/_config/size` there holds how many they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinykvDiscovery {
    /// URLs of that cluster's members.
    pub endpoints: Vec<String>,
    /// What the new cluster is called there: a name that was never used before.
    pub token: String,
    /// Whether to talk in the clear to endpoints without a scheme, where no certificate is named.
    pub insecure_transport: bool,
    /// PEM file of the CA that their certificates must chain to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate shown to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Do not check their certificates.
    pub insecure_skip_verify: bool,
    /// User there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// That user's password, unless it stands behind the user and a colon. Never printed.
    #[serde(skip_serializing)]
    pub password: Option<String>,
    /// How long a request to them may take, in milliseconds.
    pub request_timeout_ms: u64,
}

impl TinykvDiscovery {
    /// The user there and the password, as `NAME:PASSWORD` in one, too.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        let user = self.user.as_deref()?;
        match &self.password {
            Some(password) => Some((user, password)),
            None => user.split_once(':'),
        }
    }

    /// What is wrong with it; `with_peers` says whether the members are named besides.
    pub(super) fn check(&self, with_peers: bool) -> Result<(), &'static str> {
        if with_peers {
            return Err(
                "the founders are found or named, not both; leave peers (--initial-cluster) out, or discovery",
            );
        }
        if self.token.is_empty() || self.token.contains('/') {
            return Err("name the new cluster: discovery.token (--discovery-token), without slashes");
        }
        if self.endpoints.is_empty() {
            return Err("name members of the cluster to ask: discovery.endpoints (--discovery-endpoints)");
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(
                "a certificate needs its key: discovery.cert_file and key_file (--discovery-cert, --discovery-key)",
            );
        }
        if self.user.is_some() != self.credentials().is_some()
            || self.user.is_none() && self.password.is_some()
        {
            return Err(
                "a user needs a password: discovery.user and password (--discovery-user, --discovery-password)",
            );
        }
        if self.request_timeout_ms == 0 {
            return Err("request_timeout_ms is 0; leave it out for the default");
        }
        Ok(())
    }
}

impl Default for TinykvDiscovery {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            token: String::new(),
            insecure_transport: true,
            ca_file: None,
            cert_file: None,
            key_file: None,
            insecure_skip_verify: false,
            user: None,
            password: None,
            request_timeout_ms: 5_000,
        }
    }
}
