//! Where traces go, by etcd's flags.

use super::{FlagError, OFF, put};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const RATE: &str = "distributed-tracing-sampling-rate";
/// What etcd's rate counts by.
const MILLION: f64 = 1e6;

/// Turns the flags of traces into settings, where traces are asked for.
pub(super) fn read(
    given: &BTreeMap<String, String>,
    settings: &mut Map<String, Value>,
) -> Result<(), FlagError> {
    let value = |flag: &str| given.get(flag).map(String::as_str).filter(|value| !value.is_empty());
    if value("enable-distributed-tracing").is_none_or(|value| OFF.contains(&value)) {
        return Ok(());
    }
    let address = value("distributed-tracing-address").unwrap_or("localhost:4317");
    let endpoint = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let rate = value(RATE).unwrap_or("0");
    let wrong = || FlagError::Value {
        flag: RATE.to_owned(),
        value: rate.to_owned(),
        reason: "it is a number from 0 to 1000000: so many of a million are recorded".to_owned(),
    };
    let share = rate.parse::<u32>().map_err(|_| wrong())?;
    let share = Some(f64::from(share) / MILLION).filter(|share| *share <= 1.0).ok_or_else(wrong)?;
    put(settings, "server.telemetry.otlp_endpoint", endpoint.into());
    put(settings, "server.telemetry.sample_ratio", share.into());
    let name = value("distributed-tracing-service-name").unwrap_or("etcd");
    put(settings, "server.telemetry.service_name", name.into());
    if let Some(instance) = value("distributed-tracing-instance-id") {
        put(settings, "server.telemetry.instance", instance.into());
    }
    Ok(())
}
