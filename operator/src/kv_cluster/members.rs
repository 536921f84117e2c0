//! A group as its members say that it is.

use std::collections::BTreeMap;
use std::time::Duration;

use aistack_api::cause::innermost;
use etcd_client::{Certificate, Client, ConnectOptions, MemberAddOptions, TlsOptions};

use super::invariants::Answered;
use super::planner::{Member, Role, Step};
use super::seen::Seen;
use super::{ValidatedKvCluster, trust};
use crate::kernel::cluster::Cluster;
use crate::kernel::controller::StepError;
use crate::outside;

/// How long one member may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Most letters of what a member says of why it does not answer.
const MOST_SAID: usize = 200;

fn step_error(reason: &'static str, message: String) -> StepError {
    StepError { reason, message }
}

/// Who belongs to a group, as whichever of them is furthest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Those that are pods of ours.
    pub members: Vec<Member>,
    /// All of them, as `name=url`, by name.
    pub peers: Vec<String>,
    /// All of them, by number and name.
    pub listed: Vec<(u64, String)>,
    /// What each pod says of itself.
    pub answers: BTreeMap<u16, Answered>,
    /// Why others do not.
    pub silent: BTreeMap<u16, String>,
}

/// A way to the members of a cluster: by the addresses of their pods, which need no name server between.
pub(super) struct Members<'a> {
    kv: &'a ValidatedKvCluster,
    addresses: BTreeMap<u16, String>,
    authority: Option<Certificate>,
}

impl<'a> Members<'a> {
    /// Reads what is needed to check their certificates.
    pub(super) async fn of(
        cluster: &Cluster,
        kv: &'a ValidatedKvCluster,
        seen: &Seen,
    ) -> Result<Self, StepError> {
        let authority = trust::authorities(cluster, kv, seen).await?;
        Ok(Self { kv, addresses: seen.addresses(), authority: authority.map(Certificate::from_pem) })
    }

