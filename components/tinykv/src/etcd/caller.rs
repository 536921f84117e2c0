//! Who calls: what came with a request to prove it.

use crate::mvcc::{Caller, Origin};
use crate::node::{Node, NodeError};
use aistack_chassis::ClientName;
use tonic::Extensions;
use tonic::metadata::MetadataMap;

/// What came with a request; a stream's last as long as it does.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    token: Option<String>,
    /// The common name of the certificate that the client showed.
    name: Option<String>,
}

impl Credentials {
    /// Those of a gRPC request.
    pub fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let token = metadata.get("token").or_else(|| metadata.get("authorization"));
        let token = token.and_then(|token| token.to_str().ok());
        Self {
            token: token.map(|token| token.strip_prefix("Bearer ").unwrap_or(token).to_owned()),
            name: extensions.get::<ClientName>().map(|name| name.0.to_string()),
        }
    }

    /// Whom they prove the caller to be. A token goes before a certificate.
    pub async fn caller(&self, node: &Node) -> Result<Origin, NodeError> {
        if !node.shared.guarded() {
            return Ok(Origin::Anyone);
        }
        match (&self.token, &self.name) {
            (Some(token), _) => node.caller(token).await,
            (None, Some(name)) if node.config.auth.certificate_names => {
                let revision = node.shared.with(|keyspace| keyspace.auth().revision());
                Ok(Origin::User(Caller { name: name.clone(), revision }))
            }
            (None, _) => Ok(Origin::Anyone),
        }
    }
}
