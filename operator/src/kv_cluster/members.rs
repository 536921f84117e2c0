//! A group as it is: its pods as Kubernetes has them, its members as they say themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, TlsOptions};
use k8s_openapi::api::core::v1::{Pod as KubePod, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, EvictParams, ListParams};

use super::planner::{Group, Member, Pod, Role, Step};
use super::{Tls, ValidatedKvCluster};
use crate::kernel::apply::said;
use crate::kernel::cluster::Cluster;
use crate::kernel::controller::StepError;
use crate::workload::headless_name;

/// How long one member may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Label that a StatefulSet's pods carry with the revision that they were made from.
const REVISION: &str = "controller-revision-hash";

fn step_error(reason: &'static str, message: String) -> StepError {
    StepError { reason, message }
}

/// The pods of a cluster's StatefulSet, by ordinal.
pub(super) async fn pods(
    cluster: &Cluster,
    kv: &ValidatedKvCluster,
    newest: &str,
) -> Result<BTreeMap<u16, Pod>, StepError> {
    let api: Api<KubePod> = Api::namespaced(cluster.client.clone(), &kv.owner.namespace);
    let selector: Vec<String> =
        kv.owner.selector().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let list = api.list(&ListParams::default().labels(&selector.join(","))).await;
    let list = list
        .map_err(|error| step_error("ReadFailed", format!("the pods could not be read: {}", said(&error))))?;
    let prefix = format!("{}-", kv.name);
    let ordinal = |pod: &KubePod| pod.name_any().strip_prefix(&prefix)?.parse().ok();
    Ok(list.items.iter().filter_map(|pod| Some((ordinal(pod)?, read(pod, newest)))).collect())
}

fn read(pod: &KubePod, newest: &str) -> Pod {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    Pod {
        is_ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        is_newest: newest.is_empty() || pod.labels().get(REVISION).is_none_or(|revision| revision == newest),
        is_leaving: pod.metadata.deletion_timestamp.is_some(),
    }
}

/// A way to the members of a cluster.
pub(super) struct Members<'a> {
    kv: &'a ValidatedKvCluster,
    authority: Option<Certificate>,
}

impl<'a> Members<'a> {
    /// Reads what is needed to check their certificates.
    pub(super) async fn of(cluster: &Cluster, kv: &'a ValidatedKvCluster) -> Result<Self, StepError> {
        let Tls::Secret(name) = &kv.tls else { return Ok(Self { kv, authority: None }) };
        let api: Api<Secret> = Api::namespaced(cluster.client.clone(), &kv.owner.namespace);
        let secret = api.get(name).await;
        let secret = secret.map_err(|error| {
            step_error("ReadFailed", format!("Secret {name} could not be read: {}", said(&error)))
        })?;
        let authority = secret.data.unwrap_or_default().remove("ca.crt");
        let authority = authority.ok_or_else(|| {
            step_error(
                "SecretIncomplete",
                format!("Secret {name} has no ca.crt; put the CA of the certificate there"),
            )
        })?;
        Ok(Self { kv, authority: Some(Certificate::from_pem(authority.0)) })
    }

    fn url(&self, ordinal: u16) -> String {
        let host = format!("{}-{ordinal}.{}", self.kv.name, headless_name(&self.kv.name));
        self.kv.client_url(&format!("{host}.{}.svc", self.kv.owner.namespace))
    }

