//! Writing a state as etcd keeps one.

use super::{
    ALARM, AUTH, AUTH_ENABLED, AUTH_REVISION, CLUSTER, DOWNGRADE, FINISHED_COMPACTION, KEY, LEASE,
    LeaseRecord, MEMBERS, MEMBERS_REMOVED, META, ROLES, SCHEDULED_COMPACTION, USERS, revision_key,
};
use crate::bbolt::Writer;
use crate::etcd::{auth, maintenance, response};
use crate::membership::Description;
use crate::mvcc::Auth;
use crate::store::{Loaded, Still};
use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use wire::etcd::{authpb, mvccpb};

/// What a snapshot tells beside the state.
pub struct About {
    /// The members and their ids.
    pub members: BTreeMap<u64, Description>,
    /// Up to where in the log the state goes, about.
    pub index: u64,
    /// The term there.
    pub term: u64,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes a state into a file, without the digest; answers it and its length.
pub fn write(still: &Still<'_>, about: &About, file: File) -> io::Result<(File, u64)> {
    let rest = &still.rest;
    let mut writer = Writer::new(file)?;
    let small = |writer: &mut Writer, name: &str, records: Records| {
        writer.bucket(name, |bucket| records.iter().try_for_each(|(key, value)| bucket.put(key, value)))
    };
    let alarms = rest.alarms.iter().map(|(member, alarm)| maintenance::message(*member, *alarm));
    // In the order of their names.
    small(&mut writer, ALARM, alarms.map(|alarm| (alarm.encode_to_vec(), Vec::new())).collect())?;
    small(&mut writer, AUTH, guards(&rest.auth))?;
    small(&mut writer, ROLES, roles(&rest.auth))?;
    small(&mut writer, USERS, users(&rest.auth))?;
    small(&mut writer, CLUSTER, cluster(rest))?;
    writer.bucket(KEY, |bucket| {
        let mut last = rest.compacted.max(1);
        still.each_version(|number, change| {
            let kv = change.kv;
            last = last.max(kv.mod_revision);
            let key = revision_key(kv.mod_revision, number.into(), change.is_deletion);
            let message = if change.is_deletion {
                mvccpb::KeyValue { key: kv.key, ..mvccpb::KeyValue::default() }
            } else {
                response::key_value(kv)
            };
            bucket.put(&key, &message.encode_to_vec())
        })?;
        // Where nothing was written at the latest revision, an empty version stands for it, as
        // etcd's own tools do it.
        if last < rest.revision { bucket.put(&revision_key(rest.revision, 0, false), &[]) } else { Ok(()) }
    })?;
    let lease = |(id, ttl): &(i64, i64)| {
        let record = LeaseRecord { id: *id, ttl: *ttl, remaining: 0 };
        (id.to_be_bytes().to_vec(), record.encode_to_vec())
    };
    small(&mut writer, LEASE, rest.leases.iter().map(lease).collect())?;
    small(&mut writer, MEMBERS, about.members.iter().map(|(id, member)| named(*id, member)).collect())?;
    small(&mut writer, MEMBERS_REMOVED, Records::new())?;
    small(&mut writer, META, meta(rest, about))?;
    writer.finish()
}

fn cluster(rest: &Loaded) -> Records {
    let mut records = Records::from([(b"clusterVersion".to_vec(), rest.release().whole().into())]);
    if let Some(target) = rest.downgrade {
        let info = json!({"target-version": target.whole(), "enabled": true});
        records.insert(DOWNGRADE.to_vec(), info.to_string().into());
    }
    records
}

fn guards(auth: &Auth) -> Records {
    Records::from([
        (AUTH_ENABLED.to_vec(), vec![u8::from(auth.enabled())]),
        (AUTH_REVISION.to_vec(), auth.revision().to_be_bytes().to_vec()),
    ])
}

fn users(auth: &Auth) -> Records {
    let record = |name: &str| {
        let user = auth.user(name)?;
        let message = authpb::User {
            name: Bytes::copy_from_slice(name.as_bytes()),
            password: user.password.clone(),
            roles: user.roles.iter().cloned().collect(),
            options: Some(authpb::UserAddOptions { no_password: user.no_password }),
        };
        Some((name.as_bytes().to_vec(), message.encode_to_vec()))
    };
    auth.users().filter_map(record).collect()
}

fn roles(auth: &Auth) -> Records {
    let record = |name: &str| {
        let mut permissions = auth.role(name)?.permissions.clone();
        // etcd searches them by key.
        permissions.sort_by(|one, other| one.key.cmp(&other.key));
        let message = authpb::Role {
            name: Bytes::copy_from_slice(name.as_bytes()),
            key_permission: permissions.into_iter().map(auth::message).collect(),
        };
        Some((name.as_bytes().to_vec(), message.encode_to_vec()))
    };
    auth.roles().filter_map(record).collect()
}

fn named(id: u64, member: &Description) -> (Vec<u8>, Vec<u8>) {
    let mut record = json!({"id": id, "peerURLs": member.peer_urls});
    for (field, value, is_there) in [
        ("name", json!(member.name), !member.name.is_empty()),
        ("clientURLs", json!(member.client_urls), !member.client_urls.is_empty()),
        ("isLearner", json!(true), member.learner),
    ] {
        if is_there {
            record[field] = value;
        }
    }
    (format!("{id:x}").into(), record.to_string().into())
}

fn meta(rest: &Loaded, about: &About) -> Records {
    let of = |is_learner: bool| -> Vec<u64> {
        about.members.iter().filter(|(_, member)| member.learner == is_learner).map(|(id, _)| *id).collect()
    };
    let mut votes = json!({"voters": of(false), "auto_leave": false});
    if about.members.values().any(|member| member.learner) {
        votes["learners"] = json!(of(true));
    }
    let mut records = Records::from([
        (b"confState".to_vec(), votes.to_string().into()),
        (b"consistent_index".to_vec(), about.index.max(1).to_be_bytes().to_vec()),
        (b"storageVersion".to_vec(), rest.release().whole().into()),
        (b"term".to_vec(), about.term.max(1).to_be_bytes().to_vec()),
    ]);
    if rest.compacted >= 0 {
        let revision = revision_key(rest.compacted, 0, false);
        records.insert(FINISHED_COMPACTION.to_vec(), revision.clone());
        records.insert(SCHEDULED_COMPACTION.to_vec(), revision);
    }
    records
}
