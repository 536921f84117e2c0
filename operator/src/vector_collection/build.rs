//! A collection becomes its creation request; one with servers of its own becomes a StatefulSet as well.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aistack_api::vectorforge::VectorforgeConfig;
use aistack_crds::parts::{PodOverrides, ResourceSpec};
use aistack_crds::vector_collection::PayloadIndex;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;
use serde_json::{Value, json};

use super::validate::Hnsw;
use super::{ADMIN_PORT, COMPONENT, GRPC_PORT, Home, REST_PORT, ValidatedVectorCollection};
use crate::ending::Ending;
use crate::gpu::Gpu;
use crate::manifest::{COLLECTION_LABEL, Manifests};
use crate::meta::{Image, Owner};
use crate::pod::pod_name_env;
use crate::workload::{ADMIN_PORT as ADMIN, Claim, ConfigFile, DATA_DIR, Port, Probes, Reach, Workload};

/// A collection as it is asked for: what is sent to `PUT /collections/{name}`, and to `PUT /collections/{name}/index`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct CollectionRequest {
    pub(super) name: String,
    server: String,
    pub(super) create: Value,
    pub(super) indexes: Vec<Value>,
}

/// The request for a collection, wherever it lives.
pub(super) fn request(collection: &ValidatedVectorCollection) -> CollectionRequest {
    let server = match &collection.home {
        Home::Stack(_) => COMPONENT.to_owned(),
        Home::Own(_) => format!("{COMPONENT}-{}", collection.name),
    };
    CollectionRequest {
        name: collection.name.clone(),
        server: format!("http://{server}:{REST_PORT}"),
        create: create_request(collection),
        indexes: collection.payload_indexes.iter().map(index_request).collect(),
    }
}

/// What a VectorCollection becomes.
pub fn build(collection: &ValidatedVectorCollection) -> Manifests {
    let mut manifests = Manifests::default();
    if let Home::Own(own) = &collection.home {
        let shape = ServerShape {
            name: format!("{COMPONENT}-{}", collection.name),
            owner: collection.owner.clone(),
            image: own.image.clone(),
            resources: own.resources.clone(),
            pod: own.pod.clone(),
        };
        manifests.append(self::server(&shape, &own.claim));
    }
    let request = request(collection);
    let mut metadata = collection.owner.metadata(format!("{}-collection", collection.name));
    metadata.labels.get_or_insert_default().insert(COLLECTION_LABEL.to_owned(), collection.name.clone());
    let text = serde_json::to_string_pretty(&request).expect("a request is plain data");
    manifests.push(ConfigMap {
        metadata,
        data: Some(BTreeMap::from([("collection.json".to_owned(), text)])),
        ..ConfigMap::default()
    });
    manifests
}

/// Body of Qdrant's `PUT /collections/{name}`.
fn create_request(collection: &ValidatedVectorCollection) -> Value {
    let distance = serde_json::to_value(collection.distance).expect("an enum is plain data");
    // What the engine does not have yet is a gap, which it is not asked for.
    let mut body = json!({"vectors": {"size": collection.dimension, "distance": distance}});
    if let Hnsw::Given(hnsw) = &collection.hnsw {
        body["hnsw_config"] = json!({"m": hnsw.m, "ef_construct": hnsw.ef_construct});
        if let Some(threshold) = hnsw.full_scan_threshold {
            body["hnsw_config"]["full_scan_threshold"] = json!(threshold);
        }
    }
    body
}

/// Body of Qdrant's `PUT /collections/{name}/index`.
fn index_request(index: &PayloadIndex) -> Value {
    json!({"field_name": index.field, "field_schema": index.kind})
}

/// A VectorForge server, of a collection's own or of a stack.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerShape {
    /// Name of the StatefulSet and of the Service.
    pub(crate) name: String,
    /// Whom it belongs to.
    pub(crate) owner: Owner,
    /// Image.
    pub(crate) image: Image,
    /// CPU and memory.
    pub(crate) resources: ResourceSpec,
    /// Where it may run.
    pub(crate) pod: PodOverrides,
}

/// The StatefulSet of a VectorForge server and what goes with it.
pub(crate) fn server(shape: &ServerShape, claim: &Claim) -> Manifests {
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let config = VectorforgeConfig {
        server: Ending::ALONE.server(any(ADMIN_PORT)),
        listen_http: any(REST_PORT),
        listen_grpc: any(GRPC_PORT),
        data_dir: PathBuf::from(DATA_DIR),
        ..VectorforgeConfig::default()
    };
    let config = ConfigFile::yaml(COMPONENT, &config);
    Workload {
        name: shape.name.clone(),
        owner: shape.owner.clone(),
        // Servers of this version do not share collections: nobody would be led to a second one.
        replicas: 1,
        image: shape.image.clone(),
        command: vec![COMPONENT.to_owned()],
        args: vec!["--config".to_owned(), config.path()],
        ports: vec![
            Port { name: "http", number: REST_PORT, reach: Reach::Clients },
            Port { name: "grpc", number: GRPC_PORT, reach: Reach::Clients },
            Port { name: ADMIN, number: ADMIN_PORT, reach: Reach::Node },
        ],
        config: vec![config],
        env: vec![pod_name_env("VECTORFORGE_SERVER__TELEMETRY__INSTANCE")],
        secrets: Vec::new(),
        models: false,
        resources: shape.resources.clone(),
        // It computes on the CPU: a device would be taken from those that have use for it.
        gpu: Gpu::None,
        // Opening large collections maps their files and replays the log.
        probes: Probes::admin(600),
        ending: Ending::ALONE,
        overrides: shape.pod.clone(),
        service_annotations: BTreeMap::new(),
    }
    .stateful(claim)
}