    async fn connect(&self, address: &str) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
        if let Some(authority) = &self.authority {
            let tls = TlsOptions::new().ca_certificate(authority.clone()).domain_name(self.kv.name.clone());
            options = options.with_tls(tls);
        }
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        Client::connect([self.kv.client_url(&host)], Some(options)).await
    }

    /// The members, as whichever is furthest lists them, each with what it says of itself. Empty: none answers.
    pub(super) async fn list(&self) -> Listing {
        let asked = self.addresses.iter().map(|(ordinal, address)| async move {
            let asked = outside::call(Box::pin(self.ask(address))).await;
            (*ordinal, asked.unwrap_or_else(|outside::Late| Err("it took too long".to_owned())))
        });
        let (mut answers, mut silent) = (BTreeMap::new(), BTreeMap::new());
        for (ordinal, asked) in futures::future::join_all(asked).await {
            match asked {
                Ok(answer) => {
                    silent.extend(answer.unlisted.clone().map(|why| (ordinal, why)));
                    answers.insert(ordinal, answer);
                }
                Err(why) => {
                    silent.insert(ordinal, why);
                }
            }
        }
        if !silent.is_empty() {
            tracing::debug!(?silent, "members do not answer");
        }
        Listing { silent, ..listing(&self.kv.name, &answers) }
    }

    async fn ask(&self, address: &str) -> Result<Answer, String> {
        let mut client = self.connect(address).await.map_err(|error| why(&error))?;
        let status = client.status().await.map_err(|error| why(&error))?;
        let named = |member: &etcd_client::Member| Listed {
            id: member.id(),
            name: member.name().to_owned(),
            peer_url: member.peer_urls().first().cloned().unwrap_or_default(),
            is_learner: member.is_learner(),
        };
        // A learner says how it is, and leaves who the others are to those that vote.
        let (listed, unlisted) = match client.member_list().await {
            Ok(list) => (Some(list.members().iter().map(named).collect()), None),
            Err(_) if status.is_learner() => (Some(Vec::new()), None),
            Err(error) => (None, Some(why(&error))),
        };
        let header = status.header();
        let own = Answered {
            cluster: header.map(etcd_client::ResponseHeader::cluster_id).unwrap_or_default(),
            member: header.map(etcd_client::ResponseHeader::member_id).unwrap_or_default(),
            applied: status.raft_applied_index(),
        };
        Ok(Answer { own, leader: status.leader(), index: status.raft_index(), listed, unlisted })
    }

    /// Changes who belongs to the group, who votes, and who leads.
    pub(super) async fn change(&self, leader: Option<u16>, step: &Step) -> Result<(), StepError> {
        let address = leader.and_then(|leader| self.addresses.get(&leader));
        let address = address.ok_or_else(|| {
            let message = "the leader's pod has no address at the moment".to_owned();
            StepError { reason: "MembershipFailed", message }
        })?;
        let changed = async {
            let client = self.connect(address).await.map_err(|error| refused("reach the leader", &error))?;
            self.ask_for(client, step).await
        };
        let late = |outside::Late| step_error("MembershipFailed", "the leader took too long".to_owned());
        outside::call(Box::pin(changed)).await.map_err(late)?
    }

    async fn ask_for(&self, mut client: Client, step: &Step) -> Result<(), StepError> {
        match step {
            Step::AddLearner(ordinal) => {
                let url = self.kv.peer_url(&self.kv.member(*ordinal));
                let options = MemberAddOptions::new().with_is_learner();
                let added = client.member_add([url], Some(options)).await;
                added.map(drop).map_err(|error| refused("add a member", &error))
            }
            Step::MoveLeader { to, .. } => {
                client.move_leader(*to).await.map(drop).map_err(|error| refused("move the leader", &error))
            }
            Step::Promote(id) => {
                let promoted = client.member_promote(*id).await;
                promoted.map(drop).map_err(|error| refused("promote a learner", &error))
            }
            Step::Remove { id, .. } => {
                client.member_remove(*id).await.map(drop).map_err(|error| refused("remove a member", &error))
            }
            _ => Ok(()),
        }
    }
}

fn refused(what: &str, error: &etcd_client::Error) -> StepError {
    step_error("MembershipFailed", format!("could not {what}: {}", why(error)))
}

/// The innermost of an error, of which its type tells nothing.
fn why(error: &etcd_client::Error) -> String {
    let said = match error {
        etcd_client::Error::GRpcStatus(status) if !status.message().is_empty() => status.message().to_owned(),
        etcd_client::Error::GRpcStatus(status) => innermost(status),
        etcd_client::Error::TransportError(error) => innermost(error),
        other => other.to_string(),
    };
    said.chars().take(MOST_SAID).collect()
}

/// What one member answered.
struct Answer {
    own: Answered,
    leader: u64,
    index: u64,
    /// Who belongs to the group; `None`: it cannot say, so it is of no use to anybody.
    listed: Option<Vec<Listed>>,
    /// Why it cannot.
    unlisted: Option<String>,
}

struct Listed {
    id: u64,
    name: String,
    peer_url: String,
    is_learner: bool,
}

impl Listed {
    /// A member that never started has no name yet; its address says which pod it is for.
    fn name(&self) -> &str {
        let host = self.peer_url.split_once("://").map_or(self.peer_url.as_str(), |(_, rest)| rest);
        if self.name.is_empty() { host.split('.').next().unwrap_or_default() } else { &self.name }
    }
}

