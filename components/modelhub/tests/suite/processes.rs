//! The stores and engines of a test: those that the environment names, else our own binaries.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::hub::{eventually, free_port};

/// A process of ours; it is killed when this is dropped.
pub struct Process {
    child: Child,
    start: Box<dyn Fn() -> Child + Send + Sync>,
    ready: String,
    _data: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    async fn start(binary: &str, settings: &[(&str, String)], data: tempfile::TempDir, admin: u16) -> Self {
        let path = binary_path(binary);
        let settings: Vec<(String, String)> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let start = move || {
            Command::new(&path)
                .envs(settings.iter().cloned())
                .stdout(Stdio::null())
                .stderr(Stdio::inherit())
                .spawn()
                .expect("the binary starts")
        };
        let ready = format!("http://127.0.0.1:{admin}/readyz");
        let process = Self { child: start(), start: Box::new(start), ready, _data: data };
        process.wait().await;
        process
    }

    async fn wait(&self) {
        let client = reqwest::Client::new();
        eventually(&self.ready, || async {
            client.get(&self.ready).send().await.is_ok_and(|r| r.status().is_success())
        })
        .await;
    }

    pub fn kill(&mut self) {
        // Dead already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub async fn restart(&mut self) {
        self.kill();
        self.child = (self.start)();
        self.wait().await;
    }
}

/// The binary beside this test's: `target/release/deps/suite-…` → `target/release/tinykv`.
fn binary_path(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("this test has a path");
    let folder = exe.parent().and_then(std::path::Path::parent).expect("a target directory");
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: cargo build --release --bins", path.display());
    path
}

/// A service by its URL, with the process behind it when it is ours.
pub struct Service {
    pub url: String,
    pub process: Option<Process>,
}

fn given(variable: &str) -> Option<Service> {
    let url = std::env::var(variable).ok().filter(|v| !v.is_empty())?;
    Some(Service { url, process: None })
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

pub async fn kv() -> Service {
    if let Some(service) = given("MODELHUB_TEST_ETCD") {
        return service;
    }
    let (client, admin, data) = (free_port(), free_port(), tempfile::tempdir().expect("a folder"));
    let settings = [
        ("TINYKV_LISTEN_CLIENT", local(client)),
        ("TINYKV_LISTEN_PEER", local(free_port())),
        ("TINYKV_SERVER__ADMIN_LISTEN", local(admin)),
        ("TINYKV_DATA_DIR", data.path().display().to_string()),
    ];
    let process = Process::start("tinykv", &settings, data, admin).await;
    Service { url: format!("http://{}", local(client)), process: Some(process) }
}

pub async fn vectors() -> Service {
    if let Some(service) = given("MODELHUB_TEST_QDRANT") {
        return service;
    }
    let (grpc, admin, data) = (free_port(), free_port(), tempfile::tempdir().expect("a folder"));
    let settings = [
        ("VECTORFORGE_LISTEN_GRPC", local(grpc)),
        ("VECTORFORGE_LISTEN_HTTP", local(free_port())),
        ("VECTORFORGE_SERVER__ADMIN_LISTEN", local(admin)),
        ("VECTORFORGE_DATA_DIR", data.path().display().to_string()),
    ];
    let process = Process::start("vectorforge", &settings, data, admin).await;
    Service { url: format!("http://{}", local(grpc)), process: Some(process) }
}

pub async fn chat() -> Service {
    engine("MODELHUB_TEST_CHAT", "smollm2-135m-instruct").await
}

pub async fn embed() -> Service {
    engine("MODELHUB_TEST_EMBED", "all-minilm-l6-v2").await
}

async fn engine(variable: &str, model: &str) -> Service {
    if let Some(service) = given(variable) {
        return service;
    }
    let (http, admin, data) = (free_port(), free_port(), tempfile::tempdir().expect("a folder"));
    let settings = [
        ("TINYINFER_MODEL", model.to_owned()),
        ("TINYINFER_LISTEN_HTTP", local(http)),
        ("TINYINFER_LISTEN_GRPC", local(free_port())),
        ("TINYINFER_SERVER__ADMIN_LISTEN", local(admin)),
    ];
    let process = Process::start("tinyinfer", &settings, data, admin).await;
    Service { url: format!("http://{}", local(http)), process: Some(process) }
}
