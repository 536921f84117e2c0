//! The `tinykv` binary.

use aistack_api::server::TelemetryConfig;
use aistack_api::tinykv::TinykvConfig;
use aistack_chassis::{CommonArgs, Component, Ctx, LogFormat, Metrics, config, run_beside, telemetry};
use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::ExitCode;
use tinykv::backup::{Backup, BackupArgs};
use tinykv::bench::Workload;
use tinykv::check::{Beyond, Found};
use tinykv::drill::DrillArgs;
use tinykv::etcd::ETCD_VERSION;
use tinykv::flags::Flags;
use tinykv::gateway::GatewayArgs;
use tinykv::node::Node;
use tinykv::restore::RestoreArgs;

/// A command is a dozen small allocations on each member, made by one thread and freed by another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COMPONENT: Component =
    Component { name: "tinykv", env_prefix: "TINYKV_", version: env!("CARGO_PKG_VERSION") };

/// A key-value store that speaks etcd's v3 API.
#[derive(Parser)]
#[command(name = "tinykv", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,

    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Read everything on disk, report damage by file and offset, change nothing.
    Check,
    /// Copy a running cluster into a file that tinykv and etcd can be restored from; where users count, as one of the role root.
    Backup(BackupArgs),
    /// Make the data directory of a new cluster's member from such a file; the new members are those of --initial-cluster.
    Restore(RestoreArgs),
    /// Restore the newest backup of a place into a folder of its own, read all of it back, and say how old it is.
    Drill(DrillArgs),
    /// Pass clients' connections on to members, as `etcd gateway` does.
    Gateway(GatewayArgs),
    /// Put load on a running cluster, etcd's too, and print its rate and latency.
    #[command(subcommand)]
    Bench(Workload),
    /// Print the commands that the Raft log still holds, oldest first, a line of JSON each; change nothing.
    Log,
    /// Print a completion script for a shell.
    Completions {
        /// Which one.
        shell: clap_complete::Shell,
    },
}

const EXAMPLES: &str = "Examples:
  tinykv --data-dir ./kv                       serve etcd's API on 127.0.0.1:2379
  tinykv --listen-client-urls http://0.0.0.0:2379
  etcdctl --endpoints 127.0.0.1:2379 put k v   any etcd client talks to it
  tinykv check --data-dir ./kv                 look for damage; the server must not run
  tinykv backup --endpoints http://127.0.0.1:2379 kv.db
  tinykv restore kv.db --data-dir ./new        then  tinykv --data-dir ./new
  tinykv drill s3://bucket/kv --max-age-hours 48   could a cluster begin with the newest backup there?
  tinykv bench put --clients 200 --total 100000 --clean
  tinykv bench range --fill --rate 5000 --seconds 30 --serializable
  source <(tinykv completions bash)

Settings come from etcd's flags too (--name, --data-dir, --listen-client-urls, --listen-peer-urls, --initial-cluster,
--advertise-client-urls, --quota-backend-bytes, --auth-token, --cert-file, --peer-cert-file and so on), from ETCD_* variables, and from etcd's
own file by --config-file. What has no meaning here is refused or named in a warning. Called as `etcd`, tinykv has etcd's
defaults.";

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let called = arguments.next().unwrap_or_default();
    let is_etcd = std::path::Path::new(&called).file_name().is_some_and(|name| name == "etcd");
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let flags = match tinykv::flags::read(arguments, environment) {
        Ok(flags) => flags,
        Err(error) => return refuse(&error.to_string()),
    };
    if is_etcd && flags.rest.iter().any(|argument| argument.trim_start_matches('-') == "version") {
        println!("etcd Version: {ETCD_VERSION}");
        println!("tinykv Version: {}", COMPONENT.version);
        return ExitCode::SUCCESS;
    }
    let mut cli = Cli::parse_from(std::iter::once(called).chain(flags.rest.iter().cloned()));
    if let Some(level) = &flags.log_level {
        cli.common.log_level = Some(level.clone());
    }
    if let Some(format) = &flags.log_format {
        match <LogFormat as clap::ValueEnum>::from_str(format, true) {
            Ok(format) => cli.common.log_format = Some(format),
            Err(_) => return refuse(&format!("--log-format={format}: write json, console, zap or pretty")),
        }
    }
    if is_etcd {
        // As etcd's are, on a terminal too; its JSON is zap's.
        let format = cli.common.log_format.filter(|format| *format != LogFormat::Json);
        cli.common.log_format = Some(format.unwrap_or(LogFormat::Zap));
    }
    cli.common.log_outputs = flags.log_outputs.clone();
    let level = cli.common.log_level.get_or_insert_with(|| "info".to_owned());
    if !level.contains([',', '=']) {
        // openraft tells of every step of an election, and calls it an error when two change the members at once (the
        // second looks again) or a call meets the end of the process (the caller is told).
        level.push_str(",openraft=warn,openraft::raft::api::management=off,openraft::raft::raft_inner=off");
    }
    match &cli.command {
        Some(Command::Backup(wanted)) => return backup(wanted),
        Some(Command::Drill(wanted)) => return drill(wanted),
        Some(Command::Gateway(wanted)) => return gateway(wanted, &cli),
        Some(Command::Bench(workload)) => return bench(workload),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Cli::command(), "tinykv", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        Some(Command::Check | Command::Restore(_) | Command::Log) | None => {}
    }
    let overrides = overrides(&cli, &flags, is_etcd);
    let loaded = config::load::<TinykvConfig>(&COMPONENT, &cli.common, overrides);
    let mut config = match loaded {
        Ok(config) => config,
        Err(error) => return refuse(&error.to_string()),
    };
    if let Err(error) = config.validate() {
        return refuse(&error.to_string());
    }
    match &cli.command {
        Some(Command::Check) => return check(&config),
        Some(Command::Restore(wanted)) => return restore(&config, wanted),
        Some(Command::Log) => return log(&config),
        Some(
            Command::Backup(_)
            | Command::Bench(_)
            | Command::Drill(_)
            | Command::Gateway(_)
            | Command::Completions { .. },
        )
        | None => {}
    }
    if let Err(error) = tinykv::tls::for_clients(&mut config) {
        return refuse(&error.to_string());
    }
    // Raft runs on a thread of its own.
    run_beside(1, COMPONENT, &cli.common, config.server.clone(), |ctx: Ctx| async move {
        // Before the data directory is touched: a port in use is the commonest mistake.
        let listeners = tinykv::serve::bind(&config).await?;
        tinykv::serve::tell_of_settings(&config);
        for check in ["engine", "leader", "published", "non_learner"] {
            ctx.health.set_ready(check, false);
        }
        for warning in &flags.warnings {
            tracing::warn!("{warning}");
        }
        // A member may wait for others before it begins.
        let node = tokio::select! {
            started = Node::start(config) => started?,
            () = ctx.shutdown.cancelled() => return Ok(()),
        };
        tinykv::serve::serve_node(node, listeners, &ctx).await?;
        Ok::<(), anyhow::Error>(())
    })
}

