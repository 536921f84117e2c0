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
    /// Least memory of each in MiB; 0 for any.
    pub memory_mib: u64,
    /// Who hands them out.
    pub allocation: GpuAllocation,
}

impl Gpu {
    /// Reads a spec; `path` is where the manifest says it.
    pub fn validate(spec: Option<&GpuSpec>, path: &str) -> Result<Self, Problem> {
        let Some(spec) = spec else { return Ok(Self::None) };
        let memory_mib = match &spec.memory {
            None => 0,
            Some(text) => {
                Size::parse(text)
                    .ok_or_else(|| {
                        Problem::new(
                            format!("{path}.memory"),
                            format!("`{text}` is no size"),
                            "write a size such as 40Gi",
                        )
                    })?
                    .bytes()
                    >> 20
            }
        };
        let count = u16::try_from(spec.count).map_err(|_| {
            Problem::new(
                format!("{path}.count"),
                format!("{} is no number of GPUs", spec.count),
                "write 1 to 16",
            )
        })?;
        let product = spec.product.clone().unwrap_or_default();
        Ok(Self::Claim(GpuClaim { product, count, memory_mib, allocation: spec.allocation }))
    }
}

/// Device class of NVIDIA's DRA driver, and the domain of its devices' attributes.
const DEVICE_CLASS: &str = "gpu.nvidia.com";

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
        if wanted.is_empty() {
            return None;
        }
        let term = NodeSelectorTerm { match_expressions: Some(wanted), match_fields: None };
        Some(Affinity {
            node_affinity: Some(NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                    node_selector_terms: vec![term],
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
            let claim = GpuClaim {
                product: product.to_owned(),
                count: 1,
                memory_mib: 0,
                allocation: GpuAllocation::DevicePlugin,
            };
            let affinity = serde_json::to_value(claim.affinity()).expect("plain data");
            affinity.pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0/values").cloned()
        };
        assert_eq!(values("nvidia-h200").expect("values")[0], "NVIDIA-H200");
        assert_eq!(values("NVIDIA-A100").expect("values").as_array().expect("list").len(), 4);
        assert_eq!(values("NVIDIA-RTX-A6000").expect("values")[0], "NVIDIA-RTX-A6000");
        assert_eq!(values(""), None);
    }
}
