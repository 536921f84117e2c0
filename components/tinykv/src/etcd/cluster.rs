//! The Cluster service: the member list. Members do not come or go after the founding yet.

use super::{Door, absent};
use crate::node::Node;
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::cluster_server::Cluster;

const CHANGES: &str = "changes of a cluster's members";

/// A member tells where its own clients connect; of the others nothing of the kind is known.
fn member(node: &Node, id: u64, member: &replication::Member) -> pb::Member {
    if id != node.identity.member_id {
        return pb::Member {
            id,
            name: member.label.clone(),
            peer_ur_ls: vec![format!("http://{}", member.address)],
            client_ur_ls: Vec::new(),
            is_learner: !member.voter,
        };
    }
    let config = &node.config;
    let mut client_ur_ls = config.advertise_client_urls.clone();
    if client_ur_ls.is_empty() {
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        client_ur_ls.push(format!("{scheme}://{}", config.listen_client));
    }
    pb::Member {
        id,
        name: config.name.clone(),
        peer_ur_ls: vec![format!("http://{}", config.listen_peer)],
        client_ur_ls,
        is_learner: !member.voter,
    }
}

#[async_trait]
impl Cluster for Door {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.admin(&request).await?;
        Err(absent(CHANGES))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.admin(&request).await?;
        Err(absent(CHANGES))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.admin(&request).await?;
        Err(absent("changes of a member's addresses"))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_known(&by))?;
        let members =
            self.node.status().members.iter().map(|(id, known)| member(&self.node, *id, known)).collect();
        // etcd leaves the revision out of cluster answers.
        Ok(Response::new(pb::MemberListResponse { header: Some(self.header(0)), members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.admin(&request).await?;
        Err(absent(CHANGES))
    }
}
