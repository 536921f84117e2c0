//! A reference page for every kind, from the schema that is installed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use aistack_crds::Kind;
use anyhow::{Context as _, Result};
use serde_json::Value;

/// One page per kind, by path.
pub fn generate(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let page = |kind: Kind| {
        let text = page(kind).with_context(|| format!("reference page of {}", kind.name()))?;
        Ok((root.join(format!("docs/reference/{}.md", kind.name().to_lowercase())), text))
    };
    Kind::ALL.into_iter().map(page).collect()
}

fn page(kind: Kind) -> Result<String> {
    let crd = serde_json::to_value(kind.crd())?;
    let version = crd.pointer("/spec/versions/0").context("a version")?;
    let whole = version.pointer("/schema/openAPIV3Schema").context("a schema")?;
    let about = words(whole["description"].as_str().unwrap_or_default());
    let short = crd.pointer("/spec/names/shortNames/0").and_then(Value::as_str).unwrap_or_default();
    let mut text = format!(
        "# {name}\n\n\
         Generated from `crds/src` by `cargo xtask gen`. Do not edit.\n\n\
         {about}\n\n\
         `apiVersion: platform.dev/v1`, `kind: {name}`; short name `{short}`. Unknown fields are dropped by the API server, and refused with \
         `kubectl apply --validate=strict` and by `aistack render`.\n",
        name = kind.name(),
    );
    for (part, title) in [("spec", "Spec"), ("status", "Status")] {
        let Some(schema) = whole.pointer(&format!("/properties/{part}")) else { continue };
        writeln!(text, "\n## {title}\n\n| Field | Type | Default | Meaning |\n|---|---|---|---|")?;
        let mut rules = Vec::new();
        walk(schema, part, &mut text, &mut rules)?;
        if part == "spec" {
            rules.extend(rules_of(whole, ""));
        }
        if !rules.is_empty() {
            writeln!(text, "\n### What is refused\n")?;
            rules.iter().try_for_each(|rule| writeln!(text, "- {rule}"))?;
        }
    }
    if let Some(columns) = version["additionalPrinterColumns"].as_array() {
        let names: Vec<&str> = columns.iter().filter_map(|column| column["name"].as_str()).collect();
        writeln!(text, "\n`kubectl get {short}` shows {}.", names.join(", "))?;
    }
    Ok(text)
}

/// Lists the leaves below a schema, in the order of the alphabet that the API server has them in.
fn walk(schema: &Value, path: &str, text: &mut String, rules: &mut Vec<String>) -> Result<()> {
    rules.extend(rules_of(schema, path));
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // Conditions and tolerations are Kubernetes' own.
        let below = format!("{path}.{name}");
        let default = match &property["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null => String::new(),
            value => format!("`{value}`"),
        };
        let meaning = words(property["description"].as_str().unwrap_or_default());
        writeln!(text, "| `{below}` | {} | {default} | {meaning} |", kind_of(property))?;
        if name == "conditions" || name == "tolerations" {
            continue;
        }
        let items = &property["items"];
        if items.is_object() {
            rules.extend(rules_of(property, &below));
            walk(items, &format!("{below}[]"), text, rules)?;
        } else {
            walk(property, &below, text, rules)?;
        }
    }
    Ok(())
}

fn rules_of(schema: &Value, path: &str) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules
        .map(|rule| {
            let field = rule["fieldPath"].as_str().unwrap_or_default();
            let message = rule["message"].as_str().or(rule["messageExpression"].as_str()).unwrap_or_default();
            let place = format!("{path}{field}");
            if place.is_empty() { words(message) } else { format!("`{place}` {}", words(message)) }
        })
        .collect()
}

fn kind_of(property: &Value) -> String {
    if let Some(values) = property["enum"].as_array() {
        let values: Vec<String> =
            values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    let kind = property["type"].as_str().unwrap_or("any");
    let bounds = match (&property["minimum"], &property["maximum"]) {
        (Value::Null, Value::Null) => String::new(),
        (low, high) => format!(" {}–{}", number(low), number(high)),
    };
    if kind == "array" {
        format!("list of {}", kind_of(&property["items"]))
    } else {
        format!("{kind}{bounds}")
    }
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |number| format!("{number}"))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
