//! Values of flags, as settings: one reader for each form.

use aistack_api::tinykv::duration;
use serde_json::{Map, Value};
use std::net::SocketAddr;

#[expect(clippy::unnecessary_wraps, reason = "every reader of the table has this form")]
pub(super) fn text(value: &str) -> Result<Value, String> {
    Ok(if value.is_empty() { Value::Null } else { value.into() })
}

#[expect(clippy::unnecessary_wraps, reason = "every reader of the table has this form")]
pub(super) fn list(value: &str) -> Result<Value, String> {
    let parts: Vec<Value> = value.split(',').filter(|part| !part.is_empty()).map(Value::from).collect();
    Ok(parts.into())
}

/// Absent when empty, as what it is a part of may be.
pub(super) fn names(value: &str) -> Result<Value, String> {
    if value.is_empty() { Ok(Value::Null) } else { list(value) }
}

/// Only what is on is set.
pub(super) fn switch(value: &str) -> Result<Value, String> {
    match value {
        "true" | "1" => Ok(true.into()),
        "false" | "0" | "" => Ok(Value::Null),
        _ => Err("write true or false".to_owned()),
    }
}

/// What is off is set too.
pub(super) fn either(value: &str) -> Result<Value, String> {
    switch(value).map(|value| (value == Value::Bool(true)).into())
}

pub(super) fn number(value: &str) -> Result<Value, String> {
    value.parse::<u64>().map(Value::from).map_err(|_| "it is no number from 0 up".to_owned())
}

/// 0 and less stand for etcd's default, which is tinykv's.
pub(super) fn quota(value: &str) -> Result<Value, String> {
    let bytes = value.parse::<i64>().map_err(|_| "it is no number of bytes".to_owned())?;
    Ok(if bytes <= 0 { Value::Null } else { bytes.into() })
}

/// etcd's default is "as many as there are numbers".
pub(super) fn streams(value: &str) -> Result<Value, String> {
    let most = value.parse::<u64>().map_err(|_| "it is no number from 0 up".to_owned())?;
    Ok(if most >= u64::from(u32::MAX) { Value::Null } else { most.into() })
}

/// A duration as Go writes them: `300ms`, `1.5h`, `2h45m`. A bare number is nanoseconds, as in etcd's file.
pub(super) fn milliseconds(value: &str) -> Result<Value, String> {
    if let Ok(nanoseconds) = value.parse::<u64>() {
        return Ok((nanoseconds / 1_000_000).into());
    }
    let duration = duration(value).ok_or("write a duration like 10m or 1.5s")?;
    Ok((duration.as_millis() as u64).into())
}

/// etcd's default is 0, which stands for tinykv's, too.
pub(super) fn interval(value: &str) -> Result<Value, String> {
    milliseconds(value).map(|interval| if interval == 0 { Value::Null } else { interval })
}

/// The same in microseconds.
pub(super) fn microseconds(value: &str) -> Result<Value, String> {
    if let Ok(nanoseconds) = value.parse::<u64>() {
        return Ok((nanoseconds / 1_000).into());
    }
    let duration = duration(value).ok_or("write a duration like 300ms or 1.5s")?;
    Ok((duration.as_micros() as u64).into())
}

/// The address in an etcd-style URL.
pub(super) fn address(url: &str) -> Result<Value, String> {
    if url.contains(',') {
        return Err("tinykv listens on one address; name one".to_owned());
    }
    let bare = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or(url);
    let bare = bare.trim_end_matches('/').replace("localhost", "127.0.0.1");
    match bare.parse::<SocketAddr>() {
        Ok(address) => Ok(address.to_string().into()),
        Err(_) => Err("it is no address; write it like http://127.0.0.1:2379".to_owned()),
    }
}

/// A version of TLS as etcd names it.
pub(super) fn tls_version(value: &str) -> Result<Value, String> {
    match value {
        "" => Ok(Value::Null),
        "TLS1.2" | "TLS1.3" => Ok(value[3..].into()),
        _ => Err("write TLS1.2 or TLS1.3".to_owned()),
    }
}

/// How much metrics tell.
pub(super) fn metrics(value: &str) -> Result<Value, String> {
    match value {
        "" | "basic" => Ok(Value::Null),
        "extensive" => Ok(true.into()),
        _ => Err("write basic or extensive".to_owned()),
    }
}

/// `simple`, or `jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m`.
pub(super) fn tokens(value: &str) -> Result<Value, String> {
    let mut parts = value.split(',');
    match parts.next() {
        Some("simple" | "") => return Ok(Value::Null),
        Some("jwt") => {}
        _ => return Err("tokens are simple or jwt".to_owned()),
    }
    let mut jwt = Map::new();
    for part in parts {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("{part}: write NAME=VALUE"))?;
        let (name, value) = match name {
            "sign-method" => ("sign_method", value.into()),
            "priv-key" => ("private_key_file", value.into()),
            "pub-key" => ("public_key_file", value.into()),
            "ttl" => ("ttl_ms", milliseconds(value)?),
            _ => {
                return Err(format!(
                    "{name} is no option of jwt's; there are sign-method, priv-key, pub-key and ttl"
                ));
            }
        };
        jwt.insert(name.to_owned(), value);
    }
    if !jwt.contains_key("sign_method") {
        return Err("jwt needs sign-method".to_owned());
    }
    Ok(jwt.into())
}
