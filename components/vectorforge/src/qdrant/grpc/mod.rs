//! Qdrant's gRPC interface, on the service traits of the `qdrant-client` crate.

mod collections;
mod config;
mod filter;
mod index;
mod points;
mod query;
mod snapshots;
mod value;
mod write;

use std::sync::Arc;

use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use qdrant_client::qdrant::snapshots_server::SnapshotsServer;
use qdrant_client::qdrant::{HealthCheckReply, HealthCheckRequest};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::ops::Door;
use super::{COMMIT, TITLE, VERSION};

struct HealthDoor;

#[tonic::async_trait]
impl Qdrant for HealthDoor {
    async fn health_check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckReply>, Status> {
        let reply = HealthCheckReply {
            title: TITLE.to_owned(),
            version: VERSION.to_owned(),
            commit: Some(COMMIT.to_owned()),
        };
        Ok(Response::new(reply))
    }
}

/// Qdrant's services added to `routes`. Messages may be as large as a REST body.
pub(crate) fn add_services(routes: Routes, door: &Arc<Door>, max_message_bytes: usize) -> Routes {
    let points = PointsServer::new(points::PointsDoor(door.clone()))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(usize::MAX);
    let collections = CollectionsServer::new(collections::CollectionsDoor(door.clone()))
        .max_decoding_message_size(max_message_bytes);
    routes
        .add_service(points)
        .add_service(collections)
        .add_service(SnapshotsServer::new(snapshots::SnapshotsDoor))
        .add_service(QdrantServer::new(HealthDoor))
}
