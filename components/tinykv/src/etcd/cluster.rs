//! The Cluster service: the members, and their coming and going.

use super::Door;
use crate::identity::random_id;
use crate::membership::{Description, MemberChange, address_of};
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::cluster_server::Cluster;

fn member(id: u64, known: Description) -> pb::Member {
    let Description { name, peer_urls, client_urls, learner } = known;
    pb::Member { id, name, peer_ur_ls: peer_urls, client_ur_ls: client_urls, is_learner: learner }
}

/// Peer URLs that can be used. Like etcd, it takes those of either kind; a member meets the others only by theirs.
fn peer_urls(scheme: &str, mut urls: Vec<String>) -> Result<Vec<String>, Status> {
    if urls.is_empty() || urls.iter().any(|url| address_of(url).is_none()) {
        return Err(Status::invalid_argument("etcdserver: given member URLs are invalid"));
    }
    if let Some(url) = urls.iter().find(|url| !url.starts_with(scheme)) {
        tracing::warn!(%url, "this cluster's members have {scheme} URLs; start the member with such a one");
    }
    urls.sort();
    Ok(urls)
}

impl Door {
    async fn changed(&self, change: MemberChange) -> Result<Vec<pb::Member>, Status> {
        self.node.change_members(change).await?;
        self.listed(true).await
    }

    async fn listed(&self, linearizable: bool) -> Result<Vec<pb::Member>, Status> {
        let members = self.node.members(linearizable).await?;
        Ok(members.into_iter().map(|(id, known)| member(id, known)).collect())
    }
}

// etcd leaves the revision out of cluster answers.
#[async_trait]
impl Cluster for Door {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.admin(&request).await?;
        let request = request.into_inner();
        let (id, learner) = (random_id(), request.is_learner);
        let peer_urls = peer_urls(self.node.config.peer_scheme(), request.peer_ur_ls)?;
        let description = Description { peer_urls: peer_urls.clone(), learner, ..Description::default() };
        let members = self.changed(MemberChange::Add { id, peer_urls, learner }).await?;
        let member = Some(member(id, description));
        Ok(Response::new(pb::MemberAddResponse { header: Some(self.header(0)), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.admin(&request).await?;
        let id = request.into_inner().id;
        self.node.change_members(MemberChange::Remove(id)).await?;
        // Who has just been removed sees no more than it has.
        let members = self.listed(id != self.node.identity.member_id).await?;
        let members = members.into_iter().filter(|member| member.id != id).collect();
        Ok(Response::new(pb::MemberRemoveResponse { header: Some(self.header(0)), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.admin(&request).await?;
        let request = request.into_inner();
        let peer_urls = peer_urls(self.node.config.peer_scheme(), request.peer_ur_ls)?;
        let change = MemberChange::Update { id: request.id, peer_urls };
        let members = self.changed(change).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: Some(self.header(0)), members }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.permit(|auth| auth.check_known(&by))?;
        let members = self.listed(request.into_inner().linearizable).await?;
        Ok(Response::new(pb::MemberListResponse { header: Some(self.header(0)), members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.admin(&request).await?;
        let members = self.changed(MemberChange::Promote(request.into_inner().id)).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: Some(self.header(0)), members }))
    }
}
