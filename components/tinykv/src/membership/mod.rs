//! Who the members are, and how they change.
//!
//! Raft knows an address and a label of each; the label holds what etcd tells of a member. A
//! member that is added as a voter begins without a vote, since Raft counts a new voter before it
//! has anything; its leader gives it one when it has caught up. Clients see a voter all the while.

pub mod founding;
mod rules;

pub use rules::{MemberRefusal, View, decide, due_to_vote};

use crate::identity::{Identity, member_id};
use crate::members::{Question, Reply};
use crate::node::{Node, NodeError};
use aistack_api::tinykv::{Founder, TinykvConfig};
use replication::{Channel, Member, ProposeError, introduce};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a process that joins asks for its cluster.
const JOIN_LIMIT: Duration = Duration::from_mins(1);
/// How often it asks, and how often the leader looks whether a new member is due to vote.
const PAUSE: Duration = Duration::from_millis(200);
/// How often anybody looks whether there is such a member.
const REST: Duration = Duration::from_secs(1);

/// What a label says of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name; empty until it has started.
    pub name: String,
    /// Where it listens to its peers.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
    /// Whether it was added as a learner.
    pub learner: bool,
}

impl Description {
    /// The label of a founder that has not started: its name alone, unless members encrypt.
    pub fn of_founder(founder: &Founder, scheme: &str) -> String {
        if scheme == "http://" {
            return founder.name.clone();
        }
        let peer_urls = vec![format!("{scheme}{}", founder.address)];
        Self { name: founder.name.clone(), peer_urls, ..Self::default() }.member().label
    }

    /// Reads a member's label.
    pub fn of(member: &Member) -> Self {
        serde_json::from_str(&member.label).unwrap_or_else(|_| Self {
            name: member.label.clone(),
            peer_urls: vec![format!("http://{}", member.address)],
            ..Self::default()
        })
    }

    /// The member so described, without a vote.
    pub fn member(&self) -> Member {
        let address = self.peer_urls.first().and_then(|url| address_of(url)).unwrap_or_default();
        let label = serde_json::to_string(self).expect("strings and a flag are JSON");
        Member { address, label, voter: false }
    }
}

/// Who founds the group that this member starts in: an address each, and after a line feed the label. Nobody, where it
/// joined a cluster.
pub fn founding(config: &TinykvConfig, identity: Identity, founders: &[Founder]) -> BTreeMap<u64, String> {
    let of = |founder: &Founder| {
        let label = Description::of_founder(founder, config.peer_scheme());
        (member_id(founder), format!("{}\n{label}", founder.address))
    };
    let together: BTreeMap<u64, String> = founders.iter().filter(|_| !identity.joined).map(of).collect();
    if together.is_empty() && !identity.has_peers {
        return BTreeMap::from([(identity.member_id, format!("{}\n{}", config.listen_peer, config.name))]);
    }
    together
}

/// The host and port of a peer URL that can be used.
pub fn address_of(url: &str) -> Option<String> {
    let address = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let (host, port) = address.rsplit_once(':')?;
    let usable = !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok();
    usable.then(|| address.to_owned())
}

/// A change of the members, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Add one.
    Add {
        /// Its id, never another's.
        id: u64,
        /// Where it will listen.
        peer_urls: Vec<String>,
        /// Whether it shall have no vote.
        learner: bool,
    },
    /// Give a learner a vote.
    Promote(u64),
    /// Remove one.
    Remove(u64),
    /// Change where one listens.
    Update {
        /// Which one.
        id: u64,
        /// Where it will listen.
        peer_urls: Vec<String>,
    },
    /// A member that has started tells of itself.
    Publish {
        /// Which one.
        id: u64,
        /// Its name.
        name: String,
        /// Where clients reach it.
        client_urls: Vec<String>,
    },
}

/// What a leader is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The change.
    pub change: MemberChange,
    /// Whether it was asked for before, and may be done.
    pub again: bool,
}

impl Node {
    /// The members by id; with `linearizable`, after every change acknowledged before.
    pub async fn members(&self, linearizable: bool) -> Result<Vec<(u64, Description)>, NodeError> {
        if linearizable {
            self.barrier().await?;
        }
        let described = |(id, member): (&u64, &Member)| {
            let mut description = Description::of(member);
            description.learner &= !member.voter;
            (*id, description)
        };
        Ok(self.group.members().iter().map(described).collect())
    }

    /// Whether this member is a learner, which serves next to nothing.
    pub fn is_learner(&self) -> bool {
        // Asked with every request.
        if self.group.votes() {
            return false;
        }
        let members = self.group.members();
        members.get(&self.identity.member_id).is_some_and(|member| Description::of(member).learner)
    }

