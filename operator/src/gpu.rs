//! GPUs: what a manifest calls a product, and what nodes are labelled with.

use aistack_crds::parts::{GpuAllocation, GpuSpec};
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};
use k8s_openapi::api::resource::v1::{
    CELDeviceSelector, DeviceClaim, DeviceRequest, DeviceSelector, ExactDeviceRequest,
};

use crate::problem::Problem;
use crate::size::Size;

/// Short names and the values of the node label `nvidia.com/gpu.product` (NVIDIA GPU feature discovery) that they stand for.
const PRODUCTS: &[(&str, &[&str])] = &[
    (
        "nvidia-a100",
        &["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-PCIE-40GB", "NVIDIA-A100-80GB-PCIe"],
    ),
    ("nvidia-h100", &["NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe", "NVIDIA-H100-NVL"]),
    ("nvidia-h200", &["NVIDIA-H200", "NVIDIA-H200-NVL"]),
    ("nvidia-b200", &["NVIDIA-B200"]),
    ("nvidia-l4", &["NVIDIA-L4"]),
    ("nvidia-l40s", &["NVIDIA-L40S"]),
    ("nvidia-a10", &["NVIDIA-A10", "NVIDIA-A10G"]),
    ("nvidia-t4", &["Tesla-T4"]),
];

/// GPUs of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// The model runs on the CPU.
    None,
    /// GPUs that the device plugin hands out.
    Claim(GpuClaim),
}

/// GPUs that the device plugin hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuClaim {
    /// Product as the manifest names it; empty for any.
    pub product: String,
    /// GPUs a pod holds.
    pub count: u16,
    /// Least memory of each in MiB, as the card reports it: an 80 GB H100 has 81,559 MiB, a 24 GB L4 23,034. 0 for any.
    pub memory_mib: u64,
    /// Least compute capability.
    pub compute: Option<Compute>,
    /// What the device plugin calls what it hands out.
    pub resource: String,
    /// Who hands them out.
    pub allocation: GpuAllocation,
}

/// A compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    major: u8,
    minor: u8,
}

impl Compute {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// Nodes whose GPUs have it: in each of the lists, all must hold.
    fn nodes(self) -> Vec<Vec<NodeSelectorRequirement>> {
        let label = |part: &str| format!("nvidia.com/gpu.compute.{part}");
        let above = |part: &str, number: u8| requirement(&label(part), "Gt", vec![number.to_string()]);
        match (self.major, self.minor) {
            (major, 0) => vec![vec![above("major", major.saturating_sub(1))]],
            (major, minor) => vec![
                vec![above("major", major)],
                vec![requirement(&label("major"), "In", vec![major.to_string()]), above("minor", minor - 1)],
            ],
        }
    }
}

impl Gpu {
    /// Reads a spec; `path` is where the manifest says it.
    pub fn validate(spec: Option<&GpuSpec>, path: &str) -> Result<Self, Problem> {
        let Some(spec) = spec else { return Ok(Self::None) };
        let no_size = |text: &str| {
            let what = format!("`{text}` is no size");
            Problem::new(format!("{path}.memory"), what, "write a size such as 40Gi")
        };
        let sold =
            spec.memory.as_ref().map(|text| Size::parse(text).ok_or_else(|| no_size(text))).transpose()?;
        let memory_mib = sold.map_or(0, |sold| (sold.bytes() / 15 * 14) >> 20);
        let count = u16::try_from(spec.count).map_err(|_| {
            Problem::new(
                format!("{path}.count"),
                format!("{} is no number of GPUs", spec.count),
                "write 1 to 16",
            )
        })?;
        let product = spec.product.clone().unwrap_or_default();
        let compute = match &spec.compute_capability {
            None => None,
            Some(text) => Some(Compute::parse(text).ok_or_else(|| {
                Problem::new(
                    format!("{path}.computeCapability"),
                    format!("`{text}` is no compute capability"),
                    "write one such as 8.0",
                )
            })?),
        };
        let resource = spec.resource.clone().unwrap_or_else(|| WHOLE.to_owned());
        let allocation = spec.allocation;
        Ok(Self::Claim(GpuClaim { product, count, memory_mib, compute, resource, allocation }))
    }

