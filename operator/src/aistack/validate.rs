//! From what an API server accepts to what `build` cannot fail on: each part is absent, ours, or somebody else's.

use aistack_crds::aistack::{
    EmbeddingSpec, InferenceSpec, InferenceType, ModelHubSpec, Retention, TinyInferSpec, VectorForgeSpec,
    VectorStoreSpec,
};
use aistack_crds::inference_service::{ModelSpec, Rollout, Runtime, Task};
use aistack_crds::parts::{GpuSpec, ImageSpec, ResourceSpec};
use aistack_crds::{AIStack, InferenceService, InferenceServiceSpec, KVCluster};
use kube::Resource;

use super::modelhub::{self, HubShape};
use super::{CHAT_NAME, EMBED_NAME, HUB, KV_NAME, VECTOR_NAME};
use crate::gap::Gap;
use crate::inference_service::{self, ValidatedInferenceService};
use crate::kv_cluster::{self, ValidatedKvCluster};
use crate::meta::{Image, MANAGER, Owner};
use crate::object;
use crate::problem::Problem;
use crate::vector_collection::{self, GRPC_PORT, ServerShape};
use crate::workload::{Claim, StorageClass};

/// An AIStack that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedStack {
    pub(super) name: String,
    pub(super) kv: Kv,
    pub(super) vector: Vector,
    pub(super) services: Vec<Service>,
    pub(super) hub: Hub,
    gaps: Vec<Gap>,
}

/// The key-value store.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kv {
    Absent,
    Own(Box<(KVCluster, ValidatedKvCluster)>),
    External(aistack_crds::aistack::KvStoreSpec),
}

/// The vector database.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Vector {
    Absent,
    Own(Box<(ServerShape, Claim)>),
    /// URL of its gRPC port, and the spec that it came from.
    External(String, VectorStoreSpec),
}

/// An InferenceService of the stack.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    pub(super) object: InferenceService,
    pub(super) validated: ValidatedInferenceService,
}

/// The hub.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Hub {
    Absent,
    Present(Box<HubShape>),
}

impl ValidatedStack {
    /// What this version cannot do of it.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Name of the stack.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Checks an AIStack that passed its schema.
pub fn validate(stack: &AIStack) -> Result<ValidatedStack, Vec<Problem>> {
    let title = format!("AIStack {}", object::name(stack));
    let mut reading = Reading { stack, problems: Vec::new(), gaps: Vec::new() };
    let kv = reading.kv();
    let vector = reading.vector();
    let services = reading.services();
    let hub = reading.hub();
    reading.absent_components();
    let Reading { problems, gaps, .. } = reading;
    if !problems.is_empty() {
        return Err(problems.into_iter().map(|problem| problem.of(&title)).collect());
    }
    let gaps = gaps.into_iter().map(|gap| gap.of(&title)).collect();
    Ok(ValidatedStack { name: object::name(stack), kv, vector, services, hub, gaps })
}

/// A stack while it is read, and everything found so far.
struct Reading<'a> {
    stack: &'a AIStack,
    problems: Vec<Problem>,
    gaps: Vec<Gap>,
}

