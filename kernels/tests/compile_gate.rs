//! Every kernel against the committed limits on registers, spills, stack and static shared memory. Needs nvcc, not a GPU.
#![cfg(feature = "cuda")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

const LIMITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/limits.json");
const REWRITE: &str =
    "TINYKERNELS_WRITE_LIMITS=1 cargo test --release -p tinykernels --features cuda --test compile_gate";

/// What the assembler used for one kernel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Used {
    registers: u64,
    spilled: u64,
    stack: u64,
    shared: u64,
}

/// The number before `unit` in a comma-separated report line.
fn number_before(line: &str, unit: &str) -> u64 {
    line.split(',')
        .find_map(|part| part.trim().strip_suffix(unit)?.split_whitespace().last()?.parse().ok())
        .unwrap_or(0)
}

fn parse(report: &str) -> BTreeMap<String, Used> {
    let mut kernels = BTreeMap::new();
    let mut name = String::new();
    let mut used = Used::default();
    for line in report.lines() {
        if let Some(rest) = line.split_once("Compiling entry function '").map(|(_, rest)| rest) {
            rest.split('\'').next().unwrap_or_default().clone_into(&mut name);
            used = Used::default();
        } else if line.contains("spill stores") {
            used.stack = number_before(line, "bytes stack frame");
            used.spilled =
                number_before(line, "bytes spill stores") + number_before(line, "bytes spill loads");
        } else if line.contains("Used ") && line.contains("registers") {
            used.registers = number_before(line, "registers");
            used.shared = number_before(line, "bytes smem");
            kernels.insert(std::mem::take(&mut name), used);
        }
    }
    kernels
}

fn limit(limits: &Value, kernel: &str, key: &str) -> Option<u64> {
    limits.get(kernel)?.get(key)?.as_u64()
}

#[test]
fn every_kernel_is_within_its_committed_limits() {
    let report =
        std::fs::read_to_string(env!("TINYKERNELS_PTXAS_REPORT")).expect("build.rs wrote the report");
    let kernels = parse(&report);
    assert!(!kernels.is_empty(), "no kernel in the report: {report}");
    if std::env::var_os("TINYKERNELS_WRITE_LIMITS").is_some() {
        let limits: serde_json::Map<_, _> = kernels
            .iter()
            .map(|(name, u)| (name.clone(), json!({"registers": u.registers, "shared_bytes": u.shared})))
            .collect();
        std::fs::write(LIMITS, format!("{:#}\n", Value::Object(limits))).expect("limits.json can be written");
        return;
    }
    let text = std::fs::read_to_string(Path::new(LIMITS)).expect("limits.json is committed");
    let limits: Value = serde_json::from_str(&text).expect("limits.json is JSON");
    let mut wrong = Vec::new();
    for (name, used) in &kernels {
        if used.spilled > 0 || used.stack > 0 {
            wrong.push(format!("{name} spills {} bytes on a stack of {}", used.spilled, used.stack));
        }
        match (limit(&limits, name, "registers"), limit(&limits, name, "shared_bytes")) {
            (Some(registers), Some(shared)) if used.registers <= registers && used.shared <= shared => {}
            (Some(registers), Some(shared)) => wrong
                .push(format!("{name} uses {used:?}; the limit is {registers} registers, {shared} bytes")),
            _ => wrong.push(format!("{name} has no limit")),
        }
    }
    let gone = limits.as_object().into_iter().flat_map(|m| m.keys()).filter(|k| !kernels.contains_key(*k));
    wrong.extend(gone.map(|k| format!("{k} has a limit but is not compiled")));
    assert!(wrong.is_empty(), "{}\nif that is meant: {REWRITE}", wrong.join("\n"));
}

#[test]
fn the_report_of_the_assembler_is_read_in_full() {
    let report = "ptxas info    : Compiling entry function 'a' for 'sm_90a'\nptxas info    : Function properties for a\n    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 128 bytes smem\n";
    assert_eq!(parse(report).get("a"), Some(&Used { registers: 40, spilled: 12, stack: 16, shared: 128 }));
}
