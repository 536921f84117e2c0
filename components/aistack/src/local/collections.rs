//! Collections of a manifest, created on their VectorForge once it is ready.

use std::rc::Rc;
use std::time::Duration;

use super::board::Board;
use super::plan::CollectionPlan;

/// Creates what does not exist yet; says on stderr what could not be.
pub async fn create_all(collections: Vec<CollectionPlan>, board: Rc<Board>) {
    board.until(super::state::StackStatus::all_ready).await;
    let Ok(client) = reqwest::Client::builder().timeout(Duration::from_secs(30)).build() else { return };
    for collection in collections {
        if let Err(error) = create(&client, &collection).await {
            eprintln!("aistack: VectorCollection {}: {error}", collection.name);
        }
    }
}

async fn create(client: &reqwest::Client, collection: &CollectionPlan) -> Result<(), String> {
    let url = format!("{}/collections/{}", collection.server, collection.name);
    let exists = client.get(&url).send().await.map_err(|error| error.to_string())?;
    if exists.status() == reqwest::StatusCode::NOT_FOUND {
        put(client, &url, &collection.create).await?;
    }
    for index in &collection.indexes {
        put(client, &format!("{url}/index"), index).await?;
    }
    Ok(())
}

async fn put(client: &reqwest::Client, url: &str, body: &serde_json::Value) -> Result<(), String> {
    let reply = client.put(url).json(body).send().await.map_err(|error| error.to_string())?;
    let status = reply.status();
    if status.is_success() {
        return Ok(());
    }
    let text = reply.text().await.unwrap_or_default();
    Err(format!("{url} answered {status}: {text}"))
}
