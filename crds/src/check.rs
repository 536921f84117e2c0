//! What the API server would say about an object, said here: structure, defaults, then the CEL rules.
//!
//! The rules are read out of the very schema that is installed, so there is one text of each. The walk over the
//! structure exists because `kube-cel` evaluates rules only, and because an API server drops an unknown field
//! silently while a person who mistyped one wants to hear of it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_cel::{RootContext, Validator};
use serde_json::{Map, Value};

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path of the field, such as `spec.tinykv.replicas`; empty when the object as a whole is meant.
    pub path: String,
    /// What is wrong and, after the first `; `, why and what to do.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Checks `object` as the API server would on creation, and returns it with the schema's defaults filled in.
pub fn check(crd: &CustomResourceDefinition, object: &Value) -> Result<Value, Vec<Violation>> {
    check_against(crd, object, None)
}

/// Checks the change from `old` to `new` as the API server would on update.
pub fn check_update(
    crd: &CustomResourceDefinition,
    old: &Value,
    new: &Value,
) -> Result<Value, Vec<Violation>> {
    check_against(crd, new, Some(old))
}

fn check_against(
    crd: &CustomResourceDefinition,
    object: &Value,
    old: Option<&Value>,
) -> Result<Value, Vec<Violation>> {
    let schema = schema_of(crd);
    let mut violations = Vec::new();
    // Metadata is the API server's own; the schema of a kind says nothing about its fields.
    walk(&schema, object, "", &mut violations);
    check_name(object, &mut violations);
    if !violations.is_empty() {
        return Err(violations);
    }
    let defaulted = kube_cel::apply_defaults(&schema, object);
    let old = old.map(|old| kube_cel::apply_defaults(&schema, old));
    let root = RootContext {
        api_version: format!("{}/{}", crd.spec.group, crd.spec.versions[0].name),
        api_group: crd.spec.group.clone(),
        kind: crd.spec.names.kind.clone(),
    };
    Validator::new().validate_with_context(&schema, &defaulted, old.as_ref(), Some(&root)).map_err(
        |errors| {
            errors
                .into_vec()
                .into_iter()
                .map(|error| Violation { path: error.field_path.replace("..", "."), message: error.message })
                .collect::<Vec<_>>()
        },
    )?;
    Ok(defaulted)
}

fn schema_of(crd: &CustomResourceDefinition) -> Value {
    let schema = crd.spec.versions[0]
        .schema
        .as_ref()
        .and_then(|schema| schema.open_api_v3_schema.as_ref())
        .expect("every kind of this crate derives its schema");
    serde_json::to_value(schema).expect("a schema is plain data")
}

fn check_name(object: &Value, violations: &mut Vec<Violation>) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let label = name.len() <= 63
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if name.is_empty() {
        violations.push(violation(
            "metadata.name",
            "is missing; give the object a name, for example name: quickstart",
        ));
    } else if name.len() > 63 {
        violations.push(Violation {
            path: "metadata.name".to_owned(),
            message: format!("`{name}` has {} characters; at most 63 are allowed", name.len()),
        });
    } else if !label {
        violations.push(Violation {
            path: "metadata.name".to_owned(),
            message: format!(
                "`{name}` is not a DNS label; use lower-case letters, digits and '-', beginning and ending with a letter or digit"
            ),
        });
    }
}

fn violation(path: &str, message: impl Into<String>) -> Violation {
    Violation { path: path.to_owned(), message: message.into() }
}

fn walk(schema: &Value, value: &Value, path: &str, violations: &mut Vec<Violation>) {
    if value.is_null() {
        // An empty `spec.tinykv:` reads as null; whoever wrote it meant the defaults.
        if !path.is_empty() && !path.ends_with("creationTimestamp") {
            violations.push(violation(path, "is empty; write {} for the defaults, or remove the line"));
        }
        return;
    }
    let expected = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    if let Some(found) = type_mismatch(schema, expected, value) {
        violations.push(violation(path, format!("is {found}, but {} is wanted", article(expected))));
        return;
    }
    match value {
        Value::Object(fields) => walk_object(schema, fields, path, violations),
        Value::Array(items) => walk_array(schema, items, path, violations),
        Value::String(text) => check_string(schema, text, path, violations),
        Value::Number(number) => check_number(schema, number, path, violations),
        Value::Null | Value::Bool(_) => {}
    }
}

fn type_mismatch(schema: &Value, expected: &str, value: &Value) -> Option<String> {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return (!value.is_string() && !value.is_i64()).then(|| kind_of(value));
    }
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    (!fits).then(|| kind_of(value))
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(flag) => format!("the boolean {flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}

fn article(expected: &str) -> &'static str {
    match expected {
        "object" => "a map",
        "array" => "a list",
        "string" => "text (quote it)",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "another type",
    }
}

