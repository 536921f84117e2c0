//! The `tinykv` binary.

use aistack_api::tinykv::TinykvConfig;
use aistack_chassis::{CommonArgs, Component, Ctx, config, run_beside, serve};
use clap::{Parser, Subcommand};
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tinykv::node::Node;

const COMPONENT: Component =
    Component { name: "tinykv", env_prefix: "TINYKV_", version: env!("CARGO_PKG_VERSION") };

/// A key-value store that speaks etcd's v3 API.
#[derive(Parser)]
#[command(name = "tinykv", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,

    /// Name of this member.
    #[arg(long)]
    name: Option<String>,

    /// Directory of the log, the state and the snapshots.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where clients connect, as a URL: http://127.0.0.1:2379.
    #[arg(long, value_name = "URL")]
    listen_client_urls: Option<String>,

    /// Where the other members connect, as a URL: http://127.0.0.1:2380.
    #[arg(long, value_name = "URL")]
    listen_peer_urls: Option<String>,

    /// The members that found the cluster, this one among them: a=http://10.0.0.1:2380,b=…
    #[arg(long, value_name = "NAME=URL,…", value_delimiter = ',')]
    initial_cluster: Option<Vec<String>>,

    /// How the member list shows this member's client address; several are separated by commas.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    advertise_client_urls: Option<Vec<String>>,

    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,

    /// Logical size at which writes are refused with NOSPACE, in bytes.
    #[arg(long, value_name = "BYTES")]
    quota_backend_bytes: Option<u64>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Read everything on disk, report damage by file and offset, change nothing.
    Check,
}

const EXAMPLES: &str = "Examples:
  tinykv --data-dir ./kv                       serve etcd's API on 127.0.0.1:2379
  tinykv --listen-client-urls http://0.0.0.0:2379
  etcdctl --endpoints 127.0.0.1:2379 put k v   any etcd client talks to it
  tinykv check --data-dir ./kv                 look for damage; the server must not run";

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    // openraft tells of every step of an election at this level.
    cli.common.log_level.get_or_insert_with(|| "info,openraft=warn".to_owned());
    let overrides = match overrides(&cli) {
        Ok(overrides) => overrides,
        Err(message) => return refuse(&message),
    };
    let loaded = config::load::<TinykvConfig>(&COMPONENT, &cli.common, overrides);
    let config = match loaded {
        Ok(config) => config,
        Err(error) => return refuse(&error.to_string()),
    };
    if let Err(error) = config.validate() {
        return refuse(&error.to_string());
    }
    if let Some(Command::Check) = cli.command {
        return check(&config);
    }
    // Raft runs on a thread of its own.
    run_beside(1, COMPONENT, &cli.common, config.server.clone(), |ctx: Ctx| async move {
        // Before the data directory is touched: a port in use is the commonest mistake.
        let listener = serve::bind(config.listen_client).await?;
        ctx.health.set_ready("engine", false);
        let node = Node::start(config).await?;
        tracing::info!(
            listen = %node.config.listen_client,
            data_dir = %node.config.data_dir.display(),
            revision = node.revision(),
            cluster_id = format_args!("{:x}", node.identity.cluster_id),
            member_id = format_args!("{:x}", node.identity.member_id),
            "ready to serve client requests"
        );
        tinykv::serve::serve_node(node, listener, &ctx).await?;
        Ok::<(), anyhow::Error>(())
    })
}

/// The flags as settings.
fn overrides(cli: &Cli) -> Result<Value, String> {
    let mut settings = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            settings.insert(name.to_owned(), value);
        }
    };
    set("name", cli.name.clone().map(Value::from));
    set("data_dir", cli.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned().into()));
    set("listen_client", cli.listen_client_urls.as_deref().map(address).transpose()?.map(Value::from));
    set("listen_peer", cli.listen_peer_urls.as_deref().map(address).transpose()?.map(Value::from));
    set("peers", cli.initial_cluster.clone().map(Value::from));
    set("advertise_client_urls", cli.advertise_client_urls.clone().map(Value::from));
    set("quota_bytes", cli.quota_backend_bytes.map(Value::from));
    if let Some(admin) = cli.admin_listen {
        set("server", Some(serde_json::json!({ "admin_listen": admin.to_string() })));
    }
    Ok(Value::Object(settings))
}

/// The address in an etcd-style URL.
fn address(url: &str) -> Result<String, String> {
    if url.contains(',') {
        return Err(format!("{url}: tinykv listens on one address; name one"));
    }
    let bare = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or(url);
    let bare = bare.trim_end_matches('/').replace("localhost", "127.0.0.1");
    match bare.parse::<SocketAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("{url} is no address; write it like http://127.0.0.1:2379")),
    }
}

fn check(config: &TinykvConfig) -> ExitCode {
    match tinykv::check::check(&config.data_dir) {
        Ok(found) => {
            println!(
                "{}: sound. log: {} entries{}; state: {} keys, {} versions, revision {}",
                config.data_dir.display(),
                found.log.entries,
                if found.log.cut.is_some() {
                    ", an unfinished last write that a start would cut off"
                } else {
                    ""
                },
                found.keys,
                found.versions,
                found.revision,
            );
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error.to_string()),
    }
}

fn refuse(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
