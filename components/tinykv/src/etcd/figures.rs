//! What etcd tells of a member under `/metrics`, on every listener that has the page.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use aistack_chassis::Metrics;

use super::ETCD_VERSION;
use super::rpcs::Rpcs;
use crate::metrics::gauges;
use crate::mvcc::Keyspace;
use crate::node::Node;

/// Has the member's figures follow those of the process.
pub(super) fn follow(metrics: &Metrics, node: &Arc<Node>, rpcs: &Arc<Rpcs>) {
    // A member that has ended is not kept by its figures.
    let (node, rpcs): (Weak<Node>, _) = (Arc::downgrade(node), rpcs.clone());
    metrics.followed_by(move |metrics| {
        node.upgrade().map_or_else(String::new, |node| text(&node, metrics, &rpcs))
    });
}

fn text(node: &Node, metrics: &Metrics, rpcs: &Rpcs) -> String {
    let mut calls = rpcs.text();
    if node.config.extensive_metrics {
        calls.push_str(&rpcs.durations());
    }
    let (received, sent) = metrics.bytes();
    for (direction, bytes) in [("received", received), ("sent", sent)] {
        let name = format!("etcd_network_client_grpc_{direction}_bytes");
        // Writing to a string cannot fail.
        let _ = writeln!(calls, "# TYPE {name} counter\n{name}_total {bytes}");
    }
    let cluster = node.shared.with(Keyspace::release);
    format!(
        "{}{calls}# TYPE etcd_server_version gauge\n\
         etcd_server_version{{server_version=\"{ETCD_VERSION}\"}} 1\n\
         # TYPE etcd_cluster_version gauge\netcd_cluster_version{{cluster_version=\"{cluster}\"}} 1\n\
         # TYPE etcd_server_id gauge\netcd_server_id{{server_id=\"{:x}\"}} 1\n",
        state(node),
        node.identity.member_id
    )
}

fn state(node: &Node) -> String {
    let group = node.status();
    let (auth_revision, keys, bytes, revision, compacted, leases) = node.shared.with(|keyspace| {
        (
            keyspace.auth().revision(),
            keyspace.keys(),
            keyspace.bytes(),
            keyspace.revision(),
            keyspace.compacted(),
            keyspace.leases().count(),
        )
    });
    let learner = group.members.get(&group.node).is_some_and(|member| !member.voter);
    let values = [
        ("etcd_server_is_learner", f64::from(u8::from(learner))),
        ("etcd_server_has_leader", f64::from(u8::from(node.has_leader()))),
        ("etcd_server_is_leader", f64::from(u8::from(group.leader == Some(group.node)))),
        ("etcd_server_proposals_committed_total", group.applied_index as f64),
        ("etcd_server_quota_backend_bytes", node.config.quota_bytes as f64),
        ("etcd_mvcc_db_total_size_in_bytes", node.shared.db().size().max(bytes) as f64),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", bytes as f64),
        ("etcd_debugging_mvcc_keys_total", keys as f64),
        ("etcd_debugging_mvcc_current_revision", revision as f64),
        ("etcd_debugging_mvcc_compact_revision", compacted as f64),
        ("etcd_debugging_lease_total", leases as f64),
        ("etcd_debugging_auth_revision", auth_revision as f64),
    ];
    gauges(&node.shared.figures, &values)
}
