//! What a member reads when it starts for the first time: who founds the group, or whom it joins. It lies in a ConfigMap of its own,
//! which no pod is made anew for: members with data do not look at it.

use k8s_openapi::api::core::v1::ConfigMap;

use super::ValidatedKvCluster;
use super::planner::Kept;
use crate::kernel::ObjectName;
use crate::kernel::apply;
use crate::kernel::child::{ChildKey, ChildKind};
use crate::kernel::cluster::Cluster;
use crate::kernel::controller::StepError;

const PEERS: &str = "TINYKV_PEERS";
const STATE: &str = "TINYKV_INITIAL_CLUSTER_STATE";
/// Tells the group from another one with the same names: members ask nobody else's, though it has their address by now.
const TOKEN: &str = "TINYKV_INITIAL_CLUSTER_TOKEN";
const FORCE: &str = "TINYKV_FORCE_NEW_CLUSTER";
/// Annotation with the uid of the pod that was there when the others were to be forgotten.
const FORCED_FROM: &str = "platform.dev/forced-from";

/// What those who begin make of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They found it together, unless whoever starts them says otherwise, as on a laptop (docs/tinykv.md, a lost volume).
    Unsaid,
    /// They found it together.
    New,
    /// It is there, and who starts was added to it.
    Existing,
}

impl State {
    /// As members read it.
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Unsaid => None,
            Self::New => Some("new"),
            Self::Existing => Some("existing"),
        }
    }

    fn of(word: Option<&str>) -> Self {
        [Self::New, Self::Existing].into_iter().find(|state| state.word() == word).unwrap_or(Self::Unsaid)
    }
}

/// Who belongs to a group, as a member that starts for the first time is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `name=url` each, by name.
    peers: Vec<String>,
    state: State,
    /// Whether founders tell the group by its object's uid. Those that an earlier operator had begun to found it do not.
    has_token: bool,
    /// Whoever starts now forgets all others; the uid of the pod that began before that was said.
    forced_from: Option<String>,
}

impl Record {
    /// Those that begin found it.
    pub(super) fn founding(kv: &ValidatedKvCluster, founders: Kept) -> Self {
        let peers = (founders.first..founders.end).map(|ordinal| {
            let member = kv.member(ordinal);
            format!("{member}={}", kv.peer_url(&member))
        });
        Self { peers: peers.collect(), state: State::New, has_token: true, forced_from: None }
    }

    /// The same where no operator looks after it.
    pub(super) fn founding_alone(kv: &ValidatedKvCluster, founders: Kept) -> Self {
        Self { state: State::Unsaid, has_token: false, ..Self::founding(kv, founders) }
    }

    /// The group is there, and these are its members.
    pub(super) fn joining(peers: Vec<String>) -> Self {
        Self { peers, state: State::Existing, has_token: true, forced_from: None }
    }

    /// Whether all but the one that starts are to be forgotten; if so, the pod that was there before.
    pub(super) fn force(&mut self, from: Option<String>) {
        self.forced_from = from;
    }

    /// The pod that was there when the others were to be forgotten.
    pub(super) fn forced_from(&self) -> Option<&str> {
        self.forced_from.as_deref()
    }

    /// Whether the group was founded already.
    pub(super) fn is_there(&self) -> bool {
        self.state == State::Existing
    }

    /// Reads the one that was written last.
    pub(super) async fn read(cluster: &Cluster, kv: &ValidatedKvCluster) -> Result<Option<Self>, StepError> {
        let key = ChildKey {
            kind: ChildKind::ConfigMap,
            object: ObjectName::new(kv.owner.namespace.as_str(), name(&kv.name)),
        };
        let map = apply::read_in_step(cluster, &key).await?;
        Ok(map.and_then(|map| serde_json::from_value(map).ok()).and_then(|map| Self::of(&map)))
    }

