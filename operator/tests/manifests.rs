//! The manifests of the examples, as they are; and what every pod must have whatever it runs.

use aistack_operator::{Compiled, Manifest, Outlet, compile};
use k8s_openapi::api::core::v1::PodTemplateSpec;

fn example(name: &str) -> Compiled {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    let text = std::fs::read_to_string(&path).expect("the example exists");
    compile(name, &text).expect(name)
}

const OTHERS: &str = "
apiVersion: platform.dev/v1
kind: KVCluster
metadata: {name: store, namespace: data}
spec:
  storage: 20Gi
  storageClassName: fast
  quota: 8Gi
  tls: {secretName: store-tls}
  resources: {cpu: 500m, memory: 1Gi}
  pod: {nodeSelector: {disk: ssd}, priorityClassName: high}
---
apiVersion: platform.dev/v1
kind: VectorCollection
metadata: {name: handbook}
spec:
  dimension: 384
  hnsw: {m: 32, efConstruct: 200, fullScanThreshold: 10000}
  payloadIndexes: [{field: file, type: keyword}, {field: lines, type: integer}]
---
apiVersion: platform.dev/v1
kind: VectorCollection
metadata: {name: shared}
spec: {dimension: 8, distance: Dot, stackRef: {name: quickstart}}
---
apiVersion: platform.dev/v1
kind: InferenceService
metadata: {name: big}
spec:
  model: {name: llama-70b}
  runtime: vllm
  replicas: 2
  gpu: {product: nvidia-h100, count: 4, memory: 80Gi}
  contextLength: 8192
---
apiVersion: platform.dev/v1
kind: InferenceService
metadata: {name: outside}
spec: {model: {name: gpt}, runtime: external, endpoint: 'https://llm.example.com/'}
";

#[test]
fn quickstart() {
    insta::assert_snapshot!(example("quickstart/stack.yaml").manifests.to_yaml());
}

#[test]
fn production() {
    insta::assert_snapshot!(example("production.yaml").manifests.to_yaml());
}

#[test]
fn three_nodes() {
    insta::assert_snapshot!(example("three-nodes.yaml").manifests.to_yaml());
}

#[test]
fn hybrid() {
    insta::assert_snapshot!(example("hybrid.yaml").manifests.to_yaml());
}

#[test]
fn stores_that_run_already_are_reached_over_tls() {
    let text = "{apiVersion: platform.dev/v1, kind: AIStack, metadata: {name: s}, spec: {
        kvStore: {type: etcd, endpoints: ['https://e:2379'], tls: {secretName: etcd-client, clientCertificate: true}},
        vectorStore: {type: qdrant, endpoint: 'https://q:6333', secretRef: {name: qdrant, key: api-key},
                      tls: {secretName: q-ca, serverName: qdrant.internal}},
        inference: {type: external, endpoint: 'https://v:8000', model: m, tls: {secretName: v-ca}},
        modelhub: {replicas: 1}}}";
    let manifests = compile("f.yaml", text).expect("valid").manifests.to_yaml();
    for wanted in [
        "ca_file: /etc/aistack-secrets/kv-ca/ca.crt",
        "cert_file: /etc/aistack-secrets/kv-cert/tls.crt",
        "key_file: /etc/aistack-secrets/kv-key/tls.key",
        "ca_file: /etc/aistack-secrets/vector-ca/ca.crt",
        "server_name: qdrant.internal",
        "ca_file: /etc/aistack-secrets/engine-ca/ca.crt",
        "secretName: etcd-client",
        "secretName: q-ca",
    ] {
        assert!(manifests.contains(wanted), "{wanted} is not in\n{manifests}");
    }
}

#[test]
fn other_kinds() {
    let compiled = compile("others.yaml", OTHERS).expect("valid");
    insta::assert_snapshot!(compiled.manifests.to_yaml());
}

#[test]
fn children_of_a_stack() {
    let compiled = example("production.yaml");
    let children: Vec<String> =
        compiled.children.iter().map(|child| format!("{} {}", child.kind(), child.name())).collect();
    insta::assert_snapshot!(children.join("\n"));
}

