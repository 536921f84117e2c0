//! Settings of `vectorforge`.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::server::{ServerConfig, ServerConfigError};

/// The effective configuration of a VectorForge node. Environment prefix: `VECTORFORGE_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VectorforgeConfig {
    /// Admin port, TLS, API keys, limits of the listeners, telemetry.
    #[serde(deserialize_with = "server_with_admin_default")]
    pub server: ServerConfig,
    /// Address of the REST listener.
    pub listen_http: SocketAddr,
    /// Address of the gRPC listener.
    pub listen_grpc: SocketAddr,
    /// Directory that holds every collection. Created when missing; one process at a time may hold it.
    pub data_dir: PathBuf,
    /// Limits of a single request.
    pub request_limits: VectorforgeRequestLimits,
    /// How vectors are stored and indexed.
    pub engine: VectorforgeEngineConfig,
}

impl Default for VectorforgeConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig::with_admin(([127, 0, 0, 1], 6335).into()),
            listen_http: ([127, 0, 0, 1], 6333).into(),
            listen_grpc: ([127, 0, 0, 1], 6334).into(),
            data_dir: PathBuf::from("./vectorforge-data"),
            request_limits: VectorforgeRequestLimits::default(),
            engine: VectorforgeEngineConfig::default(),
        }
    }
}

/// A file that names only part of `server` keeps the admin port where it is by default.
fn server_with_admin_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ServerConfig, D::Error> {
    let mut value = serde_json::Value::deserialize(deserializer)?;
    if let Some(fields) = value.as_object_mut() {
        fields.entry("admin_listen").or_insert_with(|| "127.0.0.1:6335".into());
    }
    serde_json::from_value(value).map_err(serde::de::Error::custom)
}

/// Limits of a single request. Over one of them the request is refused with 400 and nothing of it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VectorforgeRequestLimits {
    /// Points in one upsert, ids in one retrieve or delete, operations in one update batch.
    pub max_batch: usize,
    /// Searches in one batch of searches.
    pub max_search_batch: usize,
    /// Largest `limit` + `offset` of a search, and largest page of a scroll.
    pub max_limit: usize,
    /// Largest vector size a collection may be created with.
    pub max_dimension: usize,
    /// Deepest nesting of filters within filters.
    pub max_filter_depth: usize,
    /// Conditions, and values inside `any`, `except` and `has_id`, in one filter.
    pub max_filter_size: usize,
    /// Largest `hnsw_ef` a search may ask for.
    pub max_hnsw_ef: usize,
}

impl Default for VectorforgeRequestLimits {
    fn default() -> Self {
        Self {
            max_batch: 100_000,
            max_search_batch: 1_000,
            max_limit: 100_000,
            max_dimension: 65_536,
            max_filter_depth: 32,
            max_filter_size: 65_536,
            max_hnsw_ef: 65_536,
        }
    }
}

/// How vectors are stored and indexed. Collections are created with these values where their request names none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VectorforgeEngineConfig {
    /// Points an appendable segment holds before it is sealed and its graph is built.
    pub seal_points: usize,
    /// Sealed segments are merged until at most this many remain.
    pub max_segments: usize,
    /// A segment is rewritten when this share of its points is deleted, from 0.0 to 1.0.
    pub vacuum_fraction: f64,
    /// Links of a node in the upper levels of the graph (`m` of HNSW); level 0 holds twice as many.
    pub hnsw_m: usize,
    /// Candidates kept while a graph is built.
    pub hnsw_ef_construct: usize,
    /// Candidates kept by a search that names no `hnsw_ef`.
    pub hnsw_ef: usize,
    /// Segments with fewer points than this are scanned exactly and get no graph.
    pub full_scan_points: usize,
    /// Builder of the graphs.
    pub builder: VectorforgeGraphBuilder,
    /// Threads that build graphs. 0: all cores but one, at least one.
    pub build_threads: usize,
    /// A checkpoint is taken this long after the last one when there were writes, in seconds. It makes the next start fast.
    pub checkpoint_interval_s: u64,
    /// A checkpoint is taken when the write-ahead log holds this many bytes.
    pub checkpoint_wal_bytes: u64,
    /// Copy vectors and graphs of sealed segments to memory instead of reading them through mmap.
    pub preload: bool,
}

impl Default for VectorforgeEngineConfig {
    fn default() -> Self {
        Self {
            seal_points: 20_000,
            max_segments: 2,
            vacuum_fraction: 0.2,
            hnsw_m: 16,
            hnsw_ef_construct: 128,
            hnsw_ef: 128,
            full_scan_points: 10_000,
            builder: VectorforgeGraphBuilder::default(),
            build_threads: 0,
            checkpoint_interval_s: 60,
            checkpoint_wal_bytes: 64 << 20,
            preload: false,
        }
    }
}

/// Which code builds the graph of a sealed segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VectorforgeGraphBuilder {
    /// VectorForge's own builder.
    #[default]
    Native,
    /// Crate `hnsw_rs`, its graph exported into the frozen form.
    HnswRs,
}