    /// Whether it depends on the cluster who hands them out.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Claim(claim) if claim.allocation == GpuAllocation::Auto)
    }

    /// The same, handed out as a cluster can.
    #[must_use]
    pub fn handed_out(&self, has_device_class: bool) -> Self {
        match self {
            Self::Claim(claim) if claim.allocation == GpuAllocation::Auto => {
                // Parts of a GPU are the device plugin's.
                let by_dra = has_device_class && claim.resource == WHOLE;
                let allocation = if by_dra { GpuAllocation::Dra } else { GpuAllocation::DevicePlugin };
                Self::Claim(GpuClaim { allocation, ..claim.clone() })
            }
            gpu => gpu.clone(),
        }
    }
}

/// What the device plugin calls whole GPUs.
const WHOLE: &str = "nvidia.com/gpu";
/// Device class of NVIDIA's DRA driver, and the domain of its devices' attributes.
pub const DEVICE_CLASS: &str = "gpu.nvidia.com";

impl GpuClaim {
    /// Values of the node label that its product stands for.
    fn labels(&self) -> Vec<String> {
        let known = PRODUCTS.iter().find(|(short, _)| self.product.eq_ignore_ascii_case(short));
        known.map_or_else(
            || vec![self.product.clone()],
            |(_, labels)| labels.iter().map(|label| (*label).to_owned()).collect(),
        )
    }

    /// What a pod claims of the DRA driver. Its devices call a product as the card does, with spaces for the label's dashes.
    pub fn devices(&self) -> DeviceClaim {
        let mut selectors = Vec::new();
        let mut select = |expression: String| {
            selectors.push(DeviceSelector { cel: Some(CELDeviceSelector { expression }) });
        };
        if !self.product.is_empty() {
            let names: Vec<String> =
                self.labels().iter().map(|label| format!("'{}'", label.replace('-', " "))).collect();
            let name = format!("device.attributes['{DEVICE_CLASS}'].productName.replace('-', ' ')");
            select(format!("{name} in [{}]", names.join(", ")));
        }
        if self.memory_mib > 0 {
            let memory = format!("device.capacity['{DEVICE_CLASS}'].memory");
            select(format!("{memory}.compareTo(quantity('{}Mi')) >= 0", self.memory_mib));
        }
        if let Some(Compute { major, minor }) = self.compute {
            let capability = format!("device.attributes['{DEVICE_CLASS}'].cudaComputeCapability");
            select(format!("{capability}.compareTo(semver('{major}.{minor}.0')) >= 0"));
        }
        let exactly = ExactDeviceRequest {
            device_class_name: DEVICE_CLASS.to_owned(),
            allocation_mode: Some("ExactCount".to_owned()),
            count: Some(i64::from(self.count)),
            selectors: (!selectors.is_empty()).then_some(selectors),
            ..ExactDeviceRequest::default()
        };
        let request =
            DeviceRequest { name: "gpu".to_owned(), exactly: Some(exactly), ..DeviceRequest::default() };
        DeviceClaim { requests: Some(vec![request]), ..DeviceClaim::default() }
    }

    /// Nodes that have such a GPU. The DRA driver's devices say that themselves.
    pub fn affinity(&self) -> Option<Affinity> {
        if self.allocation == GpuAllocation::Dra {
            return None;
        }
        let mut wanted = Vec::new();
        if !self.product.is_empty() {
            wanted.push(requirement("nvidia.com/gpu.product", "In", self.labels()));
        }
        if self.memory_mib > 0 {
            wanted.push(requirement("nvidia.com/gpu.memory", "Gt", vec![(self.memory_mib - 1).to_string()]));
        }
        let either = self.compute.map_or_else(|| vec![Vec::new()], Compute::nodes);
        let terms: Vec<NodeSelectorTerm> = either
            .into_iter()
            .map(|also| [wanted.clone(), also].concat())
            .filter(|all| !all.is_empty())
            .map(|all| NodeSelectorTerm { match_expressions: Some(all), match_fields: None })
            .collect();
        if terms.is_empty() {
            return None;
        }
        Some(Affinity {
            node_affinity: Some(NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                    node_selector_terms: terms,
                }),
                ..NodeAffinity::default()
            }),
            ..Affinity::default()
        })
    }

    /// The taint that keeps other pods off GPU nodes.
    pub fn toleration() -> Toleration {
        Toleration {
            key: Some("nvidia.com/gpu".to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        }
    }
}

