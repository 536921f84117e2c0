//! Making a cluster ready to go back to the release of etcd before its own.
//!
//! A member of this program never becomes one of that release: its data directory is its own. What changes is what the
//! cluster says of itself, and the form of the snapshots that it gives out, which etcd of that release takes.

use crate::mvcc::{Command, Origin, Release};
use crate::node::Node;
use tonic::Status;
use wire::etcd::etcdserverpb::DowngradeRequest;
use wire::etcd::etcdserverpb::downgrade_request::DowngradeAction;

/// Does what is asked; answers the release that the cluster was of when it was asked, as etcd does.
pub(super) async fn downgrade(
    node: &Node,
    by: &Origin,
    request: &DowngradeRequest,
) -> Result<Release, Status> {
    let action = DowngradeAction::try_from(request.action)
        .map_err(|_| Status::unknown("etcdserver: unknown method"))?;
    let target = match action {
        DowngradeAction::Cancel => None,
        DowngradeAction::Validate | DowngradeAction::Enable => {
            Some(Release::parse(&request.version).ok_or_else(|| {
                Status::invalid_argument("etcdserver: wrong downgrade target version format")
            })?)
        }
    };
    node.barrier().await?;
    let (release, under_way) =
        node.shared.with(|keyspace| (keyspace.release(), keyspace.downgrade().is_some()));
    if let Some(target) = target {
        if target != release.before() {
            return Err(Status::invalid_argument("etcdserver: invalid downgrade target version"));
        }
        if under_way {
            return Err(crate::mvcc::Refusal::Downgrading.into());
        }
    }
    match action {
        DowngradeAction::Validate => {}
        // As with etcd 3.7, whose command line says that it is done.
        DowngradeAction::Cancel if !under_way => {
            tracing::warn!(error = "no inflight downgrade job", "failed to cancel downgrade");
        }
        DowngradeAction::Enable | DowngradeAction::Cancel => {
            node.propose(by, &Command::Downgrade(target)).await?;
        }
    }
    Ok(release)
}
