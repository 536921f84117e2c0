//! A YAML file becomes typed objects: syntax, structure, defaults and CEL rules, all problems at once.

use aistack_crds::{
    AIStack, API_VERSION, EnvPool, GROUP, InferenceService, KVCluster, Kind, TaskSet, VectorCollection,
    World, check,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::problem::{Problem, Refused};

/// An object that an API server would accept.
#[derive(Clone, Debug)]
pub enum Object {
    /// A whole platform.
    AIStack(Box<AIStack>),
    /// One model.
    InferenceService(Box<InferenceService>),
    /// Vectors.
    VectorCollection(Box<VectorCollection>),
    /// A key-value store.
    KVCluster(Box<KVCluster>),
    /// A generated world.
    World(Box<World>),
    /// Tasks in a world.
    TaskSet(Box<TaskSet>),
    /// Environments.
    EnvPool(Box<EnvPool>),
}

impl Object {
    fn from_checked(kind: Kind, value: Value) -> Result<Self, serde_json::Error> {
        fn read<T: DeserializeOwned>(value: Value) -> Result<Box<T>, serde_json::Error> {
            serde_json::from_value(value).map(Box::new)
        }
        Ok(match kind {
            Kind::AIStack => Self::AIStack(read(value)?),
            Kind::InferenceService => Self::InferenceService(read(value)?),
            Kind::VectorCollection => Self::VectorCollection(read(value)?),
            Kind::KVCluster => Self::KVCluster(read(value)?),
            Kind::World => Self::World(read(value)?),
            Kind::TaskSet => Self::TaskSet(read(value)?),
            Kind::EnvPool => Self::EnvPool(read(value)?),
        })
    }
}

/// Reads every object of a YAML text. `file` is used in messages only.
pub fn parse(file: &str, text: &str) -> Result<Vec<Object>, Refused> {
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        match serde_yaml_ng::Value::deserialize(document) {
            Ok(serde_yaml_ng::Value::Null) => {}
            Ok(yaml) => match parse_one(yaml) {
                Ok(object) => objects.push(object),
                Err(mut found) => problems.append(&mut found),
            },
            Err(error) => {
                let text = error.to_string();
                let problem = if text.contains("as u128") || text.contains("as i128") {
                    let field = text.split(": invalid type").next().unwrap_or_default();
                    Problem::new(field, "is too large a number", "numbers have up to 64 bits")
                } else {
                    Problem::new("", format!("is not YAML: {text}"), "")
                };
                problems.push(problem);
                // The rest of the text cannot be found again after a syntax error.
                break;
            }
        }
    }
    if objects.is_empty() && problems.is_empty() {
        let fix = "write apiVersion: platform.dev/v1 and kind: AIStack, or start from examples/quickstart/stack.yaml";
        problems.push(Problem::new("", "holds no object", fix));
    }
    if problems.is_empty() { Ok(objects) } else { Err(Refused { file: file.to_owned(), problems }) }
}

fn parse_one(yaml: serde_yaml_ng::Value) -> Result<Object, Vec<Problem>> {
    let value = to_json(yaml).map_err(|problem| vec![problem])?;
    if !value.is_object() {
        let found = if value.is_array() { "a list" } else { "a single value" };
        let fix = "a manifest begins with  apiVersion: platform.dev/v1  and  kind: AIStack; several are parted by ---";
        return Err(vec![Problem::new("", format!("holds {found} where an object is wanted"), fix)]);
    }
    let kind = kind_of(&value).map_err(|problem| vec![problem])?;
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
    let title = format!("{kind} {name}");
    let checked = check::check(&kind.crd(), &value).map_err(|violations| {
        violations.into_iter().map(|violation| Problem::from_violation(&title, violation)).collect::<Vec<_>>()
    })?;
    Object::from_checked(kind, checked)
        .map_err(|error| vec![Problem::new("", format!("cannot be read: {error}"), "").of(title)])
}

fn kind_of(value: &Value) -> Result<Kind, Problem> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() {
        return Err(Problem::new(
            "kind",
            "is missing",
            "the kinds are AIStack, InferenceService, VectorCollection, KVCluster, World, TaskSet, EnvPool",
        ));
    }
    let names = Kind::ALL.map(Kind::name);
    let Some(found) = Kind::from_name(kind) else {
        let fix = match check::nearest(kind, names.into_iter()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("the kinds of {API_VERSION} are {}", names.join(", ")),
        };
        return Err(Problem::new("kind", format!("{kind} is not a kind of ours"), fix));
    };
    if api_version != API_VERSION {
        let what = if api_version.is_empty() {
            "is missing".to_owned()
        } else {
            format!("{api_version} is not served")
        };
        return Err(Problem::new(
            "apiVersion",
            what,
            format!("write apiVersion: {API_VERSION} (group {GROUP})"),
        ));
    }
    Ok(found)
}

/// YAML to JSON as kubectl does it: keys that are numbers or booleans become text.
fn to_json(yaml: serde_yaml_ng::Value) -> Result<Value, Problem> {
    use serde_yaml_ng::Value as Yaml;
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => Value::Bool(flag),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => serde_json::to_value(number)
            .map_err(|error| Problem::new("", format!("holds a number that JSON cannot: {error}"), ""))?,
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Mapping(fields) => {
            let mut object = Map::new();
            for (key, value) in fields {
                let key = match key {
                    Yaml::String(text) => text,
                    Yaml::Number(number) => number.to_string(),
                    Yaml::Bool(flag) => flag.to_string(),
                    other => {
                        return Err(Problem::new(
                            "",
                            format!("has a key that is no text: {other:?}"),
                            "quote it",
                        ));
                    }
                };
                object.insert(key, to_json(value)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            return Err(Problem::new("", format!("uses the YAML tag {}", tagged.tag), "remove it"));
        }
    })
}