#[test]
fn building_twice_gives_the_same_bytes() {
    assert_eq!(
        example("production.yaml").manifests.to_yaml(),
        example("production.yaml").manifests.to_yaml()
    );
}

fn pods(compiled: &Compiled) -> Vec<(&str, &PodTemplateSpec)> {
    compiled
        .manifests
        .iter()
        .filter_map(|manifest| match manifest {
            Manifest::StatefulSet(set) => Some((manifest.name(), &set.spec.template)),
            Manifest::Deployment(deployment) => Some((manifest.name(), &deployment.spec.template)),
            _ => None,
        })
        .collect()
}

/// The name of before would be nobody's at once, and the next one's pods are not there yet.
#[test]
fn another_model_of_a_stack_makes_no_pod_of_its_hub_anew() {
    let hub = |chat: &str, embed: &str| {
        let text = format!(
            "{{apiVersion: platform.dev/v1, kind: AIStack, metadata: {{name: s}}, spec: {{
                tinykv: {{}}, vectorforge: {{}}, tinyinfer: {{model: {chat}, embedding: {{model: {embed}}}}}, modelhub: {{}}}}}}"
        );
        let compiled = compile("f.yaml", &text).expect("valid");
        let hub = pods(&compiled).into_iter().find(|(name, _)| *name == "modelhub");
        hub.expect("a hub").1.clone()
    };
    assert_eq!(hub("a", "e"), hub("b", "f"));
}

/// A template that went by the number of pods would have all of them made anew when it changes: an outage for whoever scales to one.
#[test]
fn no_template_depends_on_how_many_pods_there_are() {
    let all = |number: &str| {
        let text = "
apiVersion: platform.dev/v1
kind: AIStack
metadata: {name: stack}
spec:
  tinykv: {replicas: 1}
  vectorforge: {}
  tinyinfer: {model: m, replicas: N, embedding: {model: e, replicas: N}}
  modelhub: {replicas: N}
---
apiVersion: platform.dev/v1
kind: InferenceService
metadata: {name: big}
spec: {model: {name: m}, replicas: N, gpu: {product: nvidia-h100}}
---
apiVersion: platform.dev/v1
kind: KVCluster
metadata: {name: kv}
spec: {replicas: N}
";
        compile("all", &text.replace('N', number)).expect("it is well")
    };
    let (one, three) = (all("1"), all("3"));
    let (one, three) = (pods(&one), pods(&three));
    assert!(one.len() >= 6, "{}", one.len());
    assert_eq!(one, three);
}

/// The "restricted" profile of Kubernetes' Pod Security Standards, and what we ask beyond it.
#[test]
fn every_pod_is_restricted() {
    let compiled = [
        example("quickstart/stack.yaml"),
        example("three-nodes.yaml"),
        example("production.yaml"),
        example("hybrid.yaml"),
        compile("others.yaml", OTHERS).expect("valid"),
    ];
    for (name, template) in compiled.iter().flat_map(pods) {
        let pod = serde_json::to_value(template.spec.as_ref().expect("a pod spec")).expect("plain data");
        let at = |pointer: &str| pod.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/securityContext/runAsNonRoot"), true, "{name}");
        assert_eq!(at("/securityContext/seccompProfile/type"), "RuntimeDefault", "{name}");
        assert_eq!(at("/automountServiceAccountToken"), false, "{name}");
        assert!(at("/hostNetwork").is_null() && at("/hostPID").is_null(), "{name}");
        for container in pod["containers"].as_array().expect("containers") {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                assert!(container[probe]["httpGet"]["path"].is_string(), "{name} has no {probe}");
            }
        }
        for volume in pod["volumes"].as_array().expect("volumes") {
            assert!(volume.get("hostPath").is_none(), "{name} mounts the host");
            let mounted = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
            assert!(
                mounted.iter().any(|mount| mount["name"] == volume["name"]),
                "{name} mounts {} nowhere",
                volume["name"]
            );
        }
    }
}

