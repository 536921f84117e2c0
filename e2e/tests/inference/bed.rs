//! A control plane, an operator, and beside them a real ModelHub on a real TinyKV. Nobody runs pods here: the test says how they
//! fare.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;

use aistack_api::operator::OperatorConfig;
use aistack_api::traffic::{TrafficRoute, TrafficState};
use aistack_crds::InferenceService;
use anyhow::{Context as _, Result, ensure};
use e2e::plane::free_port;
use e2e::process::Process;
use e2e::story::says;
use e2e::{Plane, Running, Story, wait};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::names::Names;

/// Where KEDA would find Prometheus.
pub const PROMETHEUS: &str = "http://prometheus.monitoring.svc:9090";

/// Settings as arguments.
pub fn set(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(path, value)| ["--set".to_owned(), format!("{path}={value}")]).collect()
}

/// One namespace of it.
pub struct Bed {
    pub story: Story,
    pub hub: String,
    pub http: reqwest::Client,
    pub kubeconfig: PathBuf,
    /// Engines that ModelHub reaches.
    pub engines: Names,
    _processes: Vec<Process>,
    _folder: tempfile::TempDir,
}

/// A binary that stands beside this test's.
pub fn binary(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.parent().and_then(std::path::Path::parent).context("a target directory")?;
    let path = folder.join(name);
    ensure!(path.exists(), "{} is missing: cargo build --release --bins", path.display());
    Ok(path)
}

pub async fn until_ready(http: &reqwest::Client, admin: u16, process: &mut Process) -> Result<()> {
    let url = format!("http://127.0.0.1:{admin}/readyz");
    let name = process.name().to_owned();
    let is_ready = || async { Ok(http.get(&url).send().await?.status().is_success().then_some(())) };
    let ready = wait::until(&format!("{name} is ready"), is_ready).await;
    ready.with_context(|| process.tail())
}

impl Deref for Bed {
    type Target = Story;

    fn deref(&self) -> &Story {
        &self.story
    }
}

impl Bed {
    /// Begins one; `None` where no control plane can be built.
    pub async fn begin(name: &str) -> Result<Option<Self>> {
        Self::begin_with(name, Vec::new()).await
    }

    /// Begins one with further servers: each the name of its Service, its address, and its process.
    pub async fn begin_with(name: &str, servers: Vec<(&str, String, Process)>) -> Result<Option<Self>> {
        let Some(plane) = Plane::shared().await else { return Ok(None) };
        Self::begin_on(plane, name, servers).await.map(Some)
    }

    /// Begins one on a plane.
    pub async fn begin_on(
        plane: &'static Plane,
        name: &str,
        servers: Vec<(&str, String, Process)>,
    ) -> Result<Self> {
        let namespace = plane.namespace(name).await?;
        let folder = tempfile::tempdir()?;
        let http = reqwest::Client::builder().build()?;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let (client, admin) = (free_port()?, free_port()?);
        let store = set(&[
            ("listen_client", local(client)),
            ("listen_peer", local(free_port()?)),
            ("server.admin_listen", local(admin)),
            ("data_dir", folder.path().join("tinykv").display().to_string()),
        ]);
        let mut tinykv = Process::start(folder.path(), "tinykv", &binary("tinykv")?, &store)?;
        until_ready(&http, admin, &mut tinykv).await?;
        let (listen, admin) = (free_port()?, free_port()?);
        let mut settings = vec!["serve".to_owned()];
        settings.extend(set(&[
            ("listen", local(listen)),
            ("server.admin_listen", local(admin)),
            ("artefacts", folder.path().join("artefacts").display().to_string()),
            ("kv.endpoints", format!("[\"http://{}\"]", local(client))),
        ]));
        let names = Names::new(folder.path())?;
        let mut modelhub = names.start(folder.path(), "modelhub", &binary("modelhub")?, &settings)?;
        until_ready(&http, admin, &mut modelhub).await?;
        let hub = format!("http://{}", local(listen));
        let mut addresses = BTreeMap::from([(format!("modelhub.{namespace}"), hub.clone())]);
        let mut processes = vec![modelhub, tinykv];
        for (service, address, process) in servers {
            addresses.insert(format!("{service}.{namespace}"), address);
            processes.push(process);
        }
        let mut config =
            OperatorConfig { namespace: Some(namespace.clone()), addresses, ..OperatorConfig::default() };
        config.lease.enabled = false;
        config.local_endpoints = true;
        config.prometheus_url = Some(PROMETHEUS.to_owned());
        let operator = Running::begin(plane, &config)?;
        wait::until("the operator is ready", || async { Ok(operator.health.is_ready().then_some(())) })
            .await?;
        let bed = Self {
            story: Story { plane, client: plane.client(), namespace, operator },
            hub,
            http,
            kubeconfig: plane.kubeconfig(),
            engines: names,
            _processes: processes,
            _folder: folder,
        };
        bed.apply("apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: s}\nspec: {tinykv: {}, vectorforge: {}, tinyinfer: {model: base, embedding: {model: e}}, modelhub: {}}\n").await?;
        Ok(bed)
    }

    /// Waits until a service has a condition for that reason.
    pub async fn until_says(&self, name: &str, kind: &str, reason: &str) -> Result<InferenceService> {
        let told = |service: &InferenceService| {
            service.status.as_ref().is_some_and(|status| {
                status.observed_generation == service.metadata.generation
                    && says(&status.conditions, kind, reason)
            })
        };
        self.until(name, &format!("{kind}: {reason}"), told).await
    }

    /// All pods of a Deployment are ready, and answer.
    pub async fn pods_are_ready(&self, name: &str) -> Result<()> {
        self.engines.answers(name).await?;
        self.pods_are_said_to_be_ready(name).await
    }

    /// What a Deployment's controller would say once all its pods are ready.
    pub async fn pods_are_said_to_be_ready(&self, name: &str) -> Result<()> {
        let deployments = self.api::<Deployment>();
        let deployment = self.until(name, "it is there", |_: &Deployment| true).await?;
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let status = json!({"status": {"observedGeneration": deployment.metadata.generation, "replicas": wanted,
            "updatedReplicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted}});
        deployments.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// What a Deployment's controller would say once none of its pods is ready any more.
    pub async fn pods_are_gone(&self, name: &str) -> Result<()> {
        let status = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
        self.api::<Deployment>().patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// A model's route, as ModelHub has it.
    pub async fn route(&self, model: &str) -> Result<Option<TrafficState>> {
        let answer = self.http.get(format!("{}/api/v1/traffic/{model}", self.hub)).send().await?;
        if answer.status() == 404 {
            return Ok(None);
        }
        Ok(Some(answer.error_for_status()?.json().await?))
    }

    /// Waits until a model's route is as `holds` says.
    pub async fn until_route(
        &self,
        model: &str,
        what: &str,
        holds: impl Fn(&TrafficRoute) -> bool,
    ) -> Result<TrafficState> {
        let seen = std::sync::Mutex::new(None);
        let waited = wait::until(what, || async {
            let state = self.route(model).await?;
            seen.lock().expect("nobody panics with it").clone_from(&state);
            Ok(state.filter(|state| holds(&state.route)))
        });
        waited.await.with_context(|| format!("it is {seen:?}"))
    }
}

/// Names and weights of a route's targets.
pub fn weights(route: &TrafficRoute) -> Vec<(&str, u32)> {
    route.targets.iter().map(|target| (target.name.as_str(), target.weight)).collect()
}
