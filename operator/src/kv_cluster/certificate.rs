//! The certificate of a group whose spec names an issuer: cert-manager is asked for it, and renews it.

use aistack_crds::kv_cluster::{KvIssuer, MOST_MEMBERS};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kube::api::Api;

use super::{Tls, ValidatedKvCluster};
use crate::certificate::{Certificate, CertificateSpec, PrivateKey, WRITTEN_FOR};
use crate::kernel::ObjectName;
use crate::kernel::apply::{Applied, said};
use crate::kernel::child::{ChildKey, ChildKind, Issue, Progress};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra, Report};
use crate::kernel::controller::StepError;

/// How long after its time a renewal is late.
const LATE: SignedDuration = SignedDuration::from_hours(1);

/// The volume with the members' certificate.
pub(super) const VOLUME: &str = "tls";

/// The variable that says for which host the others' certificates have to be.
pub(super) const NAMED: &str = "TINYKV_PEER_TLS__ALLOWED_HOSTS";

/// By which certificate members know one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The Secret that has it.
    pub secret: String,
    /// Whether one that is not made out to this very cluster is refused: an issuer may sign for other namespaces too.
    pub is_named: bool,
}

impl Identity {
    /// That of a pod.
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == VOLUME)?;
        let mut variables = spec.containers.iter().flat_map(|container| container.env.iter().flatten());
        let is_named = variables.any(|variable| variable.name == NAMED);
        Some(Self { secret: volume.secret.as_ref()?.secret_name.clone()?, is_named })
    }

    /// What most pods have, where that is of another Secret.
    pub fn before<'a>(secret: &str, pods: &[&'a Self]) -> Option<&'a Self> {
        let mut others = pods.iter().filter(|pod| pod.secret != secret);
        let are_most = 2 * others.clone().count() > pods.len();
        others.next().copied().filter(|_| are_most)
    }

    /// The one to roll to, from those that the pods have. A certificate of somebody else's making may lack the name, so nobody
    /// asks for the name before all have the issuer's, and nobody does any more when the first gets another.
    pub fn next(kv: &ValidatedKvCluster, pods: &[&Self]) -> Option<Self> {
        let Tls::Secret(secret) = &kv.tls else { return None };
        let Some(other) = pods.iter().find(|pod| pod.secret != *secret) else {
            return Some(Self { secret: secret.clone(), is_named: kv.issuer.is_some() });
        };
        let is_asked = pods.iter().any(|pod| pod.is_named);
        let secret = if is_asked { &other.secret } else { secret };
        Some(Self { secret: secret.clone(), is_named: false })
    }
}

/// Name of the Certificate, and of the Secret that it is written to.
pub(super) fn name(cluster: &str) -> String {
    format!("{cluster}-tls")
}

/// The one of its names that no other cluster's certificate has.
pub(super) fn host(kv: &ValidatedKvCluster) -> String {
    format!("{}.{}.svc", kv.name, kv.owner.namespace)
}

/// What cert-manager is asked for.
pub(super) fn manifest(kv: &ValidatedKvCluster, issuer: &KvIssuer) -> Certificate {
    let in_namespace = format!("{}.{}", kv.name, kv.owner.namespace);
    let mut dns_names = vec![kv.name.clone(), in_namespace, host(kv)];
    // Of all that there may ever be, so that it is not signed anew when the group grows.
    dns_names.extend((0..MOST_MEMBERS).map(|ordinal| kv.host(&kv.member(ordinal))));
    let spec = CertificateSpec {
        secret_name: name(&kv.name),
        issuer_ref: issuer.clone(),
        dns_names,
        // Members are servers and clients of one another.
        usages: ["digital signature", "server auth", "client auth"].map(str::to_owned).to_vec(),
        private_key: PrivateKey { algorithm: "ECDSA".to_owned(), rotation_policy: "Always".to_owned() },
    };
    Certificate { metadata: kv.owner.metadata(name(&kv.name)), spec }
}

