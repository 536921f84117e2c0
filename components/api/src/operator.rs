//! Settings of `aistack-operator`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::server::{ServerConfig, ServerConfigError};

/// The effective configuration of the operator. Environment prefix: `AISTACK_OPERATOR_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorConfig {
    /// Admin port and telemetry.
    #[serde(deserialize_with = "server_with_admin_default")]
    pub server: ServerConfig,
    /// The one namespace that it sees. Absent: all, which needs a ClusterRole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Objects that are reconciled at a time.
    pub workers: usize,
    /// Which of several operators works.
    pub lease: LeaseConfig,
    /// Base URLs to use in place of Services', by `service.namespace`, such as `modelhub.team: http://127.0.0.1:8080`: for an operator
    /// outside the cluster's network.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, String>,
}

impl Default for OperatorConfig {
    fn default() -> Self {
        Self {
            server: default_server(),
            namespace: None,
            workers: 8,
            lease: LeaseConfig::default(),
            addresses: BTreeMap::new(),
        }
    }
}

/// The Lease by which one of several operators leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseConfig {
    /// Whether there is one. Without it, nothing keeps two operators from working against one another.
    pub enabled: bool,
    /// Its namespace. Absent: that of the operator's pod, else `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// How long it holds after it was renewed, in seconds; another operator waits that long when this one is gone without a word.
    pub duration_seconds: u32,
    /// How long this one tries to renew it before it ends, in seconds; less than `duration_seconds`.
    pub deadline_seconds: u32,
    /// Time between two renewals, in seconds; less than `deadline_seconds`.
    pub renew_seconds: u32,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            namespace: None,
            name: "aistack-operator".to_owned(),
            duration_seconds: 15,
            deadline_seconds: 10,
            renew_seconds: 5,
        }
    }
}

impl OperatorConfig {
    /// Checks the values that serde cannot.
    pub fn validate(&self) -> Result<(), OperatorConfigError> {
        self.server.validate()?;
        if self.workers == 0 {
            return Err(OperatorConfigError::NoWorkers);
        }
        let lease = &self.lease;
        if lease.renew_seconds == 0
            || lease.renew_seconds >= lease.deadline_seconds
            || lease.deadline_seconds >= lease.duration_seconds
        {
            return Err(OperatorConfigError::LeaseTimes {
                renew: lease.renew_seconds,
                deadline: lease.deadline_seconds,
                duration: lease.duration_seconds,
            });
        }
        Ok(())
    }
}

/// What is wrong with an [`OperatorConfig`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OperatorConfigError {
    /// The shared settings.
    #[error(transparent)]
    Server(#[from] ServerConfigError),
    /// Nothing would be reconciled.
    #[error("workers is 0, so nothing would be reconciled; leave it out for the default")]
    NoWorkers,
    /// Two could lead at once, or none for long.
    #[error(
        "lease: renew_seconds {renew}, deadline_seconds {deadline} and duration_seconds {duration} must rise in this order"
    )]
    LeaseTimes {
        /// Between renewals.
        renew: u32,
        /// Until it gives up.
        deadline: u32,
        /// Until another takes over.
        duration: u32,
    },
}

fn default_server() -> ServerConfig {
    ServerConfig::with_admin(([127, 0, 0, 1], 8090).into())
}

/// A file that names only part of `server` keeps the rest as it is by default.
fn server_with_admin_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ServerConfig, D::Error> {
    let mut value = serde_json::Value::deserialize(deserializer)?;
    if let Some(fields) = value.as_object_mut() {
        fields.entry("admin_listen").or_insert_with(|| default_server().admin_listen.to_string().into());
    }
    serde_json::from_value(value).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_lease_rise() {
        let with = |renew, deadline, duration| {
            let mut config = OperatorConfig::default();
            config.lease.renew_seconds = renew;
            config.lease.deadline_seconds = deadline;
            config.lease.duration_seconds = duration;
            config.validate().is_ok()
        };
        for (renew, deadline, duration, is_valid) in
            [(5, 10, 15, true), (1, 2, 3, true), (0, 10, 15, false), (10, 10, 15, false), (5, 15, 15, false)]
        {
            assert_eq!(with(renew, deadline, duration), is_valid, "{renew} {deadline} {duration}");
        }
    }

    #[test]
    fn a_file_may_name_a_part() {
        let config: OperatorConfig =
            serde_json::from_str(r#"{"server": {}, "namespace": "team"}"#).expect("a part is enough");
        assert_eq!(
            config,
            OperatorConfig { namespace: Some("team".to_owned()), ..OperatorConfig::default() }
        );
    }
}
