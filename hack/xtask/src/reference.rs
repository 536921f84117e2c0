//! Reference pages of every component's configuration, from the types that the components parse.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use aistack_api::modelhub::ModelhubConfig;
use aistack_api::operator::OperatorConfig;
use aistack_api::tinyinfer::TinyinferConfig;
use aistack_api::tinykv::TinykvConfig;
use aistack_api::vectorforge::VectorforgeConfig;
use anyhow::{Context as _, Result};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde_json::Value;

/// One page per component, by path.
pub fn generate(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let pages = [
        page::<TinykvConfig>("tinykv", "TINYKV_")?,
        page::<VectorforgeConfig>("vectorforge", "VECTORFORGE_")?,
        page::<TinyinferConfig>("tinyinfer", "TINYINFER_")?,
        page::<ModelhubConfig>("modelhub", "MODELHUB_")?,
        page_of("aistack-operator", "AISTACK_OPERATOR_", rows_of_the_operator()?)?,
    ];
    Ok(pages.into_iter().map(|(name, text)| (root.join(format!("docs/reference/{name}.md")), text)).collect())
}

/// Paths of the operator's settings.
pub fn settings_of_the_operator() -> Result<Vec<String>> {
    Ok(rows_of_the_operator()?.into_iter().map(|row| row.path).collect())
}

/// It has no clients, so it refuses what is for their listeners.
fn rows_of_the_operator() -> Result<Vec<Row>> {
    let mut rows = rows::<OperatorConfig>()?;
    rows.retain(|row| !["server.tls", "server.auth"].iter().any(|refused| row.path.starts_with(refused)));
    Ok(rows)
}

fn rows<C: JsonSchema + Serialize + Default>() -> Result<Vec<Row>> {
    let schema = serde_json::to_value(schema_for!(C))?;
    let defaults = serde_json::to_value(C::default())?;
    let mut rows = Vec::new();
    walk(&schema, &schema, &defaults, "", &mut rows)?;
    Ok(rows)
}

fn page<C: JsonSchema + Serialize + Default>(name: &str, prefix: &str) -> Result<(String, String)> {
    page_of(name, prefix, rows::<C>().with_context(|| format!("configuration of {name}"))?)
}

fn page_of(name: &str, prefix: &str, rows: Vec<Row>) -> Result<(String, String)> {
    let mut text = format!(
        "# Configuration of {name}\n\n\
         Generated from `components/api` by `cargo xtask gen`. Do not edit.\n\n\
         A YAML file (`{name} --config FILE`), then environment variables, then flags and `--set path=value`; later ones win.\n\
         The variable of `a.b` is `{prefix}A__B`. Unknown settings are errors. `--print-config` prints the effective ones.\n\n\
         | Setting | Default | Meaning |\n|---|---|---|\n"
    );
    for Row { path, default, meaning } in rows {
        writeln!(text, "| `{path}` | {default} | {meaning} |")?;
    }
    Ok((name.to_owned(), text))
}

struct Row {
    path: String,
    default: String,
    meaning: String,
}

/// Lists the leaves below `schema`, in the order of their declaration.
fn walk(root: &Value, schema: &Value, defaults: &Value, path: &str, rows: &mut Vec<Row>) -> Result<()> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let target = resolve(root, property)?;
        let default = defaults.get(name).unwrap_or(&Value::Null);
        let meaning = property.get("description").or_else(|| target.get("description"));
        let meaning =
            meaning.and_then(Value::as_str).unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let list = target.get("items").map(|items| resolve(root, items)).transpose()?;
        let inner = list.filter(|items| items.get("properties").is_some());
        if target.get("properties").is_some() {
            if default.is_null() {
                rows.push(Row { path: path.clone(), default: "absent".to_owned(), meaning });
            }
            walk(root, target, default, &path, rows)?;
        } else {
            rows.push(Row {
                path: path.clone(),
                default: shown(default),
                meaning: meaning + &choices(root, target),
            });
            if let Some(inner) = inner {
                walk(root, inner, &Value::Null, &format!("{path}[]"), rows)?;
            }
        }
    }
    Ok(())
}

/// Follows `$ref`, and looks through the `null` that an optional setting allows.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> Result<&'a Value> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = reference.strip_prefix('#').context("a reference within the schema")?;
        return resolve(root, root.pointer(pointer).with_context(|| format!("{reference} leads nowhere"))?);
    }
    for key in ["anyOf", "allOf"] {
        let mut options = schema.get(key).and_then(Value::as_array).into_iter().flatten();
        if let Some(option) =
            options.find(|option| option.get("type").and_then(Value::as_str) != Some("null"))
        {
            return resolve(root, option);
        }
    }
    Ok(schema)
}

/// The values of a choice, with what each means where that is said.
fn choices(root: &Value, schema: &Value) -> String {
    let named = |option: &Value| -> Option<String> {
        let option = resolve(root, option).ok()?;
        let name = option.get("const").or_else(|| option.get("enum")?.get(0))?.as_str()?.to_owned();
        let meaning =
            option.get("description").and_then(Value::as_str).map(|text| text.trim_end_matches('.'));
        Some(meaning.map_or_else(|| format!("`{name}`"), |meaning| format!("`{name}` ({meaning})")))
    };
    let listed = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten().filter_map(named);
    let plain = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let all: Vec<_> =
        listed.chain(plain.filter_map(|value| Some(format!("`{}`", value.as_str()?)))).collect();
    if all.is_empty() { String::new() } else { format!(" One of {}.", all.join(", ")) }
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => "absent".to_owned(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        // Settings of single precision are shown as they were written: 0.3, not the double nearest to it.
        Value::Number(number) if number.is_f64() => {
            let written = number.as_f64().map(|value| (value, value as f32));
            match written.filter(|(value, single)| f64::from(*single).to_bits() == value.to_bits()) {
                Some((_, single)) => format!("`{single:?}`"),
                None => format!("`{number}`"),
            }
        }
        other => format!("`{other}`"),
    }
}