/// Before cert-manager is asked for the first time: it would write over a Secret of that name, whosever it is.
pub(super) async fn has_its_name(cluster: &Cluster, kv: &ValidatedKvCluster) -> Result<(), StepError> {
    let object = ObjectName::new(kv.owner.namespace.as_str(), name(&kv.name));
    let is_asked = ChildKey { kind: ChildKind::Certificate, object: object.clone() };
    if kv.issuer.is_none() || cluster.children.meta(&is_asked).is_some() || !cluster.has_secret(&object) {
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), &object.namespace);
    let found = api.get_metadata_opt(&object.name).await.map_err(|error| StepError {
        reason: "ReadFailed",
        message: format!("Secret {} could not be read: {}", object.name, said(&error)),
    })?;
    match found {
        Some(found) if found.annotations().get(WRITTEN_FOR) != Some(&object.name) => Err(StepError {
            reason: "NameTaken",
            message: format!(
                "Secret {0} is there already, and was not written for a Certificate {0}; delete or rename it, or name it: spec.tls.secretName in place of issuerRef",
                object.name
            ),
        }),
        _ => Ok(()),
    }
}

/// What pods of a group that nobody has founded wait for, where it is the certificate.
pub(super) fn awaited(kv: &ValidatedKvCluster, applied: &Applied) -> Option<Because> {
    let certified = certified(asked_for(kv, applied)?, kv);
    (certified.is_so != Some(true)).then_some(certified.because)
}

/// A report with what is to be said of the certificate.
pub(super) fn told(mut report: Report, kv: &ValidatedKvCluster, applied: &Applied) -> Report {
    let Some(issue) = asked_for(kv, applied) else { return report };
    if let (Some(failure), None) = (failure(issue, kv, Timestamp::now()), &report.degraded) {
        report.degraded = Some(Because::new("CertificateFailed", failure));
    }
    report.extra.push(certified(issue, kv));
    report
}

/// Why it was not signed, or not in time: an issuer that is not there is no failure to cert-manager, which waits for it.
fn failure(issue: &Issue, kv: &ValidatedKvCluster, now: Timestamp) -> Option<String> {
    let is_late = issue.due.is_some_and(|due| now.duration_since(due) > LATE);
    let late = || format!("Certificate {} was to be renewed and was not{}", name(&kv.name), look(kv));
    issue.failure.clone().or_else(|| is_late.then(late))
}

/// Where cert-manager says what it waits for.
fn look(kv: &ValidatedKvCluster) -> String {
    let issuer =
        kv.issuer.as_ref().map_or_else(String::new, |issuer| format!("{} {}", issuer.kind, issuer.name));
    format!("; is {issuer} there? kubectl describe certificaterequests -n {} tells more", kv.owner.namespace)
}

/// One that was refused is told of by whoever applied it.
fn asked_for<'a>(kv: &ValidatedKvCluster, applied: &'a Applied) -> Option<&'a Issue> {
    match applied.progress(ChildKind::Certificate, &name(&kv.name))? {
        Progress::Certificate(issue) => Some(issue),
        _ => None,
    }
}

fn certified(issue: &Issue, kv: &ValidatedKvCluster) -> Extra {
    let name = name(&kv.name);
    let because = match issue.is_issued {
        Some(true) => Because::new("Issued", format!("Secret {name} has the certificate")),
        Some(false) => Because::new(
            "WaitingForCertificate",
            format!("Certificate {name}: {}{}", issue.message, look(kv)),
        ),
        None => Because::new(
            "WaitingForCertificate",
            format!("cert-manager has said nothing of Certificate {name} yet; does it run?"),
        ),
    };
    Extra { kind: "Certified", is_so: issue.is_issued, because }
}

#[cfg(test)]
mod tests {
    use aistack_crds::KVCluster;
    use serde_json::json;

    use super::*;
    use crate::manifest::Manifest;

    fn kv(name: &str, replicas: i32) -> ValidatedKvCluster {
        super::super::validate(&object(name, replicas), "").expect("valid")
    }

