//! What a member asks the others before it founds a cluster with them.

use super::Description;
use crate::identity::Identity;
use aistack_api::tinykv::{Founder, TinykvConfig};
use futures::future::join_all;
use replication::{Channel, greet, introduce};
use std::time::Duration;

/// How often those that are awaited are asked.
const PAUSE: Duration = Duration::from_millis(200);

/// Why no cluster is founded with the others.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The cluster knows this member from an earlier life, of which nothing is left on disk. Its log held promises.
    #[error(
        "member {id:x} has already been bootstrapped, and its data is not in {path}: put that back, or give it a new place in \
         its cluster: etcdctl member remove {id:x}, etcdctl member add {name} --peer-urls={url}, and start it with \
         --initial-cluster-state existing",
        path = path.display()
    )]
    Bootstrapped {
        /// Its id.
        id: u64,
        /// Its name.
        name: String,
        /// Where it listens to its peers.
        url: String,
        /// Where its data should be.
        path: std::path::PathBuf,
    },
}

/// What another founder said of itself.
enum Heard {
    /// It founds the same cluster, or has.
    Same,
    /// It knows this member from before.
    KnowsMe,
    /// Why it cannot be counted on yet.
    Not(String),
}

/// The founders but this one.
fn others<'a>(config: &TinykvConfig, founders: &'a [Founder]) -> impl Iterator<Item = &'a Founder> {
    let name = config.name.clone();
    founders.iter().filter(move |founder| founder.name != name)
}

async fn hear(founder: &Founder, identity: Identity, channel: &dyn Channel) -> Heard {
    let cluster = match greet(&founder.address, channel).await {
        Ok(cluster) => cluster,
        Err(error) => return Heard::Not(error.to_string()),
    };
    if cluster != identity.cluster_id {
        return Heard::Not(format!(
            "it belongs to another cluster, {cluster:x}; if the list of members was changed over its data, write the list that it \
             was founded with, or add members to it: etcdctl member add, and --initial-cluster-state existing"
        ));
    }
    // One that has not begun yet greets, and knows of no members.
    let Ok(told) = introduce(&founder.address, 0, channel).await else { return Heard::Same };
    let known = told.members.get(&identity.member_id).map(Description::of);
    if known.is_some_and(|known| !known.client_urls.is_empty()) { Heard::KnowsMe } else { Heard::Same }
}

/// Asks, at a member's first start, whether another one knows it from before; those that do not answer are passed over.
pub async fn is_new(
    config: &TinykvConfig,
    founders: &[Founder],
    identity: Identity,
    channel: &dyn Channel,
) -> Result<(), FoundingError> {
    let asked = others(config, founders).map(|founder| hear(founder, identity, channel));
    if join_all(asked).await.iter().any(|heard| matches!(heard, Heard::KnowsMe)) {
        return Err(bootstrapped(config, founders, identity));
    }
    Ok(())
}

/// Waits until every founder is there to found the same cluster.
pub async fn all_there(
    config: &TinykvConfig,
    founders: &[Founder],
    identity: Identity,
    channel: &dyn Channel,
) -> Result<(), FoundingError> {
    let mut awaited: Vec<&Founder> = others(config, founders).collect();
    let mut said = String::new();
    loop {
        let heard = join_all(awaited.iter().map(|founder| hear(founder, identity, channel))).await;
        let mut missing = Vec::new();
        for (founder, heard) in std::mem::take(&mut awaited).into_iter().zip(heard) {
            match heard {
                Heard::Same => {}
                Heard::KnowsMe => return Err(bootstrapped(config, founders, identity)),
                Heard::Not(reason) => {
                    missing.push(format!("{} ({reason})", founder.name));
                    awaited.push(founder);
                }
            }
        }
        if awaited.is_empty() {
            return Ok(());
        }
        let missing = missing.join("; ");
        if missing != said {
            tracing::warn!(members = %missing, "the cluster is founded when all its members are there; waiting");
            said = missing;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn bootstrapped(config: &TinykvConfig, founders: &[Founder], identity: Identity) -> FoundingError {
    let own = founders.iter().find(|founder| founder.name == config.name);
    FoundingError::Bootstrapped {
        id: identity.member_id,
        name: config.name.clone(),
        url: own.map(|own| format!("{}{}", config.peer_scheme(), own.address)).unwrap_or_default(),
        path: config.data_dir.clone(),
    }
}