/// Puts the answers together. The list of the one that is furthest on counts.
fn listing(cluster: &str, answers: &BTreeMap<u16, Answer>) -> Listing {
    let own = answers.iter().map(|(ordinal, answer)| (*ordinal, answer.own)).collect();
    let answers: BTreeMap<u16, &Answer> =
        answers.iter().filter(|(_, it)| it.listed.is_some()).map(|(ordinal, it)| (*ordinal, it)).collect();
    let lists = answers.values().filter_map(|answer| Some((answer, answer.listed.as_ref()?)));
    let best = lists.filter(|(_, listed)| !listed.is_empty()).max_by_key(|(answer, _)| answer.index);
    let Some((best, listed)) = best else { return Listing { answers: own, ..Listing::default() } };
    let member = |listed: &Listed| {
        let ordinal = super::ordinal_of(cluster, listed.name())?;
        let answer = answers.get(&ordinal).filter(|answer| answer.own.member == listed.id);
        let role = match (listed.is_learner, best.leader == listed.id) {
            (true, _) => Role::Learner,
            (false, true) => Role::Leader,
            (false, false) => Role::Follower,
        };
        let lag = answer.map_or(best.index, |answer| best.index.saturating_sub(answer.index));
        Some(Member { id: listed.id, ordinal, role, is_up: answer.is_some(), lag })
    };
    let mut peers: Vec<String> =
        listed.iter().map(|listed| format!("{}={}", listed.name(), listed.peer_url)).collect();
    peers.sort();
    Listing {
        members: listed.iter().filter_map(member).collect(),
        peers,
        listed: listed.iter().map(|listed| (listed.id, listed.name().to_owned())).collect(),
        answers: own,
        silent: BTreeMap::new(),
    }
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
        let own = Answered { cluster: 7, member: own, applied: index };
        Answer { own, leader: 1, index, listed: Some(all), unlisted: None }
    }

    #[test]
    fn answers_become_members() {
        let learner = Answer { listed: Some(Vec::new()), ..answer(3, 101) };
        let answers = BTreeMap::from([(0, answer(1, 100)), (1, answer(2, 90)), (2, learner)]);
        let found = listing("kv", &answers);
        assert_eq!(found.peers[2], "kv-2=http://kv-2.kv-members:2380");
        let expected = [
            Member { id: 1, ordinal: 0, role: Role::Leader, is_up: true, lag: 0 },
            Member { id: 2, ordinal: 1, role: Role::Follower, is_up: true, lag: 10 },
            Member { id: 3, ordinal: 2, role: Role::Learner, is_up: true, lag: 0 },
        ];
        assert_eq!(found.members, expected);
        assert!(listing("kv", &BTreeMap::new()).members.is_empty());
    }

    #[test]
    fn one_that_no_pod_is_called_like_is_no_member_of_ours() {
        for name in ["kv-300", "kv-7", "kv-65535", "kv-02", "kv-", "etcd-0"] {
            let mut told = answer(1, 100);
            told.listed.get_or_insert_default().push(listed(9, name, false));
            let found = listing("kv", &BTreeMap::from([(0, told)]));
            assert_eq!(found.members.iter().map(|it| it.ordinal).collect::<Vec<_>>(), [0, 1, 2], "{name}");
            assert!(found.listed.contains(&(9, name.to_owned())), "it is told of");
            let record = super::super::record::Record::joining(found.peers);
            assert_eq!(record.kept("kv"), Some(super::super::planner::Kept::to(3)), "{name}");
        }
    }

    #[test]
    fn one_that_answers_under_a_foreign_number_is_not_the_member() {
        let answers = BTreeMap::from([(0, answer(1, 100)), (1, answer(77, 90))]);
        assert!(!listing("kv", &answers).members[1].is_up);
    }

    #[test]
    fn one_that_cannot_list_the_others_is_away_and_still_says_who_it_is() {
        let answers = BTreeMap::from([(0, answer(1, 100)), (1, Answer { listed: None, ..answer(2, 900) })]);
        let found = listing("kv", &answers);
        assert!(!found.members[1].is_up && found.members[0].lag == 0, "{found:?}");
        assert_eq!(found.answers[&1], Answered { cluster: 7, member: 2, applied: 900 });
    }
}