impl Reading<'_> {
    fn name(&self) -> String {
        object::name(self.stack)
    }

    fn owner(&self, component: &str) -> Owner {
        Owner {
            component: component.to_owned(),
            instance: component.to_owned(),
            part_of: self.name(),
            namespace: self.stack.metadata.namespace.clone().unwrap_or_default(),
        }
    }

    /// Gives a child the stack's namespace, labels and retention.
    fn adopt<K: Resource>(&self, child: &mut K) {
        let retention = self.stack.spec.retention;
        let meta = child.meta_mut();
        meta.namespace.clone_from(&self.stack.metadata.namespace);
        let labels = meta.labels.get_or_insert_default();
        labels.insert(object::PART_OF.to_owned(), object::name(self.stack));
        labels.insert("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
        if retention == Retention::Delete {
            meta.annotations
                .get_or_insert_default()
                .insert(object::RETENTION.to_owned(), "Delete".to_owned());
        }
    }

    fn claim(
        &mut self,
        path: &str,
        storage: &str,
        class: Option<&String>,
        attributes: Option<&String>,
    ) -> Option<Claim> {
        let size = object::size(path, storage, &mut self.problems)?;
        let deleted_with_owner = self.stack.spec.retention == Retention::Delete;
        let (class, attributes) = (StorageClass::of(class), attributes.cloned());
        Some(Claim { size, class, attributes, deleted_with_owner })
    }

    fn kv(&mut self) -> Kv {
        let spec = &self.stack.spec;
        if let Some(external) = &spec.kv_store {
            return Kv::External(external.clone());
        }
        let Some(own) = &spec.tinykv else { return Kv::Absent };
        let mut child = KVCluster::new(KV_NAME, own.clone());
        child.spec.image = merged(&own.image, &spec.image);
        self.adopt(&mut child);
        match kv_cluster::validate(&child, &self.name()) {
            Ok(validated) => {
                self.gaps
                    .extend(validated.gaps().iter().map(|gap| gap.clone().under("", "spec", "spec.tinykv")));
                Kv::Own(Box::new((child, validated)))
            }
            Err(problems) => {
                self.problems.extend(problems.into_iter().map(|problem| moved(problem, "spec.tinykv")));
                Kv::Absent
            }
        }
    }

    fn vector(&mut self) -> Vector {
        let spec = &self.stack.spec;
        if let Some(external) = &spec.vector_store {
            let endpoint =
                external.grpc_endpoint.clone().unwrap_or_else(|| with_port(&external.endpoint, GRPC_PORT));
            return Vector::External(endpoint, external.clone());
        }
        let Some(own) = &spec.vectorforge else { return Vector::Absent };
        if own.replicas > 1 {
            self.gaps.push(Gap::everywhere(
                "spec.vectorforge.replicas",
                format!(
                    "servers of this version do not share collections, so one runs, not {}",
                    own.replicas
                ),
                "use replicas: 1",
            ));
        }
        let attributes = own.volume_attributes_class_name.as_ref();
        let Some(claim) =
            self.claim("spec.vectorforge.storage", &own.storage, own.storage_class_name.as_ref(), attributes)
        else {
            return Vector::Absent;
        };
        Vector::Own(Box::new((self.vector_shape(own), claim)))
    }

    fn vector_shape(&self, own: &VectorForgeSpec) -> ServerShape {
        ServerShape {
            name: VECTOR_NAME.to_owned(),
            owner: self.owner(vector_collection::COMPONENT),
            image: Image::of(vector_collection::COMPONENT, &self.stack.spec.image),
            resources: own.resources.clone(),
            pod: own.pod.clone(),
        }
    }

    fn services(&mut self) -> Vec<Service> {
        let spec = &self.stack.spec;
        let mut children = Vec::new();
        if let Some(own) = &spec.tinyinfer {
            children.push((CHAT_NAME, chat_of_tinyinfer(own), "spec.tinyinfer"));
            if let Some(embedding) = &own.embedding {
                children.push((EMBED_NAME, embed(embedding), "spec.tinyinfer.embedding"));
            }
        }
        if let Some(other) = &spec.inference {
            children.push((CHAT_NAME, chat_of_inference(other), "spec.inference"));
            if let Some(embedding) = &other.embedding {
                children.push((EMBED_NAME, embed(embedding), "spec.inference.embedding"));
            }
        }
        let has_hub = spec.modelhub.is_some() || spec.model_hub.is_some();
        if let (true, [(_, _, path)]) = (has_hub, children.as_slice()) {
            self.gaps.push(Gap::doubt(
                &format!("{path}.embedding"),
                "is not given, so RAG has no model to embed with",
                "add embedding: {model: all-minilm-l6-v2}, or use the stack as a gateway only",
            ));
        }
        children.into_iter().filter_map(|(name, child, path)| self.service(name, child, path)).collect()
    }

    fn service(&mut self, name: &str, mut spec: InferenceServiceSpec, path: &str) -> Option<Service> {
        spec.image = self.stack.spec.image.clone();
        let mut object = InferenceService::new(name, spec);
        self.adopt(&mut object);
        match inference_service::validate(&object, &self.name()) {
            Ok(validated) => {
                self.gaps.extend(validated.gaps().iter().map(|gap| short_form(gap.clone(), path)));
                Some(Service { object, validated })
            }
            Err(problems) => {
                self.problems.extend(problems.into_iter().map(|problem| moved(problem, path)));
                None
            }
        }
    }

    fn hub(&mut self) -> Hub {
        let spec = &self.stack.spec;
        let (hub, path) = match (&spec.modelhub, &spec.model_hub) {
            (Some(hub), _) => (hub, "spec.modelhub"),
            (None, Some(hub)) => (hub, "spec.modelHub"),
            (None, None) => return Hub::Absent,
        };
        self.hub_gaps(hub, path);
        let attributes = hub.volume_attributes_class_name.as_ref();
        let Some(claim) =
            self.claim(&format!("{path}.storage"), &hub.storage, hub.storage_class_name.as_ref(), attributes)
        else {
            return Hub::Absent;
        };
        let image = Image::of(HUB, &spec.image);
        Hub::Present(Box::new(modelhub::shape(hub, self.owner(HUB), image, claim)))
    }

    fn hub_gaps(&mut self, hub: &ModelHubSpec, path: &str) {
        if hub.replicas > 1 && hub.artefacts.is_none() {
            self.gaps.push(Gap::everywhere(
                &format!("{path}.replicas"),
                format!("each of {} servers would keep model artefacts on a volume of its own", hub.replicas),
                "give artefacts: s3://bucket/path so that they share them, or use replicas: 1",
            ));
        }
        if hub.artefacts_secret_name.is_some() {
            self.gaps.push(Gap::local(
                &format!("{path}.artefactsSecretName"),
                "aistack up has no Secret of that name",
                "remove artefactsSecretName; the hub takes these variables from the environment of aistack up",
            ));
        }
        if hub.secret_ref.is_some() {
            self.gaps.push(Gap::local(
                &format!("{path}.secretRef"),
                "aistack up has no Secret of that name",
                "remove secretRef and write requireKeys: true; a key is generated under the stack's state",
            ));
        }
    }

    /// Components of later versions.
    fn absent_components(&mut self) {
        let spec = &self.stack.spec;
        let later = [
            (spec.minidb.is_some(), "spec.minidb", "MiniDB"),
            (spec.sql.is_some(), "spec.sql", "what uses a SQL database"),
            (spec.envruntime.is_some(), "spec.envruntime", "EnvRuntime"),
            (spec.env_runtime.is_some(), "spec.envRuntime", "EnvRuntime"),
        ];
        for (asked, path, component) in later {
            if asked {
                self.gaps.push(Gap::everywhere(
                    path,
                    format!("{component} is not part of this version, so nothing is started for it"),
                    "remove it until then",
                ));
            }
        }
    }
}

