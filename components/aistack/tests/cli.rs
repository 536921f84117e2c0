//! The command line as a person meets it.

use std::process::Command;

fn aistack(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_aistack"))
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("NO_COLOR", "1")
        .output()
        .expect("aistack runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_command_has_examples() {
    for command in ["up", "down", "status", "logs", "render", "ask", "doctor", "version", "completions"] {
        let (code, help, _) = aistack(&[command, "--help"]);
        assert_eq!(code, 0, "{command}");
        assert!(
            help.contains("Examples:") && help.contains(&format!("aistack {command}")),
            "{command}\n{help}"
        );
    }
    let (_, help, _) = aistack(&["--help"]);
    assert!(help.contains("Exit codes:") && !help.contains("__supervise"), "{help}");
}

#[test]
fn render_prints_what_kubectl_takes_and_warns_beside_it() {
    let (code, yaml, warnings) = aistack(&["render", "-f", "examples/production.yaml"]);
    assert_eq!(code, 0, "{warnings}");
    assert_eq!(yaml.matches("\nkind: StatefulSet\n").count(), 3);
    assert!(
        warnings.contains("warning: examples/production.yaml: spec.tinykv.replicas: a KVCluster of one"),
        "{warnings}"
    );
    let (_, json, _) = aistack(&["render", "-f", "examples/production.yaml", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(list["kind"], "List");
    let (_, children, _) = aistack(&["render", "-f", "examples/production.yaml", "--children"]);
    assert!(
        children.contains("kind: KVCluster") && children.contains("kind: InferenceService"),
        "{children}"
    );
}

#[test]
fn a_mistake_is_said_in_two_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("stack.yaml");
    let manifest =
        "{apiVersion: platform.dev/v1, kind: AIStack, metadata: {name: s}, spec: {tinykv: {replicas: 2}}}";
    std::fs::write(&file, manifest).expect("written");
    let file = file.to_str().expect("UTF-8");
    for command in ["up", "render"] {
        let (code, out, error) = aistack(&[command, "-f", file]);
        assert_eq!((code, out.as_str()), (2, ""), "{command}");
        assert_eq!(
            error,
            format!(
                "error: {file}: spec.tinykv.replicas: 2 is even\n  a Raft cluster of 2 survives no failure; use 1 (laptop) or 3, 5, 7\n"
            )
        );
    }
    let (code, _, error) = aistack(&["render", "-f", "nowhere.yaml"]);
    assert_eq!(code, 2);
    assert!(error.contains("name a manifest with -f"), "{error}");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = aistack(&["completions", shell]);
        assert!(code == 0 && script.contains("doctor"), "{shell}");
    }
}

#[test]
fn version_for_people_and_programs() {
    let (_, text, _) = aistack(&["version"]);
    assert!(text.starts_with("aistack 0."), "{text}");
    let (_, json, _) = aistack(&["version", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("JSON")["api"], "platform.dev/v1");
}
