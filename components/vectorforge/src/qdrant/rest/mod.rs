//! Qdrant's REST interface.
//!
//! Beside Qdrant's own paths there are short ones: `POST /collections/{name}/search`, `/query`, `/scroll`, `/count`,
//! `/upsert` and `/delete` do what the same word under `/collections/{name}/points` does.

mod collections;
mod extract;
mod points;
mod search;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{any, get, post, put};
use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

pub(crate) use extract::refusal;

use super::error::DoorError;
use super::json::answer::Answer;
use super::ops::Door;
use super::{COMMIT, TITLE, VERSION};

/// Paths of Qdrant that VectorForge answers with 501 and the reason.
const ABSENT: &[(&str, &str)] = &[
    ("/collections/{name}/points/query/groups", "grouped queries"),
    ("/collections/{name}/points/search/groups", "grouped searches"),
    ("/collections/{name}/points/search/matrix/pairs", "distance matrices"),
    ("/collections/{name}/points/search/matrix/offsets", "distance matrices"),
    ("/collections/{name}/points/recommend", "recommendation"),
    ("/collections/{name}/points/recommend/batch", "recommendation"),
    ("/collections/{name}/points/recommend/groups", "recommendation"),
    ("/collections/{name}/points/discover", "discovery"),
    ("/collections/{name}/points/discover/batch", "discovery"),
    ("/collections/{name}/shards", "shard keys; a collection is one shard"),
    ("/collections/{name}/shards/delete", "shard keys; a collection is one shard"),
    ("/collections/{name}/vectors/{vector}", "adding and dropping vector fields of a living collection"),
    ("/collections/{name}/snapshots", "snapshots by request; the data directory is checkpointed by itself"),
    (
        "/collections/{name}/snapshots/{*rest}",
        "snapshots by request; the data directory is checkpointed by itself",
    ),
    ("/snapshots", "snapshots by request; the data directory is checkpointed by itself"),
    ("/snapshots/{*rest}", "snapshots by request; the data directory is checkpointed by itself"),
    ("/locks", "write locks"),
];

/// All REST routes.
pub(crate) fn router(door: Arc<Door>) -> Router {
    let mut router = Router::new()
        .route("/", get(root))
        .route("/livez", get(|| async { "livez check passed\n" }))
        .route("/telemetry", get(telemetry))
        .route("/cluster", get(cluster))
        .route("/collections", get(collections::list))
        .route("/collections/aliases", post(collections::change_aliases))
        .route("/aliases", get(collections::aliases))
        .merge(collection_routes())
        .merge(point_routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method);
    for (path, what) in ABSENT {
        router = router.route(path, any(move || async move { DoorError::unsupported(*what) }));
    }
    router.with_state(door)
}

fn collection_routes() -> Router<Arc<Door>> {
    Router::new()
        .route(
            "/collections/{name}",
            get(collections::info)
                .put(collections::create)
                .patch(collections::update)
                .delete(collections::delete),
        )
        .route("/collections/{name}/exists", get(collections::exists))
        .route("/collections/{name}/cluster", get(collections::cluster))
        .route("/collections/{name}/aliases", get(collections::aliases_of))
        .route("/collections/{name}/index", put(collections::create_index))
        .route("/collections/{name}/index/{field}", axum::routing::delete(collections::delete_index))
}

fn point_routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/collections/{name}/points", put(points::upsert).post(points::get_many))
        .route("/collections/{name}/points/{id}", get(points::get_one))
        .route("/collections/{name}/points/delete", post(points::delete))
        .route("/collections/{name}/points/payload", post(points::set_payload).put(points::overwrite_payload))
        .route("/collections/{name}/points/payload/delete", post(points::delete_payload))
        .route("/collections/{name}/points/payload/clear", post(points::clear_payload))
        .route("/collections/{name}/points/vectors", put(points::update_vectors))
        .route("/collections/{name}/points/vectors/delete", post(points::delete_vectors))
        .route("/collections/{name}/points/batch", post(points::update_batch))
        .route("/collections/{name}/points/scroll", post(search::scroll))
        .route("/collections/{name}/points/count", post(search::count))
        .route("/collections/{name}/points/search", post(search::search))
        .route("/collections/{name}/points/search/batch", post(search::search_batch))
        .route("/collections/{name}/points/query", post(search::query))
        .route("/collections/{name}/points/query/batch", post(search::query_batch))
        .route("/collections/{name}/facet", post(search::facet))
        .route("/collections/{name}/upsert", post(points::upsert))
        .route("/collections/{name}/delete", post(points::delete))
        .route("/collections/{name}/search", post(search::search))
        .route("/collections/{name}/query", post(search::query))
        .route("/collections/{name}/scroll", post(search::scroll))
        .route("/collections/{name}/count", post(search::count))
}

async fn root() -> axum::Json<Value> {
    axum::Json(json!({"title": TITLE, "version": VERSION, "commit": COMMIT}))
}

async fn telemetry(State(door): State<Arc<Door>>) -> Result<Answer<Value>, DoorError> {
    let started = std::time::Instant::now();
    let collections = door.run(None, |door| Ok(door.engine.collections().len())).await?;
    let telemetry = json!({
        "id": door.instance.to_string(),
        "app": {"name": "vectorforge", "version": VERSION, "startup": door.startup},
        "collections": {"number_of_collections": collections},
    });
    Ok(Answer::new(started, telemetry))
}

async fn cluster() -> Answer<Value> {
    Answer::new(std::time::Instant::now(), json!({"status": "disabled"}))
}

async fn unknown_path(uri: Uri) -> Response {
    refusal(StatusCode::NOT_FOUND, &format!("Not found: there is no path {}", uri.path()))
}

async fn unknown_method(method: Method, uri: Uri) -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, &format!("{} does not take {method}", uri.path()))
}
