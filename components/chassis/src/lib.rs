//! What every AIStack server does alike, so that a component's `main` is a page.
//!
//! Configuration ([`config`]), logs and traces ([`telemetry`], [`trace`]), Prometheus metrics ([`Metrics`]), health
//! ([`Health`]), TLS and API keys, connection and request limits, and graceful shutdown ([`serve`]). The chassis refuses
//! to know what a component does: no engine, no protocol beyond HTTP and gRPC framing.
//!
//! ```no_run
//! use aistack_api::server::ServerConfig;
//! use aistack_chassis::{CommonArgs, Component, Ctx, run, serve};
//!
//! const COMPONENT: Component = Component { name: "echo", env_prefix: "ECHO_", version: "0.1.0" };
//!
//! fn main() -> std::process::ExitCode {
//!     let server = ServerConfig::with_admin(([127, 0, 0, 1], 8081).into());
//!     run(COMPONENT, &CommonArgs::default(), server, |ctx: Ctx| async move {
//!         let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!         ctx.health.set_ready("engine", true);
//!         serve::serve(listener, axum::Router::new(), &ctx).await?;
//!         Ok::<(), Box<dyn std::error::Error>>(())
//!     })
//! }
//! ```

mod admin;
mod args;
mod auth;
pub mod config;
mod counted;
pub mod dir_lock;
mod front;
mod guard;
mod health;
mod linger;
mod log_files;
mod metrics;
mod otlp_file;
mod otlp_metrics;
mod preface;
mod process;
mod rejected;
pub mod serve;
mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod trace;
mod turns;
mod zap_lines;

use std::fmt::Display;
use std::process::ExitCode;

use aistack_api::server::ServerConfig;

pub use args::{CommonArgs, ListenArgs, LogFormat};
pub use auth::{ApiKeyName, ApiKeys, AuthError};
pub use health::Health;
pub use log_files::{LogOutput, LogOutputs, LogRotation};
pub use metrics::Metrics;
pub use shutdown::Shutdown;
pub use tls::ClientName;

/// Who a process is.
#[derive(Debug, Clone, Copy)]
pub struct Component {
    /// Binary and service name, such as `tinykv`.
    pub name: &'static str,
    /// Prefix of its environment variables, such as `TINYKV_`.
    pub env_prefix: &'static str,
    /// Version that it reports.
    pub version: &'static str,
}

/// What the chassis hands to a component.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Who the process is.
    pub component: Component,
    /// Cancelled by SIGTERM, SIGINT, or the component itself.
    pub shutdown: Shutdown,
    /// Named readiness checks behind `/readyz`.
    pub health: Health,
    /// The Prometheus registry behind `/metrics`.
    pub metrics: Metrics,
    /// The shared server settings.
    pub server: ServerConfig,
}

/// Runs a component to its end: runtime, telemetry, admin port, signals.
///
/// The process ends when `main` returns; a signal only cancels `ctx.shutdown`, so that `main` drains and flushes. A second
/// signal ends the process at once. An error is printed as `error: …` and gives exit code 1.
pub fn run<F, Fut, E>(component: Component, args: &CommonArgs, server: ServerConfig, main: F) -> ExitCode
where
    F: FnOnce(Ctx) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    run_beside(0, component, args, server, main)
}

/// Like [`run`], for a component with `busy` threads of its own: the runtime leaves them as many processors, and keeps
/// one at least. A runtime with more workers than processors hands its sockets from worker to worker.
pub fn run_beside<F, Fut, E>(
    busy: usize,
    component: Component,
    args: &CommonArgs,
    server: ServerConfig,
    main: F,
) -> ExitCode
where
    F: FnOnce(Ctx) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    // A second provider in the process is no error: tests start several servers.
    let _ = rustls::crypto::ring::default_provider().install_default();
    process::raise_open_file_limit();
    if let Err(error) = server.validate() {
        return fail(&error);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if busy > 0 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        builder.worker_threads(processors.saturating_sub(busy).max(1));
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format_args!("start the runtime: {error}")),
    };
    runtime.block_on(async {
        let metrics = Metrics::new(component);
        let telemetry = match telemetry::init(component, args, &server.telemetry, &metrics) {
            Ok(telemetry) => telemetry,
            Err(error) => return fail(&error),
        };
        let shutdown = Shutdown::on_signals();
        let ctx = Ctx { component, shutdown: shutdown.clone(), health: Health::default(), metrics, server };
        let admin = match admin::start(&ctx).await {
            Ok(admin) => admin,
            Err(error) => return fail(&error),
        };
        let result = main(ctx).await;
        shutdown.trigger();
        admin.abort();
        let code = match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "stopped");
                fail(&error)
            }
        };
        telemetry.flush().await;
        code
    })
}

fn fail(error: &dyn Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}