/// A child's own image settings win over the stack's.
fn merged(child: &ImageSpec, stack: &ImageSpec) -> ImageSpec {
    ImageSpec {
        repository: child.repository.clone().or_else(|| stack.repository.clone()),
        tag: child.tag.clone().or_else(|| stack.tag.clone()),
        pull_policy: if *child == ImageSpec::default() { stack.pull_policy } else { child.pull_policy },
        pull_secrets: if child.pull_secrets.is_empty() { &stack.pull_secrets } else { &child.pull_secrets }
            .clone(),
    }
}

fn moved(mut problem: Problem, path: &str) -> Problem {
    if let Some(rest) = problem.path.strip_prefix("spec") {
        problem.path = format!("{path}{rest}");
    }
    problem
}

/// A stack writes a child's `spec.model.name` as `model`; the rest keeps its name.
fn short_form(mut gap: Gap, path: &str) -> Gap {
    let rest = gap.path.trim_start_matches("spec");
    gap.path = match (path, rest) {
        ("spec.inference", ".runtime") => "spec.inference.type".to_owned(),
        (_, ".model.uri") => format!("{path}.uri"),
        (_, ".model.sha256") => format!("{path}.sha256"),
        _ => format!("{path}{rest}"),
    };
    gap
}

fn service_spec(model: &str, task: Task, runtime: Runtime) -> InferenceServiceSpec {
    InferenceServiceSpec {
        model: ModelSpec {
            name: model.to_owned(),
            version: None,
            uri: None,
            sha256: None,
            secret_name: None,
        },
        stack_ref: None,
        model_cache: None,
        task,
        runtime,
        pooling: None,
        endpoint: None,
        secret_ref: None,
        tls: None,
        replicas: None,
        scaling: None,
        resources: ResourceSpec::default(),
        gpu: None,
        traffic: Vec::new(),
        canary: None,
        rollout: Rollout::default(),
        adapters: Vec::new(),
        quantization: None,
        speculative: None,
        context_length: None,
        image: ImageSpec::default(),
        pod: aistack_crds::parts::PodOverrides::default(),
    }
}

