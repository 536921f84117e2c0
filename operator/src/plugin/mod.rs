//! `kubectl aistack`, and `aistack -k`: what a person asks of stacks on a cluster that `kubectl get` does not answer.
//!
//! It reads objects, and changes them as a person with kubectl would: their spec and their annotations. Nothing goes past the
//! operator.

mod act;
mod doctor;
mod logs;
mod restore;
mod tree;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};

use aistack_crds::Kind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt as _};
use serde_json::Value;

use crate::aistack::{HUB, VECTOR_NAME};
use crate::inference_service::PRELOAD;
use crate::kernel::apply::said;
use crate::kernel::reconcile::PAUSED;

/// Stacks on a cluster: one look, and the few things to do by hand.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl aistack",
    version,
    after_help = "Examples:\n  kubectl aistack status                       every stack of the namespace, with its parts and pods\n  \
        kubectl aistack logs chat -f                 what its pods print\n  \
        kubectl aistack promote chat                 the canary becomes the version\n  \
        kubectl aistack doctor                       what is wrong, and what to do\n\n\
        The same without kubectl: aistack -k status. Put `aistack` on the PATH as `kubectl-aistack` (a link will do)."
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) on: On,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where.
#[derive(Clone, Debug, Args)]
pub(crate) struct On {
    /// Namespace; left out, the context's.
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig; left out, the current one.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Output {
    /// Prints for programs, if that is how to print.
    fn prints(self, what: &impl serde::Serialize) -> Result<bool, PluginError> {
        match self {
            Self::Table => return Ok(false),
            Self::Json => say(serde_json::to_string_pretty(what).unwrap_or_default())?,
            Self::Yaml => say(serde_yaml_ng::to_string(what).unwrap_or_default().trim_end())?,
        }
        Ok(true)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show stacks with their parts and pods
    #[command(
        after_help = "Examples:\n  kubectl aistack status\n  kubectl aistack status production -o json\n\nExit code 4 when something is not Ready."
    )]
    Status {
        /// A stack or another object of ours; left out, all.
        name: Option<String>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print what the pods of an object print
    #[command(
        after_help = "Examples:\n  kubectl aistack logs production --tail 20\n  kubectl aistack logs isvc/chat -f"
    )]
    Logs {
        /// A stack or another object of ours, as NAME or KIND/NAME.
        name: String,
        /// Go on as they print.
        #[arg(short, long)]
        follow: bool,
        /// Lines of each pod to begin with.
        #[arg(long, value_name = "N", default_value_t = 100)]
        tail: i64,
    },
    /// Make the canary of an InferenceService its version
    #[command(after_help = "Example:\n  kubectl aistack promote chat")]
    Promote {
        /// The InferenceService.
        name: String,
    },
    /// Take the canary of an InferenceService back
    #[command(after_help = "Example:\n  kubectl aistack rollback chat")]
    Rollback {
        /// The InferenceService.
        name: String,
    },
    /// Take a backup of a KVCluster now
    #[command(after_help = "Example:\n  kubectl aistack backup tinykv")]
    Backup {
        /// The KVCluster.
        name: String,
    },
    /// Restore the newest backup of a KVCluster now, into a pod that goes again, and see whether it is sound
    #[command(after_help = "Example:\n  kubectl aistack drill tinykv")]
    Drill {
        /// The KVCluster.
        name: String,
    },
    /// Make a new KVCluster that begins with a backup
    #[command(
        after_help = "Example:\n  kubectl aistack restore tinykv-restored --like tinykv --from s3://bucket/path/NAME.db --secret storage-keys"
    )]
    Restore(restore::Restore),
    /// Leave an object alone until it is resumed: the operator changes nothing of it
    #[command(after_help = "Example:\n  kubectl aistack pause stack/production")]
    Pause {
        /// An object of ours, as NAME or KIND/NAME.
        name: String,
    },
    /// Take a pause back
    #[command(after_help = "Example:\n  kubectl aistack resume stack/production")]
    Resume {
        /// An object of ours, as NAME or KIND/NAME.
        name: String,
    },
    /// Say what is wrong in a namespace, and what to do
    #[command(
        after_help = "Examples:\n  kubectl aistack doctor\n  kubectl aistack doctor -n team -o json\n\nExit code 1 when something is wrong."
    )]
    Doctor {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PluginError {
    /// Exit code.
    pub code: u8,
    /// What is wrong; further lines say why and what to do. Empty when all was said.
    pub message: String,
}

impl PluginError {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    pub(crate) fn asked(what: &str, error: &kube::Error) -> Self {
        Self::failed(format!("{what}: {}", said(error)))
    }
}

/// Prints a line. Whoever reads may have seen enough (`| head`): the command ends then, as one that the signal ended.
pub(crate) fn say(line: impl std::fmt::Display) -> Result<(), PluginError> {
    const BROKEN_PIPE: u8 = 128 + 13;
    match writeln!(std::io::stdout().lock(), "{line}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            Err(PluginError { code: BROKEN_PIPE, message: String::new() })
        }
        Err(error) => Err(PluginError::failed(format!("standard output: {error}"))),
    }
}