/// A registry that asks who pulls is asked for every image of a stack.
#[test]
fn every_pod_of_a_stack_pulls_with_what_the_stack_names() {
    let text = "
apiVersion: platform.dev/v1
kind: AIStack
metadata: {name: stack}
spec:
  image: {repository: registry.example.com/ai, pullSecrets: [ours, mirror, ours]}
  tinykv: {replicas: 3, image: {pullSecrets: [stores]}}
  vectorforge: {}
  tinyinfer: {model: m, embedding: {model: e}}
  modelhub: {}
";
    let compiled = compile("stack", text).expect("it is well");
    let templates = pods(&compiled);
    assert!(templates.len() >= 5, "{}", templates.len());
    for (name, template) in templates {
        let pod = template.spec.as_ref().expect("a pod spec");
        let secrets: Vec<&str> =
            pod.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()).collect();
        // Once each: the API server takes no name twice. A part's own win.
        let expected: &[&str] = if name == "tinykv" { &["stores"] } else { &["ours", "mirror"] };
        assert_eq!(secrets, expected, "{name}");
    }
}

/// What was asked of a pod is answered to its end: it drains for as long as Kubernetes lets it, and ends before it is killed.
#[test]
fn every_server_drains_within_its_pods_grace() {
    let mut seen = std::collections::BTreeMap::new();
    for name in ["quickstart/stack.yaml", "production.yaml"] {
        let compiled = example(name);
        for (pod, template) in pods(&compiled) {
            let spec = serde_json::to_value(template.spec.as_ref().expect("a pod spec")).expect("plain data");
            let component = spec["containers"][0]["command"][0].as_str().expect("a program of ours");
            let config: serde_yaml_ng::Value = file(&compiled, &format!("{component}.yaml"));
            let drain = config["server"]["limits"]["drain_timeout_ms"].as_u64().unwrap_or(10_000) / 1000;
            let linger = spec.pointer("/containers/0/lifecycle/preStop/sleep/seconds");
            let linger = linger.and_then(serde_json::Value::as_u64).unwrap_or(0);
            let grace = spec["terminationGracePeriodSeconds"].as_u64().expect("a grace");
            assert!(linger + drain + 5 <= grace, "{pod} of {name}");
            seen.insert(format!("{component} of {name}"), (linger, drain));
        }
    }
    let of = |who: &str| seen[who];
    assert_eq!(of("modelhub of quickstart/stack.yaml"), (3, 52), "as if there were more: there may be");
    assert_eq!(of("modelhub of production.yaml"), (3, 52));
    assert_eq!(of("tinyinfer of production.yaml"), (3, 52));
    assert_eq!(of("vectorforge of production.yaml"), (0, 55));
    assert_eq!(of("tinykv of production.yaml"), (0, 10), "its requests are short");
}

#[test]
fn every_object_is_labelled_and_every_service_selects_pods() {
    let compiled = example("quickstart/stack.yaml");
    let templates = pods(&compiled);
    for manifest in &compiled.manifests {
        let labels = manifest.metadata().labels.clone().unwrap_or_default();
        for key in ["name", "instance", "part-of", "managed-by"] {
            assert!(
                labels.contains_key(&format!("app.kubernetes.io/{key}")),
                "{} {}",
                manifest.kind(),
                manifest.name()
            );
        }
        if let Manifest::Service(service) = manifest {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).expect("a selector");
            let selected = templates.iter().filter(|(_, template)| {
                let labels =
                    template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
                selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            });
            assert_eq!(selected.count(), 1, "Service {}", manifest.name());
        }
    }
}

