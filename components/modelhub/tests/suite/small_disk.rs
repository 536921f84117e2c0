//! A disk that fills: a clear error, nothing half registered, and all is well when there is space again.
//!
//! Small file systems are mounted in a namespace of the test's own; where the machine does not allow that, the test says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::hub::{Hub, eventually};
use crate::pdf::Quick;
use crate::processes;

const MB: usize = 1 << 20;

/// Runs `child` of this module with a tmpfs of `size` at `$MODELHUB_SMALL_DISK`.
fn on_a_small_disk(child: &str, size: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let script = format!(
        "mount -t tmpfs -o size={size} tmpfs \"$MODELHUB_SMALL_DISK\" || exit 77; exec \"$0\" --exact small_disk::{child} --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().expect("this test"))
        .env("MODELHUB_SMALL_DISK", dir.path())
        .output();
    match output {
        Ok(output) if output.status.code() != Some(77) && !output.stdout.is_empty() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("survived"), "{text}\n{complaint}");
        }
        other => println!("not run: this machine does not let us mount a small file system ({other:?})"),
    }
}

/// The small file system, in a child.
fn small_disk() -> Option<PathBuf> {
    std::env::var_os("MODELHUB_SMALL_DISK").map(PathBuf::from)
}

/// Files below a folder with their sizes.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), entry.metadata().expect("there").len()));
        }
    }
    found
}

/// Fills a file system up to the last `leave` bytes.
fn fill(place: &Path, leave: usize) -> PathBuf {
    use std::io::Write;
    let path = place.join("ballast");
    let mut file = std::fs::File::create(&path).expect("a file");
    let piece = vec![1_u8; 64 << 10];
    let mut written = 0;
    while file.write_all(&piece).is_ok() {
        written += piece.len();
    }
    file.set_len(written.saturating_sub(leave) as u64).expect("shorter");
    path
}

#[test]
fn uploads_to_a_full_disk_leave_nothing() {
    on_a_small_disk("child_uploads", "24m");
}

#[tokio::test]
async fn child_uploads() {
    let Some(disk) = small_disk() else { return };
    let kv = processes::own_kv(None, &[]).await;
    let place = disk.join("artefacts");
    let hub = Hub::start(|config| {
        crate::stack::on(config, &kv);
        config.artefacts = place.display().to_string();
    })
    .await;
    for model in ["m", "big"] {
        assert_eq!(hub.post("/api/v1/models", &json!({"name": model})).await.0, 201);
        assert_eq!(hub.post(&format!("/api/v1/models/{model}/versions"), &json!({})).await.0, 201);
    }
    let at = |model: &str, file: &str| format!("/api/v1/models/{model}/versions/1/files/{file}");
    assert_eq!(hub.put(&at("m", "kept"), vec![1; 3 * MB]).await.0, 200);
    let large = vec![2_u8; 40 * MB];
    let digest = hex::encode(Sha256::digest(&large));
    for announced in [false, true] {
        let mut request = hub.client.put(format!("{}{}", hub.url, at("big", "weights"))).body(large.clone());
        if announced {
            request = request.header("x-checksum-sha256", &digest);
        }
        let (status, reply) = hub.send(request).await;
        assert_eq!((status, reply["error"]["code"].as_str()), (507, Some("artefact_store_full")), "{reply}");
        let message = reply["error"]["message"].as_str().expect("a sentence").to_owned();
        assert!(message.contains("free space"), "{message}");
        eventually("what was written is gone", || async { files(&place).len() == 1 }).await;
    }
    let (_, version) = hub.get("/api/v1/models/big/versions/1").await;
    assert_eq!(version["files"], json!([]), "nothing is registered");
    let link = json!({"sha256": digest});
    assert_eq!(hub.post(&at("big", "weights"), &link).await.0, 404, "nor can it be linked");
    assert_eq!(hub.put(&at("m", "other"), vec![3; 12 * MB]).await.0, 200, "what fits is taken");
    let (status, reply) = hub.put(&at("big", "weights"), vec![4; 12 * MB]).await;
    assert_eq!(status, 507, "{reply}");
    assert_eq!(hub.delete("/api/v1/models/m/versions/1").await.0, 200);
    assert_eq!(hub.put(&at("big", "weights"), vec![4; 12 * MB]).await.0, 200, "there is space again");
    assert_eq!(files(&place).iter().map(|(_, size)| size).sum::<u64>(), 12 * MB as u64);
    println!("survived");
}