    fn of(map: &ConfigMap) -> Option<Self> {
        let data = map.data.as_ref()?;
        let annotations = map.metadata.annotations.as_ref();
        Some(Self {
            peers: serde_json::from_str(data.get(PEERS)?).ok()?,
            state: State::of(data.get(STATE).map(String::as_str)),
            has_token: data.contains_key(TOKEN),
            forced_from: annotations.and_then(|annotations| annotations.get(FORCED_FROM)).cloned(),
        })
    }

    /// The pods of those that it names; `None` while nobody founded it.
    pub(super) fn kept(&self, cluster: &str) -> Option<Kept> {
        let ordinal = |peer: &String| {
            let (name, _) = peer.split_once('=')?;
            super::ordinal_of(cluster, name)
        };
        let ordinals = || self.peers.iter().filter_map(ordinal);
        let (first, last) = (ordinals().min()?, ordinals().max()?);
        self.is_there().then_some(Kept { first, end: last + 1 })
    }

    /// As environment variables that pods read when they start. It has the same keys from the founding on, so that one write changes it.
    pub(super) fn manifest(&self, kv: &ValidatedKvCluster) -> ConfigMap {
        let mut metadata = kv.owner.metadata(name(&kv.name));
        let peers = serde_json::to_string(&self.peers).expect("strings are JSON");
        let mut data = vec![(PEERS.to_owned(), peers)];
        data.extend(self.state.word().map(|word| (STATE.to_owned(), word.to_owned())));
        if self.has_token && !kv.uid.is_empty() {
            data.push((TOKEN.to_owned(), kv.uid.clone()));
        }
        if let Some(pod) = &self.forced_from {
            metadata.annotations = Some([(FORCED_FROM.to_owned(), pod.clone())].into());
            data.push((FORCE.to_owned(), "true".to_owned()));
        }
        ConfigMap { metadata, data: Some(data.into_iter().collect()), ..ConfigMap::default() }
    }
}

/// Name of the ConfigMap.
pub(super) fn name(cluster: &str) -> String {
    format!("{cluster}-peers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut object = aistack_crds::KVCluster::new("kv", aistack_crds::KVClusterSpec::default());
        object.spec.replicas = 3;
        object.metadata.uid = Some("of the object".to_owned());
        let kv = super::super::validate(&object, "").expect("valid");
        let founding = Record::founding(&kv, Kept::to(3));
        assert_eq!(founding.peers[2], "kv-2=http://kv-2.kv-members:2380");
        let joining = Record::joining(vec!["kv-1=http://a:1".to_owned(), "kv-2=http://b:1".to_owned()]);
        let mut forced = joining.clone();
        forced.force(Some("uid".to_owned()));
        for (record, kept) in [
            (founding, None),
            (Record::founding_alone(&kv, Kept::to(3)), None),
            (joining, Some(Kept { first: 1, end: 3 })),
            (forced, Some(Kept { first: 1, end: 3 })),
        ] {
            assert_eq!(Record::of(&record.manifest(&kv)), Some(record.clone()));
            assert_eq!(record.kept("kv"), kept);
        }
    }

    #[test]
    fn a_group_is_told_from_one_with_the_same_names() {
        let tokens = |uid: &str| {
            let mut object = aistack_crds::KVCluster::new("kv", aistack_crds::KVClusterSpec::default());
            object.metadata.uid = Some(uid.to_owned());
            let kv = super::super::validate(&object, "").expect("valid");
            let founding = Record::founding(&kv, Kept::to(1)).manifest(&kv);
            let mut earlier = founding.clone();
            earlier.data.get_or_insert_default().remove(TOKEN);
            let earlier = Record::of(&earlier).expect("a record").manifest(&kv);
            [founding, earlier].map(|map| map.data.and_then(|data| data.get(TOKEN).cloned()))
        };
        assert_eq!(tokens("a"), [Some("a".to_owned()), None], "what is being founded goes on as it began");
        assert_eq!(tokens("b")[0].as_deref(), Some("b"));
    }
}