/// The strongest proof that a config file fits: the component's own struct reads it and finds it valid.
#[test]
fn components_accept_their_config_files() {
    use aistack_api::{
        modelhub::ModelhubConfig, tinyinfer::TinyinferConfig, tinykv::TinykvConfig,
        vectorforge::VectorforgeConfig,
    };
    let mut seen = Vec::new();
    for compiled in [example("quickstart/stack.yaml"), example("hybrid.yaml")] {
        for manifest in &compiled.manifests {
            let Manifest::ConfigMap(map) = manifest else { continue };
            // What is no file is read from the environment.
            for (name, text) in map.data.iter().flatten().filter(|(name, _)| name.contains('.')) {
                match name.as_str() {
                    "tinykv.yaml" => {
                        let config: TinykvConfig = serde_yaml_ng::from_str(text).expect(name);
                        config.validate().expect(name);
                    }
                    "vectorforge.yaml" => {
                        let config: VectorforgeConfig = serde_yaml_ng::from_str(text).expect(name);
                        config.validate().expect(name);
                    }
                    "tinyinfer.yaml" => {
                        let config: TinyinferConfig = serde_yaml_ng::from_str(text).expect(name);
                        config.validate().expect(name);
                    }
                    "modelhub.yaml" => {
                        let config: ModelhubConfig = serde_yaml_ng::from_str(text).expect(name);
                        config.validate().expect(name);
                    }
                    other => panic!("{other} is read by no component"),
                }
                seen.push(name.clone());
            }
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["modelhub.yaml", "tinyinfer.yaml", "tinykv.yaml", "vectorforge.yaml"]);
}

fn file<C: serde::de::DeserializeOwned>(compiled: &Compiled, name: &str) -> C {
    let text = compiled.manifests.iter().find_map(|manifest| match manifest {
        Manifest::ConfigMap(map) => map.data.as_ref()?.get(name),
        _ => None,
    });
    serde_yaml_ng::from_str(text.expect(name)).expect("the component's own struct")
}

/// A member's settings, with what its environment adds.
fn member(compiled: &Compiled) -> aistack_api::tinykv::TinykvConfig {
    let mut config: aistack_api::tinykv::TinykvConfig = file(compiled, "tinykv.yaml");
    config.peers = file(compiled, "TINYKV_PEERS");
    config
}

#[test]
fn three_voters_are_told_of_one_another() {
    let compiled = example("three-nodes.yaml");
    let mut config = member(&compiled);
    // Each pod gets its name by its environment; nobody else may join under this list.
    assert!(config.validate().is_err());
    for name in ["tinykv-0", "tinykv-1", "tinykv-2"] {
        config.name = name.to_owned();
        config.validate().expect(name);
    }
    let founders = config.founders().expect("each has a name and an address");
    let told: Vec<_> =
        founders.iter().map(|founder| (founder.name.as_str(), founder.address.as_str())).collect();
    assert_eq!(
        told,
        [
            ("tinykv-0", "tinykv-0.tinykv-members:2380"),
            ("tinykv-1", "tinykv-1.tinykv-members:2380"),
            ("tinykv-2", "tinykv-2.tinykv-members:2380"),
        ]
    );
    let hub: aistack_api::modelhub::ModelhubConfig = file(&compiled, "modelhub.yaml");
    let clients = ["0", "1", "2"].map(|ordinal| format!("http://tinykv-{ordinal}.tinykv-members:2379"));
    assert_eq!(hub.kv.endpoints, clients);
}

/// What three members need of Kubernetes: all start at once, and are found before they are ready.
#[test]
fn members_start_together_and_are_found_before_they_are_ready() {
    let compiled = example("three-nodes.yaml");
    for manifest in &compiled.manifests {
        match manifest {
            Manifest::StatefulSet(set) if manifest.name() == "tinykv" => {
                assert_eq!(set.spec.replicas, Some(3));
                assert_eq!(set.spec.pod_management_policy.as_deref(), Some("Parallel"));
                assert_eq!(set.spec.service_name.as_deref(), Some("tinykv-members"));
            }
            Manifest::Service(service) if manifest.name() == "tinykv-members" => {
                let spec = service.spec.as_ref().expect("a spec");
                assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
                assert_eq!(spec.publish_not_ready_addresses, Some(true));
                let ports: Vec<_> = spec.ports.iter().flatten().map(|port| port.port).collect();
                assert_eq!(ports, [2379, 2380]);
            }
            _ => {}
        }
    }
}

#[test]
fn certificates_are_for_clients_for_members_and_for_the_hub() {
    let text = "{apiVersion: platform.dev/v1, kind: AIStack, metadata: {name: s}, spec: {
        tinykv: {replicas: 3, tls: {secretName: kv-tls}}, vectorforge: {}, modelhub: {},
        tinyinfer: {model: m, embedding: {model: e}}}}";
    let compiled = compile("f.yaml", text).expect("valid");
    let mut config = member(&compiled);
    config.name = "tinykv-2".to_owned();
    config.validate().expect("members and their certificates agree");
    assert_eq!(config.peers[2], "tinykv-2=https://tinykv-2.tinykv-members:2380");
    let hub: aistack_api::modelhub::ModelhubConfig = file(&compiled, "modelhub.yaml");
    assert_eq!(hub.kv.endpoints[0], "https://tinykv-0.tinykv-members:2379");
    let tls = hub.kv.tls.expect("how it checks them");
    assert_eq!(tls.server_name.as_deref(), Some("tinykv"));
    assert_eq!(tls.ca_file, Some("/etc/aistack-secrets/kv-ca/ca.crt".into()));
    let manifests = compiled.manifests.to_yaml();
    assert!(manifests.contains("value: '[\"https://$(TINYKV_NAME).tinykv-members:2379\"]'"), "{manifests}");
}

