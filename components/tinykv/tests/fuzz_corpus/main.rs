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
use std::path::PathBuf;
use tinykv::mvcc;

/// Mutations of a whole corpus.
const MUTATIONS: u64 = 12_000;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Seeded damage: flipped bits, overwritten integers, cut and repeated pieces.
fn mutate(file: &[u8], seed: u64) -> Vec<u8> {
    let mut random = history::Random::new(seed);
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => {
                let extremes = [0, 1, u64::MAX, u64::MAX / 2 + 1, 1 << 32, random.below(u64::MAX)];
                let value = extremes[random.below(6) as usize].to_le_bytes();
                let n = value.len().min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&value[..n]);
            }
            3 => bytes.truncate(at),
            _ => {
                let piece = bytes[at..(at + random.below(64) as usize).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// Puts the corpus and mutations of it before a reader; `honest` files are in the corpus, and can be read.
fn replay(target: &str, honest: &[Vec<u8>], read: impl Fn(&[u8]) -> bool + std::panic::RefUnwindSafe) {
    if std::env::var_os("WRITE_CORPUS").is_some() {
        for (number, file) in honest.iter().enumerate() {
            fs::write(folder(target).join(format!("honest-{number}")), file).expect("written");
        }
    }
    let paths = fs::read_dir(folder(target)).expect("the corpus is committed");
    let files: Vec<_> = paths.map(|entry| entry.expect("an entry").path()).collect();
    let files: Vec<_> = files.into_iter().map(|path| (fs::read(&path).expect("readable"), path)).collect();
    for file in honest {
        assert!(read(file), "{target}: an honest file cannot be read");
        assert!(files.iter().any(|(bytes, _)| bytes == file), "{target}: write it with WRITE_CORPUS=1");
    }
    let mutations = (MUTATIONS / files.len() as u64).max(20);
    for (file, path) in &files {
        read(file);
        for seed in 1..=mutations {
            let mutated = mutate(file, seed);
            let outcome = std::panic::catch_unwind(|| read(&mutated));
            assert!(outcome.is_ok(), "{} with seed {seed} panicked", path.display());
        }
    }
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
