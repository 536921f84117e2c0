//! Names of Services for one process: it sees a file of hosts of its own, and engines stand behind the names in it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};
use axum::{Json, Router};
use e2e::process::Process;
use serde_json::json;
use tokio::net::TcpListener;

/// Port of engines.
const PORT: u16 = 8000;

/// A file of hosts, as one process sees it.
#[derive(Debug)]
pub struct Names {
    hosts: PathBuf,
    /// The last number of the next address.
    next: AtomicU8,
}

impl Names {
    /// None yet.
    pub fn new(folder: &Path) -> Result<Self> {
        let hosts = folder.join("hosts");
        std::fs::write(&hosts, "127.0.0.1 localhost\n")?;
        Ok(Self { hosts, next: AtomicU8::new(1) })
    }

    /// Starts a process that knows them.
    pub fn start(&self, folder: &Path, name: &str, program: &Path, args: &[String]) -> Result<Process> {
        let mut all: Vec<String> = Vec::new();
        if std::fs::metadata("/proc/self")?.uid() != 0 {
            all.extend(["--user", "--map-root-user"].map(str::to_owned));
        }
        let mount = format!("mount --bind '{}' /etc/hosts && exec \"$0\" \"$@\"", self.hosts.display());
        all.extend(["--mount".to_owned(), "sh".to_owned(), "-c".to_owned(), mount]);
        all.push(program.display().to_string());
        all.extend(args.iter().cloned());
        Process::start(folder, name, Path::new("unshare"), &all)
    }

    /// An engine that answers behind a name, until the test ends.
    pub async fn answers(&self, name: &str) -> Result<()> {
        let known = std::fs::read_to_string(&self.hosts)?;
        if known.lines().any(|line| line.ends_with(&format!(" {name}"))) {
            return Ok(());
        }
        let models = || async { Json(json!({"object": "list", "data": []})) };
        let engine = Router::new().fallback(models);
        let listener = self.listen().await?;
        let address = listener.local_addr()?.ip();
        tokio::spawn(async move { axum::serve(listener, engine).await });
        let mut hosts = OpenOptions::new().append(true).open(&self.hosts)?;
        writeln!(hosts, "{address} {name}").context("write the hosts")
    }

    async fn listen(&self) -> Result<TcpListener> {
        // Of this process; one that another test has taken already is passed over.
        let [low, high, ..] = std::process::id().to_le_bytes();
        loop {
            let last = self.next.fetch_add(1, Ordering::Relaxed);
            let address = Ipv4Addr::new(127, 64 | (high & 63), low, last);
            match TcpListener::bind((address, PORT)).await {
                Ok(listener) => return Ok(listener),
                Err(_) if last < 250 => {}
                Err(error) => return Err(error).with_context(|| format!("listen on {address}:{PORT}")),
            }
        }
    }
}