    async fn connect(&self, ordinal: u16) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
        if let Some(authority) = &self.authority {
            let tls = TlsOptions::new().ca_certificate(authority.clone()).domain_name(self.kv.name.clone());
            options = options.with_tls(tls);
        }
        Client::connect([self.url(ordinal)], Some(options)).await
    }

    /// The members, as whichever answers first lists them, each with what it says of itself. Empty: none answers.
    pub(super) async fn list(&self, ordinals: impl Iterator<Item = u16>) -> Vec<Member> {
        let asked = ordinals.map(|ordinal| async move { (ordinal, self.ask(ordinal).await) });
        let answers: BTreeMap<u16, Answer> = futures::future::join_all(asked)
            .await
            .into_iter()
            .filter_map(|(ordinal, answer)| Some((ordinal, answer?)))
            .collect();
        members(&self.kv.name, &answers)
    }

    async fn ask(&self, ordinal: u16) -> Option<Answer> {
        let asked = async {
            let mut client = self.connect(ordinal).await?;
            let status = client.status().await?;
            let listed = client.member_list().await?;
            let named = listed.members().iter().map(|member| Listed {
                id: member.id(),
                name: member.name().to_owned(),
                peer_url: member.peer_urls().first().cloned().unwrap_or_default(),
                is_learner: member.is_learner(),
            });
            let own = status.header().map(etcd_client::ResponseHeader::member_id).unwrap_or_default();
            Ok::<_, etcd_client::Error>(Answer {
                own,
                leader: status.leader(),
                index: status.raft_index(),
                listed: named.collect(),
            })
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(ordinal, %error, "a member does not answer");
                None
            }
            Err(_) => None,
        }
    }

    /// Carries out what concerns members and pods; what is told to the StatefulSet is applied with the other objects.
    pub(super) async fn carry_out(
        &self,
        cluster: &Cluster,
        group: &Group,
        step: &Step,
    ) -> Result<(), StepError> {
        match step {
            Step::Replace(ordinal) => self.replace(cluster, *ordinal).await,
            Step::MoveLeader { from, to } => {
                let leader = group.members.iter().find(|member| member.id == *from);
                let mut client = self.reach(leader.map(|member| member.ordinal)).await?;
                client.move_leader(*to).await.map(drop).map_err(|error| refused("move the leader", &error))
            }
            Step::Promote(id) => {
                let mut client = self.reach(leader(group)).await?;
                client
                    .member_promote(*id)
                    .await
                    .map(drop)
                    .map_err(|error| refused("promote a learner", &error))
            }
            Step::Remove { id, .. } => {
                let mut client = self.reach(leader(group)).await?;
                client.member_remove(*id).await.map(drop).map_err(|error| refused("remove a member", &error))
            }
            Step::Rest | Step::Wait(_) | Step::Keep(_) | Step::AddLearner(_) => Ok(()),
        }
    }

    async fn reach(&self, ordinal: Option<u16>) -> Result<Client, StepError> {
        let ordinal = ordinal.unwrap_or_default();
        self.connect(ordinal).await.map_err(|error| refused("reach the leader", &error))
    }

    /// By eviction, so that the disruption budget has its say: a node that is drained may have taken one already.
    async fn replace(&self, cluster: &Cluster, ordinal: u16) -> Result<(), StepError> {
        let api: Api<KubePod> = Api::namespaced(cluster.client.clone(), &self.kv.owner.namespace);
        let name = format!("{}-{ordinal}", self.kv.name);
        match api.evict(&name, &EvictParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => {
                Err(step_error("EvictionRefused", format!("pod {name} may not go yet: {}", said(&error))))
            }
        }
    }
}

fn leader(group: &Group) -> Option<u16> {
    group.members.iter().find(|member| member.role == Role::Leader).map(|member| member.ordinal)
}

fn refused(what: &str, error: &etcd_client::Error) -> StepError {
    step_error("MembershipFailed", format!("could not {what}: {}", aistack_api::cause::innermost(error)))
}

/// What one member answered.
struct Answer {
    own: u64,
    leader: u64,
    index: u64,
    listed: Vec<Listed>,
}

struct Listed {
    id: u64,
    name: String,
    peer_url: String,
    is_learner: bool,
}

/// Puts the answers together. The list of the one that is furthest on counts.
fn members(cluster: &str, answers: &BTreeMap<u16, Answer>) -> Vec<Member> {
    let Some(best) = answers.values().max_by_key(|answer| answer.index) else { return Vec::new() };
    let prefix = format!("{cluster}-");
    let member = |listed: &Listed| {
        // A member that never started has no name yet; its address says which pod it is for.
        let host = listed.peer_url.split_once("://").map_or(listed.peer_url.as_str(), |(_, rest)| rest);
        let name =
            if listed.name.is_empty() { host.split('.').next().unwrap_or_default() } else { &listed.name };
        let ordinal = name.strip_prefix(&prefix)?.parse().ok()?;
        let answer = answers.get(&ordinal).filter(|answer| answer.own == listed.id);
        let role = match (listed.is_learner, best.leader == listed.id) {
            (true, _) => Role::Learner,
            (false, true) => Role::Leader,
            (false, false) => Role::Follower,
        };
        let lag = answer.map_or(best.index, |answer| best.index.saturating_sub(answer.index));
        Some(Member { id: listed.id, ordinal, role, is_up: answer.is_some(), lag })
    };
    best.listed.iter().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: u64, name: &str, is_learner: bool) -> Listed {
        let peer_url = format!("http://kv-{}.kv-members:2380", id - 1);
        Listed { id, name: name.to_owned(), peer_url, is_learner }
    }

    fn answer(own: u64, index: u64) -> Answer {
        let all = vec![listed(1, "kv-0", false), listed(2, "kv-1", false), listed(3, "", true)];
        Answer { own, leader: 1, index, listed: all }
    }

    #[test]
    fn answers_become_members() {
        let answers = BTreeMap::from([(0, answer(1, 100)), (1, answer(2, 90))]);
        let found = members("kv", &answers);
        let expected = [
            Member { id: 1, ordinal: 0, role: Role::Leader, is_up: true, lag: 0 },
            Member { id: 2, ordinal: 1, role: Role::Follower, is_up: true, lag: 10 },
            Member { id: 3, ordinal: 2, role: Role::Learner, is_up: false, lag: 100 },
        ];
        assert_eq!(found, expected);
        assert!(members("kv", &BTreeMap::new()).is_empty());
    }

    #[test]
    fn one_that_answers_under_a_foreign_number_is_not_the_member() {
        let answers = BTreeMap::from([(0, answer(1, 100)), (1, answer(77, 90))]);
        assert!(!members("kv", &answers)[1].is_up);
    }
}
