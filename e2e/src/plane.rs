//! A control plane of one's own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use aistack_crds::Kind;
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::keys::{self, ADMIN, AUDITED};
use crate::process::{Process, Watchdog};
use crate::wait;

/// How much of a cluster is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// T1: etcd and kube-apiserver. Objects are stored and checked, and nothing acts on them.
    ApiServer,
    /// The controller manager and the scheduler too: garbage is collected, and pods are made that nobody runs.
    Controllers,
}

/// A control plane that runs until it is dropped.
pub struct Plane {
    // In the order in which they are dropped: the API server before its store.
    processes: Vec<Process>,
    watchdogs: Vec<Watchdog>,
    folder: TempDir,
    config: Config,
}

impl Plane {
    /// The one plane of a test binary, with our kinds installed; `None`, and a line that says so, where it cannot be built.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Plane>> = OnceCell::const_new();
        let started = SHARED.get_or_init(|| async {
            if Self::programs().expect("hack/plane/plane.sh runs").is_none() {
                eprintln!("no Go toolchain to build the control plane with: not run");
                return None;
            }
            let plane = Self::start(Tier::ApiServer).await.expect("a control plane");
            plane.install_kinds().await.expect("our kinds");
            Some(plane)
        });
        started.await.as_ref()
    }

    /// Where the programs are, built first if they must be (minutes, once); `None` without a Go toolchain to build them.
    pub fn programs() -> Result<Option<PathBuf>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/plane/plane.sh");
        let built = Command::new(&script).arg("path").output().context("run hack/plane/plane.sh")?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let folder = PathBuf::from(String::from_utf8(built.stdout)?.trim());
        if folder.join("plane").exists() {
            return Ok(Some(folder));
        }
        if Command::new("go").arg("version").output().is_err() {
            return Ok(None);
        }
        let status = Command::new(&script).arg("build").status().context("run hack/plane/plane.sh")?;
        ensure!(status.success(), "hack/plane/plane.sh build failed");
        Ok(Some(folder))
    }

    /// Starts one, and waits until it is ready.
    pub async fn start(tier: Tier) -> Result<Self> {
        // A second provider in the process is no error: tests start several planes.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let programs =
            Self::programs()?.context("there is no Go toolchain to build the control plane with")?;
        let folder = tempfile::Builder::new().prefix("plane-").tempdir()?;
        keys::write(folder.path())?;
        let port = free_port()?;
        kubeconfig(folder.path(), port, ADMIN, "kubeconfig")?;
        kubeconfig(folder.path(), port, AUDITED, AUDITED)?;
        std::fs::write(folder.path().join("audit.yaml"), audit_policy()).context("write the audit policy")?;
        std::fs::write(folder.path().join("scheduler.yaml"), scheduler(folder.path()))
            .context("write the scheduler's settings")?;
        let processes = start_api_server(&programs, folder.path(), port)?;
        let watchdogs = vec![Watchdog::over(&processes, folder.path())?];
        let kubeconfig = Kubeconfig::read_from(folder.path().join("kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let mut plane = Self { processes, watchdogs, folder, config };
        plane.until_ready().await?;
        if tier == Tier::Controllers {
            // They give up on an API server that is not healthy within ten seconds, which is little on a machine at work.
            let controllers = start_controllers(&programs, plane.folder.path())?;
            plane.watchdogs.push(Watchdog::over(&controllers, plane.folder.path())?);
            plane.processes.splice(0..0, controllers);
        }
        Ok(plane)
    }

    /// How to reach it, as its administrator.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A client of its administrator, which lives as long as the runtime that it is made on.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("one was made of the same configuration when it started")
    }

    /// The file that points kubectl at it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The file that points a program at it whose writes are to be counted: see [`Plane::audit_log`].
    pub fn audited_kubeconfig(&self) -> PathBuf {
        self.folder.path().join(AUDITED)
    }

    /// What the API server wrote down of changes that programs with [`Plane::audited_kubeconfig`] asked for: an `audit.k8s.io/v1`
    /// Event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// Figures of the API server, as Prometheus has them.
    pub async fn figures(&self) -> Result<String> {
        Ok(self.client().request_text(http_get("/metrics")?).await?)
    }

    /// Names and numbers of its processes.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.processes.iter().map(|process| (process.name(), process.id()))
    }

    /// Installs the seven kinds, and waits until they are served.
    pub async fn install_kinds(&self) -> Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        for kind in Kind::ALL {
            let crd = kind.crd();
            let name = crd.metadata.name.clone().context("every kind has a name")?;
            let params = PatchParams::apply("e2e").force();
            api.patch(&name, &params, &Patch::Apply(&crd))
                .await
                .with_context(|| format!("install {name}"))?;
            wait::until(&format!("{name} is established"), || async {
                let crd = api.get(&name).await?;
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                Ok(conditions
                    .iter()
                    .any(|condition| condition.type_ == "Established" && condition.status == "True")
                    .then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// A namespace of one's own.
    pub async fn namespace(&self, name: &str) -> Result<String> {
        let api: Api<Namespace> = Api::all(self.client());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        api.create(&PostParams::default(), &namespace).await.with_context(|| format!("create {name}"))?;
        Ok(name.to_owned())
    }

    async fn until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let client = Client::try_from(self.config())?;
        loop {
            let request = http_get("/readyz")?;
            if client.request_text(request).await.is_ok_and(|answer| answer == "ok") {
                return Ok(());
            }
            if let Some(ended) = self.processes.iter_mut().find_map(|p| (!p.is_running()).then_some(&*p)) {
                bail!("{} ended; the end of what it said:\n{}", ended.name(), ended.tail());
            }
            if began.elapsed() > wait::PATIENCE {
                let tails: Vec<_> = self.processes.iter().map(Process::tail).collect();
                bail!("the API server is not ready:\n{}", tails.join("\n--\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

/// A port at which nobody listens, and which this process was not given before. Below those that the system gives to connections, and that
/// Kubernetes gives to Services: one of them would be somebody's by the time that a server has started.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % u32::from(COUNT))?;
    loop {
        let number = GIVEN.fetch_add(1, Ordering::Relaxed);
        ensure!(number < COUNT, "there is no free port");
        let port = FIRST + (begin + number) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

/// Only changes, and only those of one user, so that it costs nothing where nobody counts.
fn audit_policy() -> String {
    format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {{level: Metadata, users: [{AUDITED}], verbs: [create, update, patch, delete, deletecollection]}}\n\
         - {{level: None}}\n"
    )
}

/// As much as the machine can do: the default of 50 requests a second is for clusters whose API server has others to serve.
const RATE: &str = "1000";

fn scheduler(folder: &Path) -> String {
    let kubeconfig = folder.join("kubeconfig");
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nleaderElection: {{leaderElect: false}}\n\
         clientConnection: {{kubeconfig: {}, qps: {RATE}, burst: {RATE}}}\n",
        kubeconfig.display()
    )
}

fn kubeconfig(folder: &Path, port: u16, user: &str, name: &str) -> Result<()> {
    let at = folder.display();
    let text = format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: plane, cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: {at}/ca.crt}}}}]\n\
         users: [{{name: {user}, user: {{tokenFile: {at}/{user}.token}}}}]\n\
         contexts: [{{name: plane, context: {{cluster: plane, user: {user}}}}}]\ncurrent-context: plane\n"
    );
    std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
}

fn start(programs: &Path, folder: &Path, name: &str, args: &[String]) -> Result<Process> {
    // Memory is there, and collecting it took an eighth of the API server's time; stacks that grow anew in each request took a
    // sixteenth. Ten thousand objects need more of it.
    let memory = std::env::var("GOMEMLIMIT").unwrap_or_else(|_| "2GiB".to_owned());
    let env = [("GOGC", "1000"), ("GOMEMLIMIT", &memory), ("GODEBUG", "adaptivestackstart=1")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Process::start_with(folder, name, &programs.join(name), args, &env)
}

fn start_api_server(programs: &Path, folder: &Path, port: u16) -> Result<Vec<Process>> {
    let at = |name: &str| folder.join(name).display().to_string();
    let run = |name: &str, args: Vec<String>| start(programs, folder, name, &args);
    let (client, peer) = (free_port()?, free_port()?);
    let (store, peers) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let etcd = run(
        "etcd",
        [
            "--data-dir",
            &at("etcd"),
            "--unsafe-no-fsync",
            "--log-level",
            "warn",
            "--listen-client-urls",
            &store,
            "--advertise-client-urls",
            &store,
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
            "--initial-cluster",
            &format!("default={peers}"),
        ]
        .map(str::to_owned)
        .to_vec(),
    )?;
    let flags = [
        ("etcd-servers", store),
        ("secure-port", port.to_string()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("endpoint-reconciler-type", "none".to_owned()),
        // Of documentation: nobody is told, and a machine without a network has none to be found.
        ("advertise-address", "192.0.2.1".to_owned()),
        ("tls-cert-file", at("server.crt")),
        ("tls-private-key-file", at("server.key")),
        ("token-auth-file", at("tokens.csv")),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-key-file", at("accounts.pub")),
        ("service-account-signing-key-file", at("accounts.key")),
        ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("allow-privileged", "true".to_owned()),
        ("audit-policy-file", at("audit.yaml")),
        ("audit-log-path", at("audit.log")),
    ];
    Ok(vec![run("kube-apiserver", args(flags))?, etcd])
}

fn start_controllers(programs: &Path, folder: &Path) -> Result<Vec<Process>> {
    let at = |name: &str| folder.join(name).display().to_string();
    let run = |name: &str, args: Vec<String>| start(programs, folder, name, &args);
    let manager = [
        ("kubeconfig", at("kubeconfig")),
        ("leader-elect", "false".to_owned()),
        ("secure-port", "0".to_owned()),
        ("kube-api-qps", RATE.to_owned()),
        ("kube-api-burst", RATE.to_owned()),
        // The old Endpoints beside the EndpointSlices have no readers here, and our provisioner asks for no word of theirs.
        ("controllers", "*,-endpoints-controller,-endpointslice-mirroring-controller".to_owned()),
        ("enable-dynamic-provisioning", "false".to_owned()),
        // Endpoints of pods that come up together are written together.
        ("endpointslice-updates-batch-period", "500ms".to_owned()),
        ("service-account-private-key-file", at("accounts.key")),
        ("root-ca-file", at("ca.crt")),
        ("use-service-account-credentials", "true".to_owned()),
    ];
    let scheduler = [("config", at("scheduler.yaml")), ("secure-port", "0".to_owned())];
    Ok(vec![run("kube-controller-manager", args(manager))?, run("kube-scheduler", args(scheduler))?])
}

fn args<'a>(flags: impl IntoIterator<Item = (&'a str, String)>) -> Vec<String> {
    flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}
