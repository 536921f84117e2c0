//! cert-manager's Certificate, as far as one is asked for.

use aistack_crds::kv_cluster::KvIssuer;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Annotation of a Secret with the name of the Certificate that it was written for.
pub const WRITTEN_FOR: &str = "cert-manager.io/certificate-name";

/// What is to be signed, by whom, and into which Secret.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "cert-manager.io",
    version = "v1",
    kind = "Certificate",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// The Secret.
    pub secret_name: String,
    /// Who signs.
    pub issuer_ref: KvIssuer,
    /// Whom it is made out to.
    pub dns_names: Vec<String>,
    /// What it is good for.
    pub usages: Vec<String>,
    /// How its key is made.
    pub private_key: PrivateKey,
}

/// How a certificate's key is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKey {
    /// The kind of key.
    pub algorithm: String,
    /// Whether a renewed certificate has a new one.
    pub rotation_policy: String,
}