fn chat_of_tinyinfer(own: &TinyInferSpec) -> InferenceServiceSpec {
    let mut spec = service_spec(&own.model, Task::Chat, Runtime::Tinyinfer);
    spec.model.uri.clone_from(&own.uri);
    spec.model.sha256.clone_from(&own.sha256);
    spec.replicas = own.replicas;
    spec.scaling.clone_from(&own.scaling);
    spec.gpu = own.gpu.as_ref().map(|product| GpuSpec {
        product: Some(product.clone()),
        count: own.gpu_count.unwrap_or(1),
        ..GpuSpec::default()
    });
    spec.rollout = own.rollout;
    spec.quantization = own.quantization;
    spec.context_length = own.context_length;
    spec.resources = own.resources.clone();
    spec.pod = own.pod.clone();
    spec
}

fn chat_of_inference(other: &InferenceSpec) -> InferenceServiceSpec {
    let runtime = match (other.kind, &other.endpoint) {
        (InferenceType::Vllm, None) => Runtime::Vllm,
        (InferenceType::Vllm | InferenceType::External, _) => Runtime::External,
    };
    let mut spec = service_spec(&other.model, Task::Chat, runtime);
    spec.endpoint.clone_from(&other.endpoint);
    spec.secret_ref.clone_from(&other.secret_ref);
    spec.tls.clone_from(&other.tls);
    spec.replicas = other.replicas;
    spec.rollout = other.rollout;
    spec.gpu =
        other.gpu.as_ref().map(|product| GpuSpec { product: Some(product.clone()), ..GpuSpec::default() });
    spec
}

fn embed(embedding: &EmbeddingSpec) -> InferenceServiceSpec {
    let mut spec = service_spec(&embedding.model, Task::Embed, Runtime::Tinyinfer);
    spec.model.uri.clone_from(&embedding.uri);
    spec.model.sha256.clone_from(&embedding.sha256);
    spec.replicas = Some(embedding.replicas);
    spec.resources = embedding.resources.clone();
    spec
}

/// The same scheme and host at another port, without a path.
fn with_port(url: &str, port: u16) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    format!("{scheme}://{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn the_grpc_port_of_a_rest_address() {
        let table = [
            ("http://qdrant:6333", "http://qdrant:6334"),
            ("https://q.example.com", "https://q.example.com:6334"),
            ("http://q:6333/base", "http://q:6334"),
            ("http://[::1]:6333", "http://[::1]:6334"),
        ];
        for (rest, grpc) in table {
            assert_eq!(with_port(rest, 6334), grpc);
        }
    }
}