    fn object(name: &str, replicas: i32) -> KVCluster {
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "KVCluster", "metadata": {"name": name, "namespace": "team"},
            "spec": {"replicas": replicas, "tls": {"issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}}});
        serde_json::from_value(object).expect("a KVCluster")
    }

    fn asked(kv: &ValidatedKvCluster) -> Certificate {
        let manifests = super::super::build(kv);
        let found = manifests.iter().find_map(|manifest| match manifest {
            Manifest::Certificate(certificate) => Some(certificate.as_ref().clone()),
            _ => None,
        });
        found.expect("a Certificate")
    }

    #[test]
    fn it_is_made_out_to_all_that_there_may_ever_be() {
        let asked = asked(&kv("kv", 3));
        let written = serde_json::to_value(&asked).expect("JSON");
        assert_eq!(
            (&written["apiVersion"], &written["kind"]),
            (&json!("cert-manager.io/v1"), &json!("Certificate"))
        );
        assert_eq!(
            written["spec"]["issuerRef"],
            json!({"name": "ca", "kind": "ClusterIssuer", "group": "cert-manager.io"})
        );
        assert_eq!(asked.spec.dns_names[..4], ["kv", "kv.team", "kv.team.svc", "kv-0.kv-members"]);
        assert_eq!(asked.spec.dns_names.last().map(String::as_str), Some("kv-6.kv-members"));
        assert_eq!(asked.spec, self::asked(&kv("kv", 7)).spec, "growth has nothing signed anew");
        let set = super::super::build(&kv("kv", 3)).to_yaml();
        assert!(set.contains("secretName: kv-tls"), "members mount it: {set}");
    }

    #[test]
    fn a_name_is_asked_for_while_all_have_the_issuers_certificate() {
        let identity = |(secret, is_named): (&str, bool)| Identity { secret: secret.to_owned(), is_named };
        let (own, asked, mine, others) =
            (("kv-tls", false), ("kv-tls", true), ("mine", false), ("others", true));
        let table = [
            (vec![], asked),
            (vec![own, own, own], asked),
            (vec![asked, own, own], asked),
            (vec![mine, mine, mine], own),
            (vec![mine, own, mine], own),
            (vec![others, others, others], ("others", false)),
            (vec![("others", false), others, ("others", false)], ("others", false)),
        ];
        for (pods, expected) in table {
            let pods: Vec<Identity> = pods.into_iter().map(identity).collect();
            let next = Identity::next(&kv("kv", 3), &pods.iter().collect::<Vec<_>>());
            assert_eq!(next, Some(identity(expected)), "{pods:?}");
        }
        let set = super::super::build(&kv("kv", 3)).to_yaml();
        assert!(
            set.contains("name: TINYKV_PEER_TLS__ALLOWED_HOSTS\n") && set.contains("'[\"kv.team.svc\"]'"),
            "{set}"
        );
    }

    #[test]
    fn members_stay_with_the_secret_that_most_of_them_have() {
        let identity = |secret: &str| Identity { secret: secret.to_owned(), is_named: secret == "old" };
        for (pods, expected) in [
            (&["old", "old", "old"][..], Some("old")),
            (&["old", "new", "old"], Some("old")),
            (&["new", "old", "new"], None),
            (&["new"], None),
            (&[], None),
        ] {
            let pods: Vec<Identity> = pods.iter().map(|secret| identity(secret)).collect();
            let pods: Vec<&Identity> = pods.iter().collect();
            assert_eq!(Identity::before("new", &pods), expected.map(identity).as_ref(), "{pods:?}");
        }
    }

    #[test]
    fn a_renewal_that_does_not_come_is_told() {
        let kv = kv("kv", 3);
        let due: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let told = |issue: &Issue, hours: i64| failure(issue, &kv, due + SignedDuration::from_hours(hours));
        let renewing = Issue { due: Some(due), ..Issue::default() };
        assert_eq!((told(&renewing, 0), told(&Issue::default(), 9)), (None, None));
        let late = told(&renewing, 2).expect("it is late");
        assert!(
            late.contains("is ClusterIssuer ca there? kubectl describe certificaterequests -n team"),
            "{late}"
        );
        let refused = Issue { failure: Some("no".to_owned()), ..renewing };
        assert_eq!(told(&refused, 2).as_deref(), Some("no"));
    }

    #[test]
    fn no_name_of_another_host_is_asked_for() {
        let refused = super::super::validate(&object("www.example.com", 3), "").expect_err("it has dots");
        assert!(refused[0].to_string().contains("metadata.name"), "{refused:?}");
    }
}