/// A cluster and the namespace that is meant.
pub(crate) struct Place {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Place {
    async fn of(on: &On) -> Result<Self, PluginError> {
        let options = KubeConfigOptions { context: on.context.clone(), ..KubeConfigOptions::default() };
        let config = match Kubeconfig::read() {
            Ok(file) => {
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| error.to_string())
            }
            Err(error) if on.context.is_some() => Err(error.to_string()),
            Err(_) => Config::infer().await.map_err(|error| error.to_string()),
        };
        let config = config.map_err(|why| {
            PluginError::refused(format!("no cluster is named: {why}\n  set KUBECONFIG, or give --context"))
        })?;
        let namespace = on.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| PluginError::asked("connect", &error))?;
        Ok(Self { client, namespace })
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    /// All objects of ours, by kind.
    pub(crate) async fn all(&self) -> Result<Vec<(Kind, Value)>, PluginError> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            all.extend(self.list(kind).await.map_err(|error| self.not_listed(kind, &error))?);
        }
        Ok(all)
    }

    /// Those of them that one may see.
    pub(crate) async fn seen(&self) -> Result<Vec<(Kind, Value)>, PluginError> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            match self.list(kind).await {
                Ok(listed) => all.extend(listed),
                Err(kube::Error::Api(status)) if status.code == 403 => {}
                Err(error) => return Err(self.not_listed(kind, &error)),
            }
        }
        Ok(all)
    }

    /// Whether there is no such namespace. Not everybody may look.
    pub(crate) async fn is_missing(&self) -> bool {
        let api: Api<Namespace> = Api::all(self.client.clone());
        matches!(api.get_opt(&self.namespace).await, Ok(None))
    }

    async fn list(&self, kind: Kind) -> Result<impl Iterator<Item = (Kind, Value)>, kube::Error> {
        let listed = self.of_kind(kind).list(&ListParams::default()).await?;
        Ok(listed.items.into_iter().map(move |object| (kind, plain(object))))
    }

    fn not_listed(&self, kind: Kind, error: &kube::Error) -> PluginError {
        if matches!(error, kube::Error::Api(status) if status.code == 404) {
            let message = format!(
                "the cluster does not know {}\n  install the kinds: helm install aistack-crds charts/aistack-crds",
                kind.name()
            );
            return PluginError::failed(message);
        }
        PluginError::asked(&format!("list {} in {}", kind.name(), self.namespace), error)
    }

    /// The one object that `NAME` or `KIND/NAME` means.
    pub(crate) async fn find(&self, given: &str) -> Result<(Kind, Value), PluginError> {
        let (kind, name) = match given.split_once('/') {
            Some((kind, name)) => (Some(named(kind)?), name),
            None => (None, given),
        };
        // Whoever may see one kind alone finds what is of that.
        let (mut all, mut unseen) = (Vec::new(), None);
        for kind in Kind::ALL.into_iter().filter(|one| kind.is_none_or(|kind| *one == kind)) {
            match self.list(kind).await {
                Ok(listed) => all.extend(listed),
                Err(error) => unseen = unseen.or_else(|| Some(self.not_listed(kind, &error))),
            }
        }
        let is_it = |found: &&(Kind, Value)| found.1["metadata"]["name"] == name;
        let mut found = all.iter().filter(is_it);
        let (first, second) = (found.next(), found.next());
        match (first, second) {
            (Some(one), None) => Ok(one.clone()),
            (Some(one), Some(other)) => {
                let (one, other) = (short(one.0), short(other.0));
                Err(PluginError::refused(format!(
                    "{name} is a {one} and a {other}: say {one}/{name} or {other}/{name}"
                )))
            }
            (None, _) => {
                if let Some(error) = unseen {
                    return Err(error);
                }
                let names: Vec<String> = all
                    .iter()
                    .map(|(kind, object)| {
                        format!(
                            "{}/{}",
                            short(*kind),
                            object["metadata"]["name"].as_str().unwrap_or_default()
                        )
                    })
                    .collect();
                let there = if names.is_empty() {
                    "there are none".to_owned()
                } else {
                    format!("there are {}", names.join(", "))
                };
                Err(PluginError::refused(format!("{given} is not in namespace {}; {there}", self.namespace)))
            }
        }
    }
}

fn plain(mut object: DynamicObject) -> Value {
    object.managed_fields_mut().clear();
    serde_json::to_value(object).unwrap_or_default()
}

/// Short name of a kind, as kubectl knows it.
pub(crate) fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::AIStack => "stack",
        Kind::KVCluster => "kv",
        Kind::InferenceService => "isvc",
        Kind::VectorCollection => "vc",
        Kind::World => "world",
        Kind::TaskSet => "tasks",
        Kind::EnvPool => "envs",
    }
}