/// What is wrong with a [`VectorforgeConfig`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VectorforgeConfigError {
    /// The shared part.
    #[error(transparent)]
    Server(#[from] ServerConfigError),
    /// A number that must be at least one.
    #[error("{field} is 0; it must be at least 1")]
    Zero {
        /// Path of the field.
        field: &'static str,
    },
    /// A number outside its range.
    #[error("{field} is {value}; it is a number from {min} to {max}")]
    Range {
        /// Path of the field.
        field: &'static str,
        /// The value given.
        value: usize,
        /// Least value allowed.
        min: usize,
        /// Greatest value allowed.
        max: usize,
    },
    /// A share outside 0.0 to 1.0.
    #[error("{field} is {share}; it is a share from 0.0 to 1.0")]
    Share {
        /// Path of the field.
        field: &'static str,
        /// The value given.
        share: f64,
    },
    /// Two listeners on one port.
    #[error("{first} and {second} are both {address}; give each its own port")]
    SamePort {
        /// Path of one field.
        first: &'static str,
        /// Path of the other field.
        second: &'static str,
        /// The address they share.
        address: SocketAddr,
    },
}

impl VectorforgeConfig {
    /// Checks the values that serde cannot.
    pub fn validate(&self) -> Result<(), VectorforgeConfigError> {
        self.server.validate()?;
        let listeners = [
            ("listen_http", self.listen_http),
            ("listen_grpc", self.listen_grpc),
            ("server.admin_listen", self.server.admin_listen),
        ];
        for (index, (first, address)) in listeners.iter().enumerate() {
            for (second, other) in &listeners[index + 1..] {
                if address == other && address.port() != 0 {
                    return Err(VectorforgeConfigError::SamePort { first, second, address: *address });
                }
            }
        }
        let limits = &self.request_limits;
        let positive = [
            ("request_limits.max_batch", limits.max_batch),
            ("request_limits.max_search_batch", limits.max_search_batch),
            ("request_limits.max_limit", limits.max_limit),
            ("request_limits.max_filter_size", limits.max_filter_size),
            ("request_limits.max_hnsw_ef", limits.max_hnsw_ef),
            ("engine.checkpoint_interval_s", self.engine.checkpoint_interval_s as usize),
            ("engine.checkpoint_wal_bytes", self.engine.checkpoint_wal_bytes as usize),
        ];
        for (field, value) in positive {
            if value == 0 {
                return Err(VectorforgeConfigError::Zero { field });
            }
        }
        let engine = &self.engine;
        let ranges = [
            ("request_limits.max_dimension", limits.max_dimension, 1, 65_536),
            ("request_limits.max_filter_depth", limits.max_filter_depth, 1, 64),
            ("engine.seal_points", engine.seal_points, 1, 10_000_000),
            ("engine.max_segments", engine.max_segments, 1, 1_024),
            ("engine.hnsw_m", engine.hnsw_m, 4, 64),
            ("engine.hnsw_ef_construct", engine.hnsw_ef_construct, 4, 4_096),
            ("engine.hnsw_ef", engine.hnsw_ef, 1, 65_536),
            ("engine.build_threads", engine.build_threads, 0, 1_024),
        ];
        for (field, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(VectorforgeConfigError::Range { field, value, min, max });
            }
        }
        let share = engine.vacuum_fraction;
        if !(0.0..=1.0).contains(&share) {
            return Err(VectorforgeConfigError::Share { field: "engine.vacuum_fraction", share });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_names_the_field() {
        type Change = fn(&mut VectorforgeConfig);
        let table: &[(Change, Option<&str>)] = &[
            (|_| {}, None),
            (|c| c.request_limits.max_limit = 0, Some("request_limits.max_limit")),
            (|c| c.request_limits.max_dimension = 70_000, Some("request_limits.max_dimension is 70000")),
            (|c| c.engine.hnsw_m = 1, Some("engine.hnsw_m")),
            (|c| c.engine.vacuum_fraction = f64::NAN, Some("engine.vacuum_fraction")),
            (|c| c.listen_grpc = c.listen_http, Some("listen_http and listen_grpc")),
            (|c| c.server.admin_listen = c.listen_grpc, Some("server.admin_listen")),
            (|c| c.server.limits.max_connections = 0, Some("server.limits.max_connections")),
        ];
        for (change, expected) in table {
            let mut config = VectorforgeConfig::default();
            change(&mut config);
            match (config.validate(), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{error}"),
                (result, expected) => panic!("{result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config: VectorforgeConfig = serde_json::from_str("{}").expect("every field has a default");
        assert_eq!(config, VectorforgeConfig::default());
        let config: VectorforgeConfig =
            serde_json::from_str(r#"{"server":{"limits":{"max_connections":7}}}"#)
                .expect("the admin port has a default");
        assert_eq!((config.server.admin_listen.port(), config.server.limits.max_connections), (6335, 7));
        let error = serde_json::from_str::<VectorforgeConfig>(r#"{"engine":{"hnsw_mm":1}}"#)
            .expect_err("no such field");
        assert!(error.to_string().contains("unknown field `hnsw_mm`"), "{error}");
    }
}