#[test]
fn an_ingest_into_a_full_vector_store_leaves_nothing() {
    on_a_small_disk("child_ingest", "192m");
}

fn text(topic: &str, paragraphs: usize) -> String {
    let words = |i: usize| format!("{topic} {i} ").repeat(60);
    let paragraphs: Vec<String> =
        (0..paragraphs).map(|i| format!("## {topic} {i}\n\n{}\n\n", words(i))).collect();
    paragraphs.concat()
}

#[tokio::test]
async fn child_ingest() {
    let Some(disk) = small_disk() else { return };
    let vectors = processes::own_vectors(Some(&disk.join("vectors")), &[]).await;
    let mut quick = Quick::start(processes::own_kv(None, &[]).await, vectors).await;
    assert_eq!(quick.put("kept.md", "The printer is called Gutenberg.").await.0, 200);
    let ballast = fill(&disk, MB / 2);
    let mut refused = None;
    for i in 0..60 {
        let file = format!("f{i}.md");
        let (status, reply) = quick.put(&file, text(&format!("topic{i}"), 400)).await;
        if status != 200 {
            refused = Some((file, status, reply));
            break;
        }
    }
    let (file, status, reply) = refused.expect("the disk is full in the end");
    assert_eq!(
        (status, reply["error"]["code"].as_str()),
        (507, Some("vector_store_full")),
        "{file}: {reply}"
    );
    let (held, passages) = quick.show().await;
    let (_, plan) = quick
        .hub
        .post(&format!("/api/v1/rag/{}/sync", quick.rag), &json!({"files": [{"path": file, "sha256": "x"}]}))
        .await;
    assert_eq!(plan["needed"], json!([file]), "it is not registered");
    assert_eq!(quick.search("printer Gutenberg").await.passages[0].file, "kept.md", "what is there is found");
    std::fs::remove_file(ballast).expect("there");
    let topic = file.trim_end_matches(".md").replace('f', "topic");
    if quick.put(&file, text(&topic, 400)).await.0 != 200 {
        // A store that stopped writing after a failed sync says so until it is started again.
        quick.vectors.process.as_mut().expect("ours").restart().await;
    }
    eventually("it is taken again", || async { quick.put(&file, text(&topic, 400)).await.0 == 200 }).await;
    let (files, all) = quick.show().await;
    assert!(files == held + 1 && all > passages, "{files} files, {all} passages");
    assert_eq!(quick.search("printer Gutenberg").await.passages[0].file, "kept.md");
    println!("survived");
}

#[test]
fn a_full_key_value_store_registers_nothing() {
    on_a_small_disk("child_registry", "160m");
}

#[tokio::test]
async fn child_registry() {
    let Some(disk) = small_disk() else { return };
    let mut kv = processes::own_kv(Some(&disk.join("kv")), &[]).await;
    let hub = Hub::start(|config| crate::stack::on(config, &kv)).await;
    assert_eq!(hub.post("/api/v1/models", &json!({"name": "kept"})).await.0, 201);
    let ballast = fill(&disk, 256 << 10);
    let mut made = vec!["kept".to_owned()];
    let mut refused = None;
    for i in 0..2_000 {
        let name = format!("m{i}");
        let body = json!({"name": name, "description": format!("{i} ").repeat(20_000)});
        let (status, reply) = hub.post("/api/v1/models", &body).await;
        if status != 201 {
            refused = Some((name, status, reply));
            break;
        }
        made.push(name);
    }
    let (name, status, reply) = refused.expect("the disk is full in the end");
    let code = reply["error"]["code"].as_str().unwrap_or_default();
    assert!(
        matches!((status, code), (503, "kv_store_unavailable") | (507, "kv_store_full")),
        "{status} {reply}"
    );
    std::fs::remove_file(ballast).expect("there");
    // TinyKV stops on a full disk, so that nothing is acknowledged that is not written.
    kv.process.as_mut().expect("ours").restart().await;
    eventually("it is taken again", || async { hub.get("/api/v1/models").await.0 == 200 }).await;
    for name in &made {
        assert_eq!(hub.get(&format!("/api/v1/models/{name}")).await.0, 200, "{name} was acknowledged");
    }
    let (status, reply) = hub.post("/api/v1/models", &json!({"name": name})).await;
    assert!(matches!(status, 201 | 409), "an answer that was lost may have been a yes: {reply}");
    println!("survived");
}