fn requirement(key: &str, operator: &str, values: Vec<String>) -> NodeSelectorRequirement {
    NodeSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_the_labels_of_nodes() {
        let values = |product: &str| {
            let spec =
                GpuSpec { product: (!product.is_empty()).then(|| product.to_owned()), ..GpuSpec::default() };
            let Ok(Gpu::Claim(claim)) = Gpu::validate(Some(&spec), "spec.gpu") else { panic!("a claim") };
            let affinity = serde_json::to_value(claim.affinity()).expect("plain data");
            affinity.pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0/values").cloned()
        };
        assert_eq!(values("nvidia-h200").expect("values")[0], "NVIDIA-H200");
        assert_eq!(values("NVIDIA-A100").expect("values").as_array().expect("list").len(), 4);
        assert_eq!(values("NVIDIA-RTX-A6000").expect("values")[0], "NVIDIA-RTX-A6000");
        assert_eq!(values(""), None);
    }

    fn claim(spec: &GpuSpec) -> GpuClaim {
        match Gpu::validate(Some(spec), "spec.gpu") {
            Ok(Gpu::Claim(claim)) => claim,
            other => panic!("a claim, not {other:?}"),
        }
    }

    #[test]
    fn a_compute_capability_is_a_bound_of_two_numbers() {
        let terms = |capability: &str, product: Option<&str>| {
            let claim = claim(&GpuSpec {
                product: product.map(str::to_owned),
                compute_capability: Some(capability.to_owned()),
                ..GpuSpec::default()
            });
            let affinity = serde_json::to_value(claim.affinity()).expect("plain data");
            let terms = affinity
                .pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
                .and_then(serde_json::Value::as_array)
                .expect("terms")
                .clone();
            let words = |term: &serde_json::Value| {
                let all = term["matchExpressions"].as_array().expect("a list");
                let word = |it: &serde_json::Value| {
                    format!(
                        "{} {} {}",
                        it["key"].as_str().unwrap_or_default(),
                        it["operator"],
                        it["values"][0]
                    )
                };
                all.iter()
                    .map(word)
                    .collect::<Vec<_>>()
                    .join(" & ")
                    .replace("nvidia.com/gpu.", "")
                    .replace('"', "")
            };
            terms.iter().map(words).collect::<Vec<_>>()
        };
        assert_eq!(terms("9.0", None), ["compute.major Gt 8"]);
        assert_eq!(terms("8.6", None), ["compute.major Gt 8", "compute.major In 8 & compute.minor Gt 5"]);
        assert_eq!(terms("9.0", Some("NVIDIA-H200")), ["product In NVIDIA-H200 & compute.major Gt 8"]);
        let spec = GpuSpec { compute_capability: Some("8.6".to_owned()), ..GpuSpec::default() };
        let devices = serde_json::to_string(&claim(&spec).devices()).expect("plain data");
        assert!(devices.contains("cudaComputeCapability.compareTo(semver('8.6.0')) >= 0"), "{devices}");
    }

    #[test]
    fn who_hands_gpus_out_may_be_left_to_the_cluster() {
        use GpuAllocation::{Auto, DevicePlugin, Dra};
        let mig = Some("nvidia.com/mig-3g.40gb".to_owned());
        for (asked, resource, has_class, expected) in [
            (Auto, None, true, Dra),
            (Auto, None, false, DevicePlugin),
            (Auto, mig, true, DevicePlugin),
            (DevicePlugin, None, true, DevicePlugin),
            (Dra, None, false, Dra),
        ] {
            let spec = GpuSpec { allocation: asked, resource, ..GpuSpec::default() };
            let Gpu::Claim(claim) = Gpu::Claim(claim(&spec)).handed_out(has_class) else { panic!("a claim") };
            assert_eq!(claim.allocation, expected, "{spec:?} {has_class}");
        }
    }
}
