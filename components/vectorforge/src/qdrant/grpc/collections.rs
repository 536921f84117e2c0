//! The `Collections` service.

use std::sync::Arc;
use std::time::Instant;

use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::collections_server::Collections;
use qdrant_client::qdrant::{
    AliasDescription, AliasOperations, ChangeAliases, CollectionClusterInfoRequest,
    CollectionClusterInfoResponse, CollectionDescription, CollectionExists, CollectionExistsRequest,
    CollectionExistsResponse, CollectionOperationResponse, CreateCollection, CreateShardKeyRequest,
    CreateShardKeyResponse, DeleteCollection, DeleteShardKeyRequest, DeleteShardKeyResponse,
    GetCollectionInfoRequest, GetCollectionInfoResponse, ListAliasesRequest, ListAliasesResponse,
    ListCollectionAliasesRequest, ListCollectionsRequest, ListCollectionsResponse, ListShardKeysRequest,
    ListShardKeysResponse, LocalShardInfo, ReplicaState, UpdateCollection,
    UpdateCollectionClusterSetupRequest, UpdateCollectionClusterSetupResponse,
};
use tonic::{Request, Response, Status};

use super::config;
use crate::engine::AliasChange;
use crate::qdrant::error::DoorError;
use crate::qdrant::ops::Door;

/// `qdrant.Collections` over the door.
pub(crate) struct CollectionsDoor(pub(crate) Arc<Door>);

type Reply<T> = Result<Response<T>, Status>;

fn absent<T>(what: &str) -> Reply<T> {
    Err(DoorError::unsupported(what).into())
}

fn done(result: bool, started: Instant) -> Response<CollectionOperationResponse> {
    Response::new(CollectionOperationResponse { result, time: started.elapsed().as_secs_f64() })
}

fn listed(
    aliases: impl IntoIterator<Item = (String, String)>,
    started: Instant,
) -> Response<ListAliasesResponse> {
    let describe = |(alias_name, collection_name)| AliasDescription { alias_name, collection_name };
    let aliases = aliases.into_iter().map(describe).collect();
    Response::new(ListAliasesResponse { aliases, time: started.elapsed().as_secs_f64() })
}

fn alias_change(wire: AliasOperations) -> Result<AliasChange, DoorError> {
    match wire.action {
        Some(Action::CreateAlias(create)) => {
            Ok(AliasChange::Create { alias: create.alias_name, collection: create.collection_name })
        }
        Some(Action::RenameAlias(rename)) => {
            Ok(AliasChange::Rename { from: rename.old_alias_name, to: rename.new_alias_name })
        }
        Some(Action::DeleteAlias(delete)) => Ok(AliasChange::Delete { alias: delete.alias_name }),
        None => Err(DoorError::input("an alias action is empty")),
    }
}

#[tonic::async_trait]
impl Collections for CollectionsDoor {
    async fn get(&self, request: Request<GetCollectionInfoRequest>) -> Reply<GetCollectionInfoResponse> {
        let started = Instant::now();
        let name = request.into_inner().collection_name;
        let info = self.0.run(None, move |door| Ok(door.collection(&name)?.info())).await?;
        let result = Some(config::info(info));
        Ok(Response::new(GetCollectionInfoResponse { result, time: started.elapsed().as_secs_f64() }))
    }

    async fn list(&self, _: Request<ListCollectionsRequest>) -> Reply<ListCollectionsResponse> {
        let started = Instant::now();
        let names = self.0.run(None, |door| Ok(door.engine.collections())).await?;
        let collections = names.into_iter().map(|name| CollectionDescription { name }).collect();
        Ok(Response::new(ListCollectionsResponse { collections, time: started.elapsed().as_secs_f64() }))
    }

    async fn create(&self, request: Request<CreateCollection>) -> Reply<CollectionOperationResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let (name, timeout) = (wire.collection_name.clone(), wire.timeout);
        let request = config::create(wire)?;
        Ok(done(self.0.run(timeout, move |door| door.create(&name, request)).await?, started))
    }

    async fn update(&self, request: Request<UpdateCollection>) -> Reply<CollectionOperationResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let (name, timeout) = (wire.collection_name.clone(), wire.timeout);
        let change = config::update(wire)?;
        Ok(done(self.0.run(timeout, move |door| door.update(&name, change)).await?, started))
    }

    async fn delete(&self, request: Request<DeleteCollection>) -> Reply<CollectionOperationResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let name = wire.collection_name;
        Ok(done(
            self.0.run(wire.timeout, move |door| Ok(door.engine.drop_collection(&name)?)).await?,
            started,
        ))
    }

    async fn update_aliases(&self, request: Request<ChangeAliases>) -> Reply<CollectionOperationResponse> {
        let started = Instant::now();
        let wire = request.into_inner();
        let changes = wire.actions.into_iter().map(alias_change).collect::<Result<Vec<_>, _>>()?;
        self.0.run(wire.timeout, move |door| Ok(door.engine.change_aliases(&changes)?)).await?;
        Ok(done(true, started))
    }

    async fn list_collection_aliases(
        &self,
        request: Request<ListCollectionAliasesRequest>,
    ) -> Reply<ListAliasesResponse> {
        let started = Instant::now();
        let name = request.into_inner().collection_name;
        Ok(listed(self.0.run(None, move |door| door.aliases_of(&name)).await?, started))
    }

    async fn list_aliases(&self, _: Request<ListAliasesRequest>) -> Reply<ListAliasesResponse> {
        let started = Instant::now();
        Ok(listed(self.0.run(None, |door| Ok(door.engine.aliases())).await?, started))
    }

    async fn collection_cluster_info(
        &self,
        request: Request<CollectionClusterInfoRequest>,
    ) -> Reply<CollectionClusterInfoResponse> {
        let started = Instant::now();
        let name = request.into_inner().collection_name;
        let info = self.0.run(None, move |door| Ok(door.collection(&name)?.info())).await?;
        let state = ReplicaState::Active as i32;
        let shard = LocalShardInfo { shard_id: 0, points_count: info.points as u64, state, shard_key: None };
        Ok(Response::new(CollectionClusterInfoResponse {
            shard_count: 1,
            local_shards: vec![shard],
            time: started.elapsed().as_secs_f64(),
            ..CollectionClusterInfoResponse::default()
        }))
    }

    async fn collection_exists(
        &self,
        request: Request<CollectionExistsRequest>,
    ) -> Reply<CollectionExistsResponse> {
        let started = Instant::now();
        let name = request.into_inner().collection_name;
        let exists = self.0.run(None, move |door| Ok(door.exists(&name))).await?;
        let result = Some(CollectionExists { exists });
        Ok(Response::new(CollectionExistsResponse { result, time: started.elapsed().as_secs_f64() }))
    }

    // One node with one shard a collection: there is nothing to move, and no keys to shard by.

    async fn update_collection_cluster_setup(
        &self,
        _: Request<UpdateCollectionClusterSetupRequest>,
    ) -> Reply<UpdateCollectionClusterSetupResponse> {
        absent("cluster changes; a collection is one shard on one node")
    }

    async fn create_shard_key(&self, _: Request<CreateShardKeyRequest>) -> Reply<CreateShardKeyResponse> {
        absent("shard keys; a collection is one shard")
    }

    async fn delete_shard_key(&self, _: Request<DeleteShardKeyRequest>) -> Reply<DeleteShardKeyResponse> {
        absent("shard keys; a collection is one shard")
    }

    async fn list_shard_keys(&self, _: Request<ListShardKeysRequest>) -> Reply<ListShardKeysResponse> {
        absent("shard keys; a collection is one shard")
    }
}
