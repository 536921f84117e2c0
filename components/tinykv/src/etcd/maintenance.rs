//! The Maintenance service.

use super::{Door, ETCD_VERSION, downgrade, snapshot};
use crate::mvcc::{Alarm, Command, Keyspace, Release};
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::alarm_request::AlarmAction;
use wire::etcd::etcdserverpb::maintenance_server::Maintenance;

/// What counts as used in a store without a key, in bytes: a page, as with etcd.
const OWN_RECORDS: u64 = 4096;

fn kind_of(alarm: Alarm) -> pb::AlarmType {
    match alarm {
        Alarm::NoSpace => pb::AlarmType::Nospace,
        Alarm::Corrupt => pb::AlarmType::Corrupt,
    }
}

pub(super) fn message(member: u64, alarm: Alarm) -> pb::AlarmMember {
    pb::AlarmMember { member_id: member, alarm: kind_of(alarm).into() }
}

#[async_trait]
impl Maintenance for Door {
    type SnapshotStream = snapshot::Stream;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        self.node.permit(|auth| match request.action {
            0 => auth.check_known(&by),
            _ => auth.check_admin(&by),
        })?;
        let unknown = |_| Status::invalid_argument("etcdserver: unknown alarm");
        let wanted = match pb::AlarmType::try_from(request.alarm).map_err(unknown)? {
            pb::AlarmType::None => None,
            pb::AlarmType::Nospace => Some(Alarm::NoSpace),
            pb::AlarmType::Corrupt => Some(Alarm::Corrupt),
        };
        let raised: Vec<(u64, Alarm)> =
            self.node.shared.with(|keyspace| keyspace.alarms().iter().copied().collect());
        let meant = |(member, alarm): &(u64, Alarm)| {
            (request.member_id == 0 || request.member_id == *member)
                && wanted.is_none_or(|wanted| wanted == *alarm)
        };
        let mut alarms = Vec::new();
        match (AlarmAction::try_from(request.action).map_err(unknown)?, wanted) {
            (AlarmAction::Get, _) => alarms.extend(raised.into_iter().filter(meant)),
            (AlarmAction::Activate, Some(alarm)) => {
                self.node.propose(&by, &Command::AlarmRaise(request.member_id, alarm)).await?;
                alarms.push((request.member_id, alarm));
            }
            (AlarmAction::Activate, None) => {
                return Err(Status::invalid_argument("etcdserver: no alarm is named"));
            }
            (AlarmAction::Deactivate, _) => {
                for (member, alarm) in raised.into_iter().filter(meant) {
                    self.node.propose(&by, &Command::AlarmClear(member, alarm)).await?;
                    alarms.push((member, alarm));
                }
            }
        }
        let alarms = alarms.into_iter().map(|(member, alarm)| message(member, alarm)).collect();
        Ok(Response::new(pb::AlarmResponse { header: self.header_now(), alarms }))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_known(&by))?;
        let group = self.node.status();
        let (in_use, alarms, release, target) = self.node.shared.with(|keyspace| {
            let alarms: Vec<_> = keyspace.alarms().iter().copied().collect();
            (keyspace.bytes(), alarms, keyspace.release(), keyspace.downgrade())
        });
        let errors = alarms
            .into_iter()
            .map(|(member, alarm)| format!("memberID:{member} alarm:{} ", kind_of(alarm).as_str_name()))
            .collect();
        Ok(Response::new(pb::StatusResponse {
            header: self.header_now(),
            version: ETCD_VERSION.to_owned(),
            db_size: self.node.shared.db().size().max(in_use) as i64,
            leader: group.leader.filter(|_| self.node.has_leader()).unwrap_or(0),
            raft_index: group.last_index,
            raft_term: group.term,
            raft_applied_index: group.applied_index,
            errors,
            // A member has records of its own before there is a key.
            db_size_in_use: in_use.max(OWN_RECORDS) as i64,
            is_learner: self.node.is_learner(),
            storage_version: release.whole(),
            db_size_quota: self.node.config.quota_bytes as i64,
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: target.is_some(),
                target_version: target.map(Release::whole).unwrap_or_default(),
            }),
        }))
    }

    /// There is nothing to stop for: compaction gives space back as it goes.
    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.admin(&request).await?;
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.admin(&request).await?;
        let (hash, _, _) = self.node.hash(0).await?;
        Ok(Response::new(pb::HashResponse { header: self.header_now(), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.admin(&request).await?;
        let (hash, hash_revision, compact_revision) = self.node.hash(request.into_inner().revision).await?;
        let header = Some(self.header(self.node.shared.with(Keyspace::revision)));
        Ok(Response::new(pb::HashKvResponse { header, hash, compact_revision, hash_revision }))
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.admin(&request).await?;
        Ok(Response::new(snapshot::stream(Arc::clone(&self.node), self.shutdown.clone())))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.admin(&request).await?;
        self.node.move_leader(request.into_inner().target_id).await?;
        Ok(Response::new(pb::MoveLeaderResponse { header: self.header_now() }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_admin(&by))?;
        let release = downgrade::downgrade(&self.node, &by, &request.into_inner()).await?;
        Ok(Response::new(pb::DowngradeResponse { header: self.header_now(), version: release.to_string() }))
    }
}
