//! The supervisor: starts the pods, keeps them running, stops them in order.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::board::Board;
use super::collections;
use super::plan::{LocalPlan, PodPlan};
use super::pod::{LOG_BYTES, Order, PodTask};
use super::programs::{self, ProgramError};
use super::proxy;
use super::state::{StackFolder, StateError};
use super::tail;

/// Time between two looks at how large the logs are.
const LOG_CHECK: Duration = Duration::from_secs(30);

/// Why a supervisor could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// A program is missing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// State could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The address of a Service is taken.
    #[error("listen on 127.0.0.1:{port} for Service {service}: {source}")]
    Proxy {
        /// Name of the Service.
        service: String,
        /// Port.
        port: u16,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Signals could not be handled.
    #[error("handle signals: {0}")]
    Signals(std::io::Error),
    /// This program could not find itself.
    #[error("find this program: {0}")]
    OwnPath(std::io::Error),
}

/// A running pod's task and how it is told things.
struct Running {
    plan: PodPlan,
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

/// A stack that runs under this process.
pub struct Supervisor {
    board: Rc<Board>,
    running: Vec<Running>,
}

impl Supervisor {
    /// Starts every pod. Must be called on the thread that lives as long as the supervisor: the kernel kills the pods
    /// when the thread that started them ends. Needs a `LocalSet`.
    pub async fn start(
        plan: LocalPlan,
        folder: StackFolder,
        manifest: PathBuf,
    ) -> Result<Self, SuperviseError> {
        let shim = std::env::current_exe().map_err(SuperviseError::OwnPath)?;
        let programs = programs::find_all(&plan.pods)?;
        let board = Rc::new(Board::new(&plan, folder.clone(), manifest, now_ms()));
        for proxy in plan.proxies {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, proxy.listen)).await.map_err(|source| {
                    SuperviseError::Proxy { service: proxy.service.clone(), port: proxy.listen, source }
                })?;
            tokio::task::spawn_local(proxy::serve(proxy, listener, board.clone()));
        }
        let mut running = Vec::new();
        for pod in plan.pods {
            let (orders, receiver) = watch::channel(Order::Run);
            let task = PodTask {
                program: programs[&pod.program].clone(),
                plan: pod.clone(),
                shim: shim.clone(),
                board: board.clone(),
                folder: folder.clone(),
                orders: receiver,
            };
            running.push(Running { plan: pod, orders, task: tokio::task::spawn_local(task.run()) });
        }
        let logs: Vec<PathBuf> = running.iter().map(|pod: &Running| folder.log(&pod.plan.name)).collect();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(LOG_CHECK).await;
                for log in &logs {
                    if let Err(error) = tail::cut(log, LOG_BYTES) {
                        eprintln!("aistack: set {} aside: {error}", log.display());
                    }
                }
            }
        });
        if !plan.collections.is_empty() {
            tokio::task::spawn_local(collections::create_all(plan.collections, board.clone()));
        }
        Ok(Self { board, running })
    }

    /// How the pods are.
    pub fn board(&self) -> Rc<Board> {
        self.board.clone()
    }

    /// Runs until SIGINT or SIGTERM, then stops everything. A second signal stops it at once.
    pub async fn run(self) -> Result<(), SuperviseError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(SuperviseError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(SuperviseError::Signals)?;
        let mut asked = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        asked().await;
        let senders: Vec<_> = self.running.iter().map(|pod| pod.orders.clone()).collect();
        tokio::select! {
            () = stop(self.running) => {}
            () = async {
                asked().await;
                for orders in &senders {
                    orders.send_replace(Order::Kill);
                }
                std::future::pending::<()>().await;
            } => {}
        }
        Ok(())
    }
}

/// Stops pods in the reverse of the order in which they start: first those that no other pod needs.
async fn stop(mut running: Vec<Running>) {
    while !running.is_empty() {
        let needed: Vec<String> = running.iter().flat_map(|pod| pod.plan.needs.clone()).collect();
        let (mut now, later): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|pod| !needed.contains(&pod.plan.name));
        running = later;
        if now.is_empty() {
            // A circle of needs cannot be taken apart in order.
            now = std::mem::take(&mut running);
        }
        for pod in &now {
            pod.orders.send_if_modified(|order| {
                let gentle = *order == Order::Run;
                if gentle {
                    *order = Order::Terminate;
                }
                gentle
            });
        }
        for pod in now {
            // A task ends when its pod has; that it panicked would be a bug, and the pod is gone with its handle.
            let _ = pod.task.await;
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Creates the files of generated Secrets that do not exist yet.
pub fn generate_secrets(plan: &LocalPlan) -> Result<(), StateError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    for path in &plan.generated {
        let write = || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let key: [u8; 24] = rand::random();
            match std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
                Ok(mut file) => file.write_all(format!("sk-{}", hex::encode(key)).as_bytes()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
            }
        };
        write().map_err(|source| StateError::Io { action: "create", path: path.clone(), source })?;
    }
    Ok(())
}
