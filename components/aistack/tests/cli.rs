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
    for command in
        ["up", "down", "status", "logs", "render", "ask", "trace", "doctor", "version", "completions"]
    {
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
        warnings.contains(
            "warning: examples/production.yaml: spec.vectorforge.replicas: servers of this version do not share"
        ),
        "{warnings}"
    );
    assert!(!warnings.contains("tinykv"), "{warnings}");
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

/// A home of its own, so that no command sees or touches the stacks of this machine.
fn aistack_alone(home: &std::path::Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_aistack"))
        .args(args)
        .current_dir(home)
        .env("NO_COLOR", "1")
        .env("XDG_STATE_HOME", home.join("state"))
        .env_remove("AISTACK_MODELHUB_URL")
        .output()
        .expect("aistack runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_mistake_gets_a_sentence() {
    let home = tempfile::tempdir().expect("a folder");
    let long = "a".repeat(100_000);
    let table: &[(&[&str], i32, &str)] = &[
        (&[], 2, "Usage:"),
        (&["statsu"], 2, "a similar subcommand exists: 'status'"),
        (&["up", "-f"], 2, "a value is required for '--file <FILE>'"),
        (&["up", "-f", "nowhere.yaml"], 2, "nowhere.yaml: there is no such file\n  name a manifest with -f"),
        (&["up", "-f", "/"], 2, "/: is a folder"),
        (&["up", "-f", "/dev/null"], 2, "holds no object\n  write apiVersion: platform.dev/v1"),
        (&["up", "--port", "0"], 2, "a port is a number from 1 to 65535"),
        (&["up", "--port", "99999"], 2, "a port is a number from 1 to 65535"),
        (&["up", "--port", "http"], 2, "a port is a number from 1 to 65535"),
        (&["up", "--timeout", "abc"], 2, "such as 90s or 10m"),
        (&["up", "-f", "a", "-f", "b"], 2, "cannot be used multiple times"),
        (&["down", "--purge", "--stack", "../.."], 2, "a stack's name is the metadata.name"),
        (&["down", "--purge", "--stack", ""], 2, "a stack's name is the metadata.name"),
        (&["down", "--purge", "--stack", "/"], 2, "a stack's name is the metadata.name"),
        (&["down", "--stack", "ünïcode"], 2, "a stack's name is the metadata.name"),
        (&["down", "--stack", "nobody"], 3, "there is no stack nobody"),
        (&["down"], 0, ""),
        (&["status"], 3, "no stack is up\n  start one: aistack up"),
        (&["status", "--stack", "../../etc"], 2, "a stack's name is the metadata.name"),
        (&["status", "-o", "jsn"], 2, "a similar value exists: 'json'"),
        (&["logs", "nopod"], 3, "no stack is up"),
        (&["ask"], 2, "<QUESTION>..."),
        (&["ask", "", " "], 2, "the question is empty"),
        (&["ask", "how", "are", "you"], 3, "no stack is up"),
        (&["ask", &long], 3, "no stack is up"),
        (&["ask", "--top-k", "0", "x"], 2, "0 is not in 1..=100"),
        (&["ask", "--url", "notaurl", "x"], 2, "write an address such as http://127.0.0.1:8080"),
        (&["ask", "--url", "file:///etc/passwd", "x"], 2, "write an address such as"),
        (
            &["ask", "--url", "http://127.0.0.1:1", "x"],
            1,
            "ModelHub at http://127.0.0.1:1: connection refused",
        ),
        (&["trace"], 3, "no stack is up"),
        (&["trace", "xyz"], 2, "a trace id has up to 32 hex digits"),
        (&["trace", "--list", "abc"], 2, "cannot be used with"),
        (&["render"], 2, "stack.yaml: there is no such file"),
        (&["render", "-o", "xml"], 2, "a similar value exists: 'yaml'"),
        (&["completions", "tcsh"], 2, "a similar value exists: 'zsh'"),
        (&["version", "extra"], 2, "unexpected argument 'extra'"),
    ];
    for (args, wanted, sentence) in table {
        let (code, out, error) = aistack_alone(home.path(), args);
        let shown: Vec<String> = args.iter().map(|arg| arg.chars().take(40).collect()).collect();
        assert_eq!(code, *wanted, "aistack {}\n{out}{error}", shown.join(" "));
        assert!(error.contains(sentence), "aistack {}: no `{sentence}` in\n{error}", shown.join(" "));
        for ugly in ["panicked", "Some(", "Err(", "os error", "invalid digit"] {
            assert!(!error.contains(ugly), "aistack {}: {ugly} in\n{error}", shown.join(" "));
        }
    }
    assert!(home.path().exists() && !home.path().join("state").exists(), "a mistake leaves nothing behind");
}

#[test]
fn every_manifest_that_cannot_be_used_says_why() {
    const HEAD: &str = "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: s}\n";
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("m.yaml");
    let two = "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: s}\nspec: {}\n---\napiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: t}\nspec: {}\n";
    let nested = "[".repeat(20_000);
    let table: &[(&str, &str)] = &[
        ("a: [1, 2", "is not YAML: did not find expected ',' or ']' at line 2"),
        ("\tx: 1", "is not YAML: found character that cannot start any token"),
        ("hello", "holds a single value where an object is wanted\n  a manifest begins with"),
        ("- 1\n- 2", "holds a list where an object is wanted"),
        ("a: &a [*a]", "is not YAML: recursion limit exceeded"),
        (&nested, "is not YAML: recursion limit exceeded"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}", "kind: ConfigMap is not a kind of ours"),
        ("apiVersion: platform.dev/v1\nkind: AIstack\nmetadata: {name: s}", "did you mean AIStack?"),
        (
            "apiVersion: platform.dev/v2\nkind: AIStack\nmetadata: {name: s}",
            "apiVersion: platform.dev/v2 is not served",
        ),
        ("apiVersion: platform.dev/v1\nkind: AIStack\nspec: {tinykv: {}}", "metadata.name: is missing"),
        (
            "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {name: a/b}\nspec: {tinykv: {}}",
            "`a/b` is not a DNS label",
        ),
        ("HEADspec: {tinykv: {replica: 1}}", "spec.tinykv.replica: is not a field\n  did you mean replicas?"),
        ("HEADspec: {tinyvk: {}}", "spec.tinyvk: is not a field\n  did you mean tinykv?"),
        ("HEADspek: {}", "spek: is not a field\n  did you mean spec?"),
        ("HEADspec: {tinykv: {replicas: one}}", "is the text \"one\", but a whole number is wanted"),
        ("HEADspec: {tinykv: {replicas: -1}}", "-1 is out of range\n  allowed is from 1 to 7"),
        (
            "HEADspec: {tinykv: {replicas: 99999999999999999999}}",
            "spec.tinykv.replicas: is too large a number",
        ),
        ("HEADspec: {tinykv: {}, tinykv: {}}", "duplicate entry with key \"tinykv\""),
        ("HEADspec: {tinykv: {storage: 1Zi}}", "write a size such as 500Mi or 100Gi"),
        ("HEADspec: {modelhub: {}}", "has a model hub but no key-value store"),
        (two, "AIStack t: spec: is empty"),
    ];
    for (text, sentence) in table {
        let text = text.replace("HEAD", HEAD);
        std::fs::write(&file, &text).expect("written");
        for command in ["render", "up"] {
            let (code, out, error) = aistack_alone(home.path(), &[command, "-f", "m.yaml"]);
            let shown: String = text.chars().take(200).collect();
            assert_eq!((code, out.as_str()), (2, ""), "{command}: {shown}\n{error}");
            assert!(error.starts_with("error: m.yaml: "), "{error}");
            assert!(error.contains(sentence), "{command}: no `{sentence}` for\n{shown}\n{error}");
        }
    }
    std::fs::write(&file, b"kind: \xff\xfe").expect("written");
    let (_, _, error) = aistack_alone(home.path(), &["render", "-f", "m.yaml"]);
    assert_eq!(error, "error: m.yaml: is not UTF-8 text\n  a manifest is YAML, saved as UTF-8\n");
}

#[test]
fn two_stacks_in_one_file_are_rendered_but_not_run() {
    let home = tempfile::tempdir().expect("a folder");
    let stack = |name: &str, namespace: &str| {
        format!(
            "apiVersion: platform.dev/v1\nkind: AIStack\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{tinykv: {{}}}}\n"
        )
    };
    let text = format!("{}---\n{}", stack("blue", "a"), stack("green", "b"));
    std::fs::write(home.path().join("m.yaml"), text).expect("written");
    let (code, _, error) = aistack_alone(home.path(), &["render", "-f", "m.yaml"]);
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = aistack_alone(home.path(), &["up", "-f", "m.yaml"]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("the file holds 2 stacks (blue, green)"), "{error}");
}
