//! By whose CAs members are known, by the operator and by one another, also while they go from one Secret to another.

use std::collections::BTreeSet;

use super::certificate::{self, Identity};
use super::seen::Seen;
use super::{Tls, ValidatedKvCluster};
use crate::kernel::ObjectName;
use crate::kernel::apply::said;
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::Because;
use crate::kernel::controller::StepError;
use crate::outside;

/// The roll to another Secret, which is not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// By what members know one another meanwhile.
    pub identity: Identity,
    /// Why, and what to do.
    pub because: Because,
}

/// What a Secret has of a certificate that is nobody's secret.
struct Bundle {
    authority: String,
    certificate: Option<String>,
}

impl Bundle {
    /// Whether those who mount it let in members with that other one.
    fn knows(&self, other: &Self) -> bool {
        other.certificate.as_ref().is_none_or(|certificate| outside::may_know(&self.authority, certificate))
    }
}

fn step_error(reason: &'static str, message: String) -> StepError {
    StepError { reason, message }
}

/// Why members cannot be asked: the Secret with the authority of their certificates is not there.
pub(super) fn lacks_secret(cluster: &Cluster, kv: &ValidatedKvCluster) -> Option<Because> {
    let Tls::Secret(name) = &kv.tls else { return None };
    let is_there = cluster.has_secret(&of(kv, name));
    (!is_there).then(|| Because::new("SecretMissing", missing(name)))
}

fn missing(secret: &str) -> String {
    format!("Secret {secret} is not in this namespace, so no member can be asked how it fares")
}

fn of(kv: &ValidatedKvCluster, secret: &str) -> ObjectName {
    ObjectName::new(kv.owner.namespace.as_str(), secret)
}

/// `None`: it has no CA, or is not there.
async fn read(cluster: &Cluster, kv: &ValidatedKvCluster, secret: &str) -> Result<Option<Bundle>, StepError> {
    let name = of(kv, secret);
    let unread =
        |error| step_error("ReadFailed", format!("Secret {secret} could not be read: {}", said(&error)));
    let Some(authority) = cluster.secret_text(&name, "ca.crt").await.map_err(unread)? else {
        return Ok(None);
    };
    let certificate = cluster.secret_text(&name, "tls.crt").await.map_err(unread)?;
    Ok(Some(Bundle { authority, certificate }))
}

/// CAs of the members, as PEM: those of the Secret that the spec names, and of those that pods mount as yet. `None`: they have no
/// certificates.
pub(super) async fn authorities(
    cluster: &Cluster,
    kv: &ValidatedKvCluster,
    seen: &Seen,
) -> Result<Option<String>, StepError> {
    let Tls::Secret(name) = &kv.tls else { return Ok(None) };
    let Some(Bundle { mut authority, .. }) = read(cluster, kv, name).await? else {
        if cluster.has_secret(&of(kv, name)) {
            let said = format!("Secret {name} has no ca.crt; put the CA of the certificate there");
            return Err(step_error("SecretIncomplete", said));
        }
        return Err(step_error("SecretMissing", missing(name)));
    };
    let others: BTreeSet<&String> =
        seen.identities().map(|it| &it.secret).filter(|secret| *secret != name).collect();
    for other in others {
        if let Some(other) = read(cluster, kv, other).await? {
            authority.push('\n');
            authority.push_str(&other.authority);
        }
    }
    Ok(Some(authority))
}

/// Why no pod is given the certificate of the Secret that the spec names: the others would not let it in.
pub(super) async fn held(
    cluster: &Cluster,
    kv: &ValidatedKvCluster,
    seen: &Seen,
) -> Result<Option<Held>, StepError> {
    let Tls::Secret(new) = &kv.tls else { return Ok(None) };
    let pods: Vec<&Identity> = seen.identities().collect();
    let Some(identity) = Identity::before(new, &pods) else { return Ok(None) };
    // One alone has nobody to be let in by.
    if kv.voters < 2 && pods.len() < 2 {
        return Ok(None);
    }
    let old = &identity.secret;
    let (Some(before), Some(after)) = (read(cluster, kv, old).await?, read(cluster, kv, new).await?) else {
        return Ok(None);
    };
    if before.knows(&after) && after.knows(&before) {
        return Ok(None);
    }
    let because = Because::new("CertificateMismatch", mismatch(kv, old, new));
    Ok(Some(Held { identity: identity.clone(), because }))
}

fn mismatch(kv: &ValidatedKvCluster, old: &str, new: &str) -> String {
    let written = certificate::name(&kv.name);
    let unless = if [old, new].contains(&written.as_str()) {
        format!(
            ". cert-manager writes Secret {written} over: go by one of your own with what is in it and both CAs"
        )
    } else {
        String::new()
    };
    format!(
        "members with Secret {old} and members with Secret {new} would not let one another in: another CA signed. All stay as they are. Put \
         both CAs into ca.crt of both Secrets, and the pods are made anew one by one{unless}"
    )
}