    /// Waits until this member is known here to have a vote; one that has just come knows nothing of itself. `false`: it is gone.
    pub fn until_voter(&self) -> impl Future<Output = bool> + Send + 'static + use<> {
        self.group.until_voter()
    }

    /// Whether this member is in touch with a leader.
    pub fn has_leader(&self) -> bool {
        self.group.has_leader()
    }

    /// Whether this member was removed from its cluster.
    pub fn removed(&self) -> bool {
        self.group.removed()
    }

    /// Changes the members, through whoever leads.
    pub async fn change_members(&self, change: MemberChange) -> Result<(), NodeError> {
        if !self.has_peers {
            return Err(NodeError::NoPeers);
        }
        self.in_time(async {
            let mut request = Request { change, again: false };
            loop {
                let question = Question::Change(request.clone());
                match self.group.ask_leader(question.encode()).await.map(Reply::decode) {
                    Ok(Some(Reply::Changed(outcome))) => return Ok(outcome?),
                    // The leader hands over first, or another change is under way.
                    Ok(_) | Err(ProposeError::NotLeader { .. } | ProposeError::Unknown(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                request.again = true;
                tokio::time::sleep(PAUSE / 2).await;
            }
        })
        .await
    }

    /// Changes the members here, on the leader.
    pub(crate) async fn change_here(&self, request: &Request) -> Reply {
        // Nothing to do is told like a refusal, to change nothing.
        let outcome = self
            .group
            .change(|members| match decide(members, request, &self.view()) {
                Ok(Some(change)) => Ok(change),
                Ok(None) => Err(None),
                Err(refusal) => Err(Some(refusal)),
            })
            .await;
        match outcome {
            Ok(Ok(()) | Err(None)) => {
                tracing::info!(change = ?request.change, "members");
                Reply::Changed(Ok(()))
            }
            Ok(Err(Some(refusal))) => Reply::Changed(Err(refusal)),
            Err(error) => {
                tracing::debug!(%error, change = ?request.change, "members stay as they are for now");
                Reply::NotNow
            }
        }
    }

    fn view(&self) -> View {
        let (me, last) = (self.identity.member_id, self.status().last_index);
        View { me, last, progress: self.group.progress() }
    }

    /// Tells the others this member's name and where its clients connect, if they do not know.
    async fn publish(&self) -> bool {
        let (id, name) = (self.identity.member_id, self.config.name.clone());
        let client_urls = self.client_urls();
        let members = self.group.members();
        let Some(own) = members.get(&id) else { return false };
        let known = Description::of(own);
        if known.name == name && known.client_urls == client_urls {
            return true;
        }
        let request = Request { change: MemberChange::Publish { id, name, client_urls }, again: false };
        let question = Question::Change(request).encode();
        let asked = self.in_time(async { Ok(self.group.ask_leader(question).await?) }).await;
        matches!(asked.map(Reply::decode), Ok(Some(Reply::Changed(Ok(())))))
    }

    fn client_urls(&self) -> Vec<String> {
        if !self.config.advertise_client_urls.is_empty() {
            return self.config.advertise_client_urls.clone();
        }
        let scheme = if self.config.server.tls.is_some() { "https" } else { "http" };
        vec![format!("{scheme}://{}", self.config.listen_client)]
    }
}

/// Tells the others of this member once; gives votes to those that are due while it leads.
pub async fn look_after(node: Weak<Node>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::time::sleep(pause).await;
        pause = PAUSE;
        let Some(node) = node.upgrade() else { continue };
        if !node.is_published() && node.publish().await {
            node.published.store(true, Ordering::Release);
        }
        if node.is_published() && node.group.members().values().all(|member| member.voter) {
            pause = REST;
            continue;
        }
        if node.leader() == Some(node.identity.member_id)
            && let Some(id) = due_to_vote(&node.group.members(), &node.view())
        {
            let given = node.group.change(|members| match members.get(&id) {
                Some(member) if !member.voter => Ok(replication::Change::Promote(id)),
                _ => Err(()),
            });
            match given.await {
                Ok(Ok(())) => tracing::info!(member = format_args!("{id:x}"), "a new member votes"),
                Ok(Err(())) => {}
                Err(error) => tracing::debug!(%error, "a new member does not vote yet"),
            }
        }
    }
}

/// Finds the cluster that this process was added to, and its place in it.
pub async fn join(
    config: &TinykvConfig,
    listed: &[Founder],
    channel: &dyn Channel,
) -> Result<Identity, String> {
    let scheme = config.peer_scheme();
    let own = listed.iter().find(|founder| founder.name == config.name);
    let own = own.ok_or("the list of members does not name this one")?;
    let meant = |member: &Member| {
        let urls = Description::of(member).peer_urls;
        urls.iter().filter_map(|url| address_of(url)).any(|address| address == own.address)
    };
    let mut reason = "the list of members names nobody else".to_owned();
    let search = async {
        let mut told_of = String::new();
        loop {
            for other in listed.iter().filter(|founder| founder.name != config.name) {
                match introduce(&other.address, 0, channel).await {
                    Ok(told) => match told.members.iter().find(|(_, member)| meant(member)) {
                        // It was there before: its log held promises, and an empty one would break them.
                        Some((id, member)) if !Description::of(member).client_urls.is_empty() => {
                            reason = format!(
                                "member {id:x} has started before, and its data is not in {}: put that back, or give it a new \
                                 place in its cluster: etcdctl member remove {id:x}, etcdctl member add {} --peer-urls={scheme}{}",
                                config.data_dir.display(),
                                own.name,
                                own.address
                            );
                        }
                        Some((id, _)) => return Identity::joined(told.cluster, *id),
                        None => {
                            reason = format!(
                                "the cluster has no member at {scheme}{}; add it first: etcdctl member add {} --peer-urls={scheme}{}",
                                own.address, own.name, own.address
                            );
                        }
                    },
                    Err(error) => reason = format!("{}: {error}", other.name),
                }
            }
            if reason != told_of {
                tracing::warn!(reason, "it has not joined its cluster yet");
                told_of.clone_from(&reason);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let found = tokio::time::timeout(JOIN_LIMIT, search).await;
    found.map_err(|_| reason)
}

/// Notes when there has been no leader for three elections: streams that want one end then.
pub async fn watch_for_desertion(node: Weak<Node>) {
    let mut without = 0;
    loop {
        let pause = node.upgrade().map_or(PAUSE, |node| Duration::from_millis(node.config.raft.election_ms));
        tokio::time::sleep(pause).await;
        let Some(node) = node.upgrade() else { continue };
        without = if node.has_leader() { 0 } else { without + 1 };
        node.deserted.send_if_modified(|deserted| {
            let changed = *deserted != (without >= 3);
            *deserted = without >= 3;
            changed
        });
    }
}
