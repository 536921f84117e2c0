//! An operator as a process of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use e2e::crowd::usage;
use e2e::plane::free_port;
use e2e::process::Process;
use e2e::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How one is started.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub name: String,
    pub program: PathBuf,
    /// `{probe}` and `{metrics}` stand for ports that are free.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Path that says whether it is ready, and the one of its figures.
    pub ready: &'static str,
    pub metrics: &'static str,
}

/// One that runs.
pub struct Subject {
    process: Process,
    recipe: Recipe,
    probe: u16,
    metrics: u16,
    http: reqwest::Client,
    began: Instant,
}

impl Subject {
    /// Starts it; what it prints goes to a file in `folder`.
    pub fn start(recipe: &Recipe, folder: &Path) -> Result<Self> {
        let probe = free_port()?;
        // One port may serve both.
        let is_apart = recipe.args.iter().any(|arg| arg.contains("{metrics}"));
        let metrics = if is_apart { free_port()? } else { probe };
        let fill = |text: &String| {
            text.replace("{probe}", &probe.to_string()).replace("{metrics}", &metrics.to_string())
        };
        let args: Vec<String> = recipe.args.iter().map(fill).collect();
        let log = format!("{}-{probe}", recipe.name);
        let process = Process::start_with(folder, &log, &recipe.program, &args, &recipe.env)?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { process, recipe: recipe.clone(), probe, metrics, http, began: Instant::now() })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it says that it is ready.
    pub async fn until_ready(&self) -> Result<Duration> {
        let url = format!("http://127.0.0.1:{}{}", self.probe, self.recipe.ready);
        let waited = wait::until("the operator is ready", || async {
            let reply = self.http.get(&url).send().await?;
            Ok(reply.status().is_success().then(|| self.began.elapsed()))
        });
        waited.await.with_context(|| self.process.tail())
    }

    /// The sum of one of its figures over all labels.
    pub async fn figure(&self, name: &str) -> Result<f64> {
        let url = format!("http://127.0.0.1:{}{}", self.metrics, self.recipe.metrics);
        let text = self.http.get(&url).send().await?.text().await?;
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok()).flatten()
        };
        Ok(text.lines().filter_map(of).sum())
    }

    /// Waits until it looked at so many objects at least and has nothing to do.
    pub async fn until_idle(&self, looked_at: f64) -> Result<Duration> {
        let began = Instant::now();
        let mut since = None;
        while began.elapsed() < wait::PATIENCE {
            let figure = |name: &'static str| self.figure(name);
            let is_idle = figure("workqueue_depth").await? == 0.0
                && figure("controller_runtime_active_workers").await? == 0.0
                && figure("controller_runtime_reconcile_total").await? >= looked_at;
            if !is_idle {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(200) {
                return Ok(self.began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("it is not idle: {}", self.process.tail())
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Result<Duration> {
        usage::cpu(self.id())
    }

    /// MiB now and at most.
    pub fn memory(&self) -> Result<(f64, f64)> {
        usage::memory(self.id())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.id())?), signal).context("signal the operator")
    }

    /// SIGTERM, and its end.
    pub async fn stop(mut self) -> Result<Duration> {
        let began = Instant::now();
        self.signal(Signal::SIGTERM)?;
        while self.process.is_running() {
            if began.elapsed() > wait::PATIENCE {
                bail!("it does not end: {}", self.process.tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(began.elapsed())
    }
}