fn walk_object(schema: &Value, fields: &Map<String, Value>, path: &str, violations: &mut Vec<Violation>) {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let additional = schema.get("additionalProperties").filter(|additional| additional.is_object());
    let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    for (key, value) in fields {
        let child = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match properties.get(key).or(additional) {
            // metadata, apiVersion and kind at the root are checked by the API machinery itself.
            _ if path.is_empty() && matches!(key.as_str(), "metadata" | "apiVersion" | "kind") => {}
            Some(schema) => walk(schema, value, &child, violations),
            None if open || properties.is_empty() => {}
            None => violations.push(Violation { message: unknown_field(key, properties), path: child }),
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name)) {
        let child = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        violations.push(violation(&child, "is missing, and has no default"));
    }
    limit(schema, "maxProperties", fields.len(), "entries", path, violations);
    if let Some(least) =
        schema.get("minProperties").and_then(Value::as_u64).filter(|least| (fields.len() as u64) < *least)
    {
        violations
            .push(violation(path, format!("has {} entries; at least {least} are needed", fields.len())));
    }
}

fn walk_array(schema: &Value, items: &[Value], path: &str, violations: &mut Vec<Violation>) {
    limit(schema, "maxItems", items.len(), "entries", path, violations);
    if let Some(least) =
        schema.get("minItems").and_then(Value::as_u64).filter(|least| (items.len() as u64) < *least)
    {
        violations.push(violation(path, format!("has {} entries; at least {least} are needed", items.len())));
    }
    if let Some(schema) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            walk(schema, item, &format!("{path}[{index}]"), violations);
        }
    }
    for (index, item) in items.iter().enumerate() {
        if let Some(key) = duplicate_key(schema, &items[..index], item) {
            violations.push(violation(
                &format!("{path}[{index}]"),
                format!("repeats {key}; each entry of this list is named once"),
            ));
        }
    }
}

/// The key of `item` that an earlier entry of a list-map or set already has.
fn duplicate_key(schema: &Value, earlier: &[Value], item: &Value) -> Option<String> {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str)? {
        "set" => earlier.contains(item).then(|| item.to_string()),
        "map" => {
            let keys: Vec<&str> = schema
                .get("x-kubernetes-list-map-keys")?
                .as_array()?
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let repeated = earlier.iter().any(|other| keys.iter().all(|key| other.get(key) == item.get(key)));
            repeated.then(|| {
                let named: Vec<_> = keys
                    .iter()
                    .map(|key| format!("{key} {}", item.get(key).cloned().unwrap_or_default()))
                    .collect();
                named.join(", ")
            })
        }
        _ => None,
    }
}

fn check_string(schema: &Value, text: &str, path: &str, violations: &mut Vec<Violation>) {
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.iter().any(|choice| choice.as_str() == Some(text))
    {
        let names: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
        let near = nearest(text, names.iter().copied())
            .map_or(String::new(), |near| format!("; did you mean {near}?"));
        violations.push(violation(path, format!("`{text}` is not one of {}{near}", names.join(", "))));
        return;
    }
    limit(schema, "maxLength", text.chars().count(), "characters", path, violations);
    if schema
        .get("minLength")
        .and_then(Value::as_u64)
        .is_some_and(|least| (text.chars().count() as u64) < least)
    {
        violations.push(violation(path, format!("`{text}` is too short")));
        return;
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        let regex = regex::Regex::new(pattern).expect("a test compiles every pattern of every kind");
        if !regex.is_match(text) {
            violations.push(violation(
                path,
                format!("`{text}` does not have the right form; {}", form_of(pattern)),
            ));
        }
    }
}

fn form_of(pattern: &str) -> String {
    match pattern {
        crate::parts::BYTES_PATTERN => "write a size such as 500Mi or 100Gi".to_owned(),
        crate::parts::CPU_PATTERN => "write cores such as 2 or 500m".to_owned(),
        crate::parts::URL_PATTERN => "write an address such as http://host:8000".to_owned(),
        crate::parts::LABEL_PATTERN => "use lower-case letters, digits and '-'".to_owned(),
        other => format!("it must match {other}"),
    }
}

fn check_number(schema: &Value, number: &serde_json::Number, path: &str, violations: &mut Vec<Violation>) {
    let value = number.as_f64().unwrap_or(f64::NAN);
    let least = schema.get("minimum").and_then(Value::as_f64);
    let most = schema.get("maximum").and_then(Value::as_f64);
    if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
        let range = match (least, most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("{least} or more"),
            (_, most) => format!("{} or less", most.unwrap_or_default()),
        };
        violations.push(violation(path, format!("{number} is out of range; allowed is {range}")));
    }
}

fn limit(
    schema: &Value,
    keyword: &str,
    found: usize,
    unit: &str,
    path: &str,
    violations: &mut Vec<Violation>,
) {
    if let Some(most) = schema.get(keyword).and_then(Value::as_u64).filter(|most| found as u64 > *most) {
        violations.push(violation(path, format!("has {found} {unit}; at most {most} are allowed")));
    }
}

fn unknown_field(key: &str, properties: &Map<String, Value>) -> String {
    if let Some(near) = nearest(key, properties.keys().map(String::as_str)) {
        return format!("is not a field; did you mean {near}?");
    }
    let names: Vec<&str> = properties.keys().map(String::as_str).collect();
    format!("is not a field; the fields here are {}", names.join(", "))
}

/// The candidate that is a slip of the finger away from `word`, if one is.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let budget = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (edit_distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= budget)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements between two words (Wagner and Fischer's table, one row at a time).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
