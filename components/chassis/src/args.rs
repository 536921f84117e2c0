//! Command-line arguments that every server takes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::log_files::LogOutputs;

/// Flatten this into a server's command line.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Configuration file (YAML). Environment variables and flags override it.
    #[arg(long, short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Override one setting, such as `--set server.limits.max_connections=100`. May be given again.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,

    /// Print the effective configuration as YAML and exit.
    #[arg(long)]
    pub print_config: bool,

    /// How log lines look. Default: pretty on a terminal, JSON elsewhere.
    #[arg(long, value_enum, value_name = "FORMAT", env = "AISTACK_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,tinykv=debug`.
    #[arg(long, value_name = "LEVEL", env = "AISTACK_LOG")]
    pub log_level: Option<String>,

    /// Where log lines go; a component may take that from settings of its own.
    #[arg(skip)]
    pub log_outputs: LogOutputs,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line, with the trace id.
    Json,
    /// The same as etcd's logger, zap, writes it: `level`, `ts`, `caller`, `msg`, and the fields beside them.
    Zap,
    /// As zap writes them for people: the same, separated by tabs, the fields as JSON at the end.
    Console,
}

/// Where a server with an HTTP, a gRPC and an admin port listens: settings `listen_http`, `listen_grpc` and
/// `server.admin_listen`.
#[derive(Debug, Clone, Default, Args)]
pub struct ListenArgs {
    /// Address to listen on, for HTTP, gRPC and the admin port.
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<IpAddr>,

    /// HTTP port; gRPC takes the next one and the admin port the one after, unless they are set.
    #[arg(long, short = 'p', value_name = "PORT")]
    pub port: Option<u16>,

    /// gRPC port.
    #[arg(long, value_name = "PORT")]
    pub grpc_port: Option<u16>,

    /// Admin port: /metrics, /healthz, /readyz.
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<u16>,
}

impl ListenArgs {
    /// The flags that were given, as settings; `default_port` is the HTTP port when only a host is given.
    pub fn settings(&self, default_port: u16) -> Map<String, Value> {
        let host = self.host.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let address = |port: u16| json!(SocketAddr::new(host, port));
        let port = self.port.or(self.host.map(|_| default_port));
        let after = |offset: u16| port.filter(|port| *port > 0).map(|port| port.saturating_add(offset));
        let mut settings = Map::new();
        if let Some(port) = port {
            settings.insert("listen_http".to_owned(), address(port));
        }
        if let Some(port) = self.grpc_port.or(after(1)) {
            settings.insert("listen_grpc".to_owned(), address(port));
        }
        if let Some(port) = self.admin_port.or(after(2)) {
            settings.insert("server".to_owned(), json!({"admin_listen": address(port)}));
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_sets_all_three() {
        let settings = |listen: ListenArgs| Value::Object(listen.settings(80)).to_string();
        assert_eq!(settings(ListenArgs::default()), "{}");
        assert_eq!(
            settings(ListenArgs { port: Some(9000), admin_port: Some(9100), ..ListenArgs::default() }),
            r#"{"listen_http":"127.0.0.1:9000","listen_grpc":"127.0.0.1:9001","server":{"admin_listen":"127.0.0.1:9100"}}"#
        );
        assert_eq!(
            settings(ListenArgs { host: "0.0.0.0".parse().ok(), ..ListenArgs::default() }),
            r#"{"listen_http":"0.0.0.0:80","listen_grpc":"0.0.0.0:81","server":{"admin_listen":"0.0.0.0:82"}}"#
        );
    }
}
