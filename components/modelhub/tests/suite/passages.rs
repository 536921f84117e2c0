//! Passages that the embedding model finds too long, stores that lose passages, and questions that an engine refuses.

use qdrant_client::Qdrant;
use serde_json::json;

use crate::engine::Manner;
use crate::pdf::Quick;
use crate::processes;

async fn quick() -> Quick {
    Quick::start(processes::kv().await, processes::vectors().await).await
}

#[tokio::test]
async fn refused_passages_are_halved_and_their_spans_stay_exact() {
    let quick = quick().await;
    let file = format!(
        "# Gauges\n\n{}\n\n{}\n",
        "A gauge stands on the bank of the river. ".repeat(30).trim(),
        "水位计".repeat(60)
    );
    quick.embed.set(Manner::EmbedUpTo(70));
    let (status, reply) = quick.put("gauges.md", file.clone()).await;
    assert_eq!(status, 200, "{reply}");
    let passages = reply["passages"].as_u64().expect("a number");
    assert!(passages > 20, "{reply}");
    assert_eq!(quick.show().await, (1, passages));
    let body = json!({"question": "Where does a gauge stand?", "top_k": 100});
    let (_, found) = quick.hub.post(&format!("/api/v1/rag/{}/search", quick.rag), &body).await;
    for passage in found["passages"].as_array().expect("passages") {
        let at = |key: &str| passage[key].as_u64().expect("a number") as usize;
        assert_eq!(&file[at("start_byte")..at("end_byte")], passage["text"].as_str().expect("text"));
    }
    let (_, again) = quick.put("gauges.md", file).await;
    assert_eq!((again["unchanged"].as_bool(), again["passages"].as_u64()), (Some(true), Some(passages)));
}

#[tokio::test]
async fn a_collection_deleted_behind_our_back_is_told_and_mended() {
    let quick = quick().await;
    let text = "# Leave\n\nRequests are made ten working days before.\n";
    quick.put("leave.md", text).await;
    let path = format!("/api/v1/rag/{}", quick.rag);
    assert_eq!(quick.hub.get(&path).await.1["stored"].as_u64(), Some(1));
    let store = Qdrant::from_url(&quick.vectors.url).skip_compatibility_check().build().expect("a client");
    store.delete_collection(&quick.rag).await.expect("deleted");
    let (_, rag) = quick.hub.get(&path).await;
    assert_eq!((rag["passages"].as_u64(), rag["stored"].as_u64()), (Some(1), Some(0)), "{rag}");
    let (_, reply) = quick.put("leave.md", text).await;
    assert_eq!(reply["unchanged"].as_bool(), Some(false), "{reply}");
    assert_eq!(quick.hub.get(&path).await.1["stored"].as_u64(), Some(1));
}

#[tokio::test]
async fn what_the_engine_refuses_of_a_question_is_the_clients_mistake() {
    let quick = quick().await;
    quick.put("leave.md", "# Leave\n\nRequests are made ten working days before.\n").await;
    for (manner, status, code) in
        [(400, 400, "engine_refused"), (422, 422, "engine_refused"), (401, 503, "answer_broke_off")]
    {
        quick.chat.set(Manner::Fail(manner));
        let (got, error) = quick.query("When are requests made?").await;
        assert_eq!((got, error["error"]["code"].as_str()), (status, Some(code)), "{error}");
        assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains("not now")), "{error}");
    }
}