/// The flags as settings; etcd's own defaults where they differ and the program is called by its name.
fn overrides(cli: &Cli, flags: &Flags, is_etcd: bool) -> Value {
    let mut settings = flags.settings.clone();
    let has_metrics_listeners = settings.contains_key("metrics_listeners");
    let server = settings.entry("server").or_insert_with(|| serde_json::json!({}));
    if let Some(server) = server.as_object_mut() {
        if let Some(admin) = cli.admin_listen {
            server.insert("admin_listen".to_owned(), admin.to_string().into());
        } else if is_etcd || has_metrics_listeners {
            // etcd has no such port, and who names one for metrics asks there.
            server.entry("admin_listen").or_insert_with(|| "127.0.0.1:0".into());
        }
        if server.is_empty() {
            settings.remove("server");
        }
    }
    if is_etcd {
        let name = settings.get("name").and_then(Value::as_str).unwrap_or("default");
        let data_dir = format!("{name}.etcd");
        settings.entry("data_dir").or_insert_with(|| data_dir.into());
    }
    Value::Object(settings)
}

fn check(config: &TinykvConfig) -> ExitCode {
    match tinykv::check::check(&config.data_dir) {
        Ok(found) => {
            let Found { log, keys, versions, revision, beyond } = found;
            println!(
                "{}: sound. log: {} entries{}; state: {keys} keys, {versions} versions, revision {revision}{}",
                config.data_dir.display(),
                log.entries,
                if log.cut.is_some() { ", an unfinished last write that a start would cut off" } else { "" },
                match beyond {
                    Beyond { entries: 0, .. } => String::new(),
                    Beyond { entries, keys, revision } => format!(
                        "; the log goes on by {entries} entries, with which there are {keys} keys at revision {revision}"
                    ),
                },
            );
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error.to_string()),
    }
}

fn gateway(wanted: &GatewayArgs, cli: &Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.to_string()),
    };
    let served = runtime.block_on(async {
        let metrics = Metrics::new(COMPONENT);
        let logs = telemetry::init(COMPONENT, &cli.common, &TelemetryConfig::default(), &metrics)?;
        tinykv::gateway::run(wanted).await?;
        logs.flush().await;
        Ok::<(), anyhow::Error>(())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format!("{}: {error}", wanted.listen_addr)),
    }
}

fn backup(wanted: &BackupArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.to_string()),
    };
    match runtime.block_on(tinykv::backup::backup(wanted)) {
        Ok(Backup { endpoint, contents, bytes, place, stayed }) => {
            println!(
                "{place}: revision {}, {} versions, {} leases, {} users, {bytes} bytes with their SHA-256; from {endpoint}",
                contents.rest.revision,
                contents.versions,
                contents.rest.leases.len(),
                contents.rest.auth.users().count(),
            );
            // It is whole: were this a failure, whoever tries again would put another beside it.
            if let Some(stayed) = stayed {
                eprintln!(
                    "warning: older backups were not deleted (--keep), and stay until somebody does: {stayed}"
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error.to_string()),
    }
}

fn drill(wanted: &DrillArgs) -> ExitCode {
    match tinykv::drill::drill(wanted) {
        Ok(drilled) => {
            println!("{drilled}");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error.to_string()),
    }
}

fn bench(workload: &Workload) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.to_string()),
    };
    match runtime.block_on(tinykv::bench::bench(workload)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => refuse("not every request was answered: see above"),
        Err(error) => refuse(&error.to_string()),
    }
}

fn restore(config: &TinykvConfig, wanted: &RestoreArgs) -> ExitCode {
    if wanted.when_new && !tinykv::restore::is_new(config) {
        println!(
            "{}: this member has data, or gets it from the others; nothing is restored",
            config.data_dir.display()
        );
        return ExitCode::SUCCESS;
    }
    match tinykv::restore::restore(config, wanted) {
        Ok(restored) => {
            println!(
                "{}: revision {}, {} versions; member {:x} of {} in the new cluster {:x}; start it with the same settings",
                config.data_dir.display(),
                restored.revision,
                restored.versions,
                restored.identity.member_id,
                restored.members,
                restored.identity.cluster_id,
            );
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error.to_string()),
    }
}

fn log(config: &TinykvConfig) -> ExitCode {
    match tinykv::history::tell(&config.data_dir, &mut std::io::BufWriter::new(std::io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error.to_string()),
    }
}

fn refuse(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