#[test]
fn the_quickstart_and_three_nodes_run_on_a_laptop() {
    for name in ["quickstart/stack.yaml", "three-nodes.yaml"] {
        assert_eq!(example(name).gaps_at(Outlet::Local), Vec::<&aistack_operator::Gap>::new(), "{name}");
    }
}

#[test]
fn a_label_of_what_it_is_part_of_makes_no_pod_anew() {
    let templates = |labels: &str| -> Vec<String> {
        let text = format!(
            "{{apiVersion: platform.dev/v1, kind: KVCluster, metadata: {{name: kv{labels}}}, \
             spec: {{backup: {{schedule: '0 3 * * *', destination: 's3://b/p'}}}}}}"
        );
        let compiled = compile("f.yaml", &text).expect("a KVCluster");
        let templates = compiled.manifests.0.iter().filter_map(|manifest| match manifest {
            Manifest::StatefulSet(set) => Some(&set.spec.template),
            Manifest::CronJob(job) => job.spec.job_template.spec.as_ref().map(|job| &job.template),
            _ => None,
        });
        templates.map(|template| serde_json::to_string(template).expect("plain data")).collect()
    };
    let plain = templates("");
    assert_eq!(plain.len(), 2);
    assert_eq!(plain, templates(", labels: {app.kubernetes.io/part-of: x}"));
}

#[test]
fn what_this_version_cannot_do_is_said() {
    let local = |name: &str| -> Vec<String> {
        example(name).gaps_at(Outlet::Local).iter().map(ToString::to_string).collect()
    };
    insta::assert_snapshot!("gaps_of_production", local("production.yaml").join("\n"));
    insta::assert_snapshot!("gaps_of_hybrid", local("hybrid.yaml").join("\n"));
}

#[test]
fn embeddings_by_onnx_runtime() {
    let text = |gpu: &str| {
        format!(
            "{{apiVersion: platform.dev/v1, kind: InferenceService, metadata: {{name: e}}, \
             spec: {{model: {{name: org/minilm}}, task: embed, runtime: onnx, pooling: cls{gpu}}}}}"
        )
    };
    for (gpu, tag, device) in [("", "cpu", "cpu"), (", gpu: {product: nvidia-l4}", "trt-onnx", "cuda")] {
        let compiled = compile("f.yaml", &text(gpu)).expect("an InferenceService");
        let deployment = compiled.manifests.0.iter().find_map(|manifest| match manifest {
            Manifest::Deployment(deployment) => Some(deployment),
            _ => None,
        });
        let pod = deployment.and_then(|d| d.spec.template.spec.as_ref()).expect("a pod");
        let container = &pod.containers[0];
        assert_eq!(container.image, Some(format!("michaelf34/infinity:0.0.77-{tag}")));
        let args = container.args.as_ref().expect("arguments").join(" ");
        let expected = "v2 --model-id org/minilm --served-model-name org/minilm --engine optimum --pooling-method cls --device ";
        assert!(
            args.starts_with(&format!("{expected}{device} --url-prefix /v1 --port 8000 --no-trust")),
            "{args}"
        );
        let path =
            container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref()?.path.as_deref());
        assert_eq!(path, Some("/health"));
    }
}
