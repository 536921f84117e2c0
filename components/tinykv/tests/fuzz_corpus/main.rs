//! What fuzzing found worth keeping, and thousands of mutations of it, before what reads commands, snapshot files and bodies of the gateway.

#[path = "../../src/bbolt/mod.rs"]
#[allow(dead_code, unused_imports)]
mod bbolt;
#[path = "../../fuzz/exercise/bbolt.rs"]
mod exercise_bbolt;
#[path = "../../fuzz/exercise/command.rs"]
mod exercise_command;
#[path = "../../fuzz/exercise/gateway.rs"]
mod exercise_gateway;
#[path = "../../src/etcd/gateway/frames.rs"]
#[allow(dead_code)]
mod frames;
#[path = "../determinism/history.rs"]
#[allow(dead_code)]
mod history;
#[path = "../../src/etcd/gateway/json.rs"]
#[allow(dead_code)]
mod json;

use std::fs::{self, File};
use std::path::Path;
use tinykv::mvcc;

/// Puts the corpus and mutations of it before a reader; `honest` files are in the corpus, and can be read.
fn replay(target: &str, honest: &[Vec<u8>], read: impl Fn(&[u8]) -> bool + std::panic::RefUnwindSafe) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let honest: Vec<_> =
        honest.iter().enumerate().map(|(n, file)| (format!("honest-{n}"), file.clone())).collect();
    let outcome = corpus::replay(&folder, &honest, read);
    assert!(outcome.is_ok(), "{target}: {outcome:?}");
}

#[test]
fn commands_of_the_corpus_and_mutations_of_them_do_no_harm() {
    // One of each length of a hundred: every kind is among them.
    let mut honest: Vec<Vec<u8>> =
        history::history(7, 3_000).iter().map(|(command, _)| command.to_vec()).collect();
    honest.sort_by_key(Vec::len);
    honest.dedup_by_key(|command| command.len());
    honest.retain(|command| command.len() < 300);
    let honest: Vec<_> = honest.into_iter().step_by(6).collect();
    replay("command", &honest, exercise_command::command);
}

#[test]
fn bbolt_files_of_the_corpus_and_mutations_of_them_do_no_harm() {
    let dir = tempfile::tempdir().expect("dir");
    let honest: Vec<_> = [3, 200]
        .into_iter()
        .map(|keys| {
            let path = dir.path().join("honest");
            let mut writer = bbolt::Writer::new(File::create(&path).expect("created")).expect("a file");
            for name in ["auth", "key", "meta"] {
                let fill = |number: u32| (number.to_be_bytes(), vec![b'v'; number as usize % 50]);
                writer
                    .bucket(name, |bucket| {
                        (0..keys).map(fill).try_for_each(|(key, value)| bucket.put(&key, &value))
                    })
                    .expect("a bucket");
            }
            writer.finish().expect("written").0.sync_all().expect("on disk");
            fs::read(&path).expect("read")
        })
        .collect();
    let scratch = dir.path().join("scratch");
    replay("bbolt", &honest, |data| exercise_bbolt::bbolt(data, &scratch));
}

#[test]
fn bodies_of_the_corpus_and_mutations_of_them_do_no_harm() {
    let bodies = [
        "\x00{\"key\":\"Zm9v\",\"range_end\":\"Zm9w\",\"limit\":\"5\",\"sort_order\":\"DESCEND\",\"keysOnly\":true}",
        "\x01{\"compare\":[{\"target\":\"VERSION\",\"key\":\"Zm9v\",\"version\":\"1\"}],\"success\":[{\"requestRange\":{\"key\":\"Zm9v\"}},\
         {\"request_txn\":{\"failure\":[{\"request_put\":{\"key\":\"YQ==\",\"lease\":9}}]}}]}",
        "\x02{\"key\":\"Zm9v\",\"value\":\"YmFy\",\"prev_kv\":true} {\"key\":\"Zm9v\"}",
        "\x03{\"create_request\":{\"key\":\"Zm9v\",\"filters\":[\"NOPUT\"],\"watch_id\":\"-3\"}}\n{\"progress_request\":{}}",
        "\x05{\"name\":\"r\",\"perm\":{\"permType\":\"READWRITE\",\"key\":\"YQ==\",\"range_end\":\"AA==\"}}",
        "\x06{\"peerURLs\":[\"http://127.0.0.1:2380\"],\"isLearner\":false,\"unknown\":[null,1.5e3]}",
    ];
    let honest: Vec<_> = bodies.iter().map(|body| body.as_bytes().to_vec()).collect();
    replay("gateway", &honest, exercise_gateway::gateway);
}