fn named(given: &str) -> Result<Kind, PluginError> {
    let lower = given.to_lowercase();
    let is_it = |kind: &Kind| {
        let name = kind.name().to_lowercase();
        lower == short(*kind) || lower == name || lower == format!("{name}s")
    };
    Kind::ALL.into_iter().find(is_it).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.into_iter().map(short).collect();
        PluginError::refused(format!("{given} is no kind of ours; there are {}", known.join(", ")))
    })
}

/// A condition's status, reason and message.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    Some((text("status"), text("reason"), text("message")))
}

/// Whether somebody asked the operator to leave it alone.
pub(crate) fn is_paused(object: &Value) -> bool {
    object.pointer("/metadata/annotations").is_some_and(|set| set[PAUSED] == "true")
}

/// The generation of its spec, and that which its status is of, where an operator has not looked at the newest one.
pub(crate) fn behind(object: &Value) -> Option<(i64, i64)> {
    let generation = object["metadata"]["generation"].as_i64()?;
    let observed = object.pointer("/status/observedGeneration")?.as_i64().filter(|it| *it >= 0)?;
    (observed < generation).then_some((generation, observed))
}

/// Since when it is being deleted.
pub(crate) fn leaving(object: &Value) -> Option<&str> {
    object["metadata"]["deletionTimestamp"].as_str()
}

/// Labels that select the pods of an object itself: of a stack, the servers that have no kind; its parts have selectors of their own.
pub(crate) fn pods_of(kind: Kind, object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match kind {
        Kind::AIStack => {
            let own = format!("in ({HUB},{VECTOR_NAME})");
            format!("app.kubernetes.io/name {own},app.kubernetes.io/instance {own}")
        }
        Kind::InferenceService => with_preloads(&own(object, name)),
        _ => own(object, name),
    }
}

fn own(object: &Value, name: &str) -> String {
    let selector = object.pointer("/status/selector").and_then(Value::as_str);
    selector.map_or_else(|| format!("app.kubernetes.io/instance={name}"), str::to_owned)
}

/// The same, and those that only bring the weights to their nodes: no Service and no autoscaler counts them.
fn with_preloads(selector: &str) -> String {
    const NAME: &str = "app.kubernetes.io/name=";
    let Some((before, rest)) = selector.split_once(NAME) else { return selector.to_owned() };
    let (engine, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
    format!("{before}app.kubernetes.io/name in ({engine},{PRELOAD}){after}")
}

/// Runs a command.
pub async fn run(cli: Cli) -> Result<(), PluginError> {
    let place = Place::of(&cli.on).await?;
    match cli.command {
        Command::Status { name, output } => tree::run(&place, name.as_deref(), output).await,
        Command::Logs { name, follow, tail } => logs::run(&place, &name, follow, tail).await,
        Command::Promote { name } => act::promote(&place, &name).await,
        Command::Rollback { name } => act::rollback(&place, &name).await,
        Command::Backup { name } => act::backup(&place, &name).await,
        Command::Drill { name } => act::drill(&place, &name).await,
        Command::Restore(asked) => restore::run(&place, &asked).await,
        Command::Pause { name } => act::pause(&place, &name, true).await,
        Command::Resume { name } => act::pause(&place, &name, false).await,
        Command::Doctor { output } => doctor::run(&place, output).await,
    }
}

/// Counts by name, in words.
pub(crate) fn counted(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_command_explains_itself() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("kubectl aistack {}", sub.get_name())), "{}", sub.get_name());
        }
    }

    #[test]
    fn pods_of_a_service_are_its_engines_and_its_preloads() {
        let table = [
            (json!({}), "app.kubernetes.io/instance=chat"),
            (
                json!({"status": {"selector": "app.kubernetes.io/instance=chat,app.kubernetes.io/name=vllm"}}),
                "app.kubernetes.io/instance=chat,app.kubernetes.io/name in (vllm,preload)",
            ),
            (
                json!({"status": {"selector": "app.kubernetes.io/name=vllm,app.kubernetes.io/instance in (a-v1,a-v2)"}}),
                "app.kubernetes.io/name in (vllm,preload),app.kubernetes.io/instance in (a-v1,a-v2)",
            ),
        ];
        for (mut object, selector) in table {
            object["metadata"] = json!({"name": "chat"});
            assert_eq!(pods_of(Kind::InferenceService, &object), selector);
        }
    }

    #[test]
    fn kinds_are_known_by_all_their_names() {
        for (given, kind) in
            [("isvc", Kind::InferenceService), ("KVCluster", Kind::KVCluster), ("aistacks", Kind::AIStack)]
        {
            assert_eq!(named(given).expect(given), kind);
        }
        assert!(named("pod").is_err());
    }
}
