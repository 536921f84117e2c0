//! The stores and engines of a test: those that the environment names, else our own binaries.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aistack_api::server::TlsConfig;
use parking_lot::Mutex;

use crate::hub::{NEVER_MS, crypto, eventually, free_port};

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
        let command = move || {
            let mut command = Command::new(&path);
            command.envs(settings.iter().cloned());
            command
        };
        Self::run(command, data, admin).await
    }

    pub async fn run(
        command: impl Fn() -> Command + Send + Sync + 'static,
        data: tempfile::TempDir,
        admin: u16,
    ) -> Self {
        let start = move || {
            let mut command = command();
            command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("the binary starts")
        };
        let ready = format!("http://127.0.0.1:{admin}/readyz");
        let mut process = Self { child: start(), start: Box::new(start), ready, _data: data };
        process.wait().await;
        process
    }

    async fn wait(&mut self) {
        crypto();
        let client = reqwest::Client::new();
        let (child, ready) = (Mutex::new(&mut self.child), &self.ready);
        eventually(ready, || async {
            let ended = child.lock().try_wait().expect("a child of ours");
            assert!(ended.is_none(), "{ready}: the process ended: {ended:?}");
            client.get(ready).send().await.is_ok_and(|r| r.status().is_success())
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
    match given("HUB_TEST_ETCD") {
        Some(service) => service,
        None => own_kv(None, &[]).await,
    }
}

/// TinyKV in a folder (a fresh one when none is named), with further settings.
pub async fn own_kv(folder: Option<&Path>, more: &[(&str, String)]) -> Service {
    let (client, admin) = (free_port(), free_port());
    let data = tempfile::tempdir().expect("a folder");
    let mut settings = vec![
        ("TINYKV_LISTEN_CLIENT", local(client)),
        ("TINYKV_LISTEN_PEER", local(free_port())),
        ("TINYKV_SERVER__ADMIN_LISTEN", local(admin)),
        ("TINYKV_DATA_DIR", folder.unwrap_or(data.path()).display().to_string()),
        ("TINYKV_REQUEST_LIMITS__TIMEOUT_MS", NEVER_MS.to_string()),
    ];
    settings.extend_from_slice(more);
    let process = Process::start("tinykv", &settings, data, admin).await;
    Service { url: format!("http://{}", local(client)), process: Some(process) }
}

pub async fn vectors() -> Service {
    match given("HUB_TEST_QDRANT") {
        Some(service) => service,
        None => own_vectors(None, &[]).await,
    }
}

/// etcd itself, from a binary, with TLS for its clients.
pub async fn etcd_over_tls(binary: &str, tls: &TlsConfig) -> Service {
    let (client, peer, admin) = (free_port(), free_port(), free_port());
    let data = tempfile::tempdir().expect("a folder");
    let [client_url, peer_url] = [format!("https://{}", local(client)), format!("http://{}", local(peer))];
    let mut arguments = vec![
        format!("--data-dir={}", data.path().display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
        format!("--listen-metrics-urls=http://{}", local(admin)),
        format!("--cert-file={}", tls.cert_file.display()),
        format!("--key-file={}", tls.key_file.display()),
        "--log-level=error".to_owned(),
    ];
    if let Some(ca) = &tls.client_ca_file {
        arguments.extend([format!("--trusted-ca-file={}", ca.display()), "--client-cert-auth".to_owned()]);
    }
    let binary = binary.to_owned();
    let command = move || {
        let mut command = Command::new(&binary);
        command.args(&arguments);
        command
    };
    Service { url: client_url, process: Some(Process::run(command, data, admin).await) }
}

/// VectorForge in a folder (a fresh one when none is named), with further settings.
pub async fn own_vectors(folder: Option<&Path>, more: &[(&str, String)]) -> Service {
    let (grpc, admin) = (free_port(), free_port());
    let data = tempfile::tempdir().expect("a folder");
    let mut settings = vec![
        ("VECTORFORGE_LISTEN_GRPC", local(grpc)),
        ("VECTORFORGE_LISTEN_HTTP", local(free_port())),
        ("VECTORFORGE_SERVER__ADMIN_LISTEN", local(admin)),
        ("VECTORFORGE_DATA_DIR", folder.unwrap_or(data.path()).display().to_string()),
    ];
    settings.extend_from_slice(more);
    let process = Process::start("vectorforge", &settings, data, admin).await;
    Service { url: format!("http://{}", local(grpc)), process: Some(process) }
}

pub async fn chat() -> Service {
    engine("HUB_TEST_CHAT", "smollm2-135m-instruct").await
}

pub async fn embed() -> Service {
    engine("HUB_TEST_EMBED", "all-minilm-l6-v2").await
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
