//! The runner with real processes: every component is played by the example `standin`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use aistack_cli::local::state::{Phase, ProcessId, StackFolder, StackStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const STACK: &str = "
apiVersion: platform.dev/v1
kind: AIStack
metadata: {name: laptop}
spec:
  tinykv: {}
  vectorforge: {}
  tinyinfer: {model: chatty, embedding: {model: vectory}}
  modelhub: {}
";
const PROGRAMS: [&str; 4] = ["tinykv", "vectorforge", "tinyinfer", "modelhub"];

/// For what must happen, however slow and busy the machine is.
const PATIENCE: Duration = Duration::from_mins(5);

/// A machine of a test's own: programs, models, state and a manifest in a folder that goes with it.
struct Machine {
    folder: tempfile::TempDir,
    port: u16,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().expect("a folder"), port: free_port() };
        for name in ["bin", "state", "control", "models/chatty", "models/vectory"] {
            fs::create_dir_all(machine.path(name)).expect("created");
        }
        // Programs are looked for beside aistack itself, so it needs a place of its own.
        let aistack = Path::new(env!("CARGO_BIN_EXE_aistack"));
        link(aistack, &machine.path("bin/aistack"));
        let standin = aistack.parent().expect("a folder").join("examples/standin");
        for program in PROGRAMS {
            link(&standin, &machine.path("bin").join(program));
        }
        machine.manifest(STACK);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn manifest(&self, text: &str) {
        fs::write(self.path("stack.yaml"), text).expect("written");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/aistack"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("AISTACK_MODELS", self.path("models"))
            .env("STANDIN_CONTROL", self.path("control"))
            .env("PATH", "/usr/bin:/bin")
            .env("NO_COLOR", "1");
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String) {
        let output = self.command(args).output().expect("aistack runs");
        (output.status.code().unwrap_or(-1), text(&output))
    }

    #[track_caller]
    fn good(&self, args: &[&str]) -> String {
        let (code, text) = self.run(args);
        assert_eq!(code, 0, "aistack {}\n{text}", args.join(" "));
        text
    }

    /// Runs a command until it ends with `code` and says all of `parts`.
    #[track_caller]
    fn says(&self, args: &[&str], code: i32, parts: &[&str]) -> String {
        let mut last = (0, String::new());
        wait_for(&format!("aistack {}: {code}, {parts:?}", args.join(" ")), || {
            last = self.run(args);
            last.0 == code && parts.iter().all(|part| last.1.contains(part))
        });
        last.1
    }

    #[track_caller]
    fn up(&self) -> String {
        self.good(&["up", "--detach", "--port", &self.port.to_string(), "--timeout", "10m"])
    }

    fn stack(&self) -> StackFolder {
        StackFolder::at(self.path("state/aistack/laptop"))
    }

    fn status(&self) -> StackStatus {
        self.stack().status().expect("a status")
    }

    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&StackStatus) -> bool) -> StackStatus {
        let mut last = StackStatus::default();
        wait_for(what, || {
            last = self.status();
            condition(&last)
        });
        last
    }

    fn tell(&self, pod: &str, how: &str) {
        fs::write(self.path("control").join(format!("{pod}.{how}")), "").expect("written");
    }

    fn untell(&self, pod: &str, how: &str) {
        fs::remove_file(self.path("control").join(format!("{pod}.{how}"))).expect("removed");
    }

    fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("control/journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--stack", "laptop"]).output();
    }
}

fn link(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).expect("copied");
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A port below those that the kernel hands out by itself, so that no other test's pod is given it meanwhile.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 300).expect("small") * 40;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn get(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a listener");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("an answer");
    reply.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

fn pods(status: &StackStatus) -> Vec<ProcessId> {
    status.pods.iter().map(|pod| pod.process).collect()
}

#[test]
fn a_stack_comes_up_is_looked_at_and_goes_down() {
    let machine = Machine::new();
    let shown = machine.up();
    for pod in ["tinykv-0", "vectorforge-0", "tinyinfer-chat", "tinyinfer-embed", "modelhub-0"] {
        assert!(
            shown.lines().any(|line| line.trim_start().starts_with(pod) && line.contains("Ready")),
            "{pod}\n{shown}"
        );
    }
    assert!(shown.contains(&format!("http://127.0.0.1:{}", machine.port)), "{shown}");
    assert_eq!(get(machine.port), "modelhub-0");

    // A pod that was Ready may miss a probe on a machine that stalls, and be Ready again.
    let status = machine.wait("Ready", StackStatus::all_ready);
    let first = machine.journal();
    assert_eq!(
        first.last().map(String::as_str),
        Some("modelhub-0 starts"),
        "it needs all the others: {first:?}"
    );

    let (code, again) = machine.run(&["up", "--detach"]);
    assert_eq!(code, 3, "{again}");
    assert!(again.contains("stack laptop is up already"), "{again}");

    let table = machine.says(&["status"], 0, &["stack laptop   Ready 5/5   up "]);
    let store = status.pods.iter().find(|pod| pod.name == "tinykv-0").and_then(|pod| pod.port("client"));
    let row = format!("KVCluster         tinykv        1/1   127.0.0.1:{}", store.expect("a port"));
    assert!(table.contains(&row), "{table}");
    let json = machine.says(&["status", "-o", "json"], 0, &["\"ready\": true"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["pods"].as_array().map(Vec::len), Some(5));

    let logs = machine.good(&["logs", "tinykv-0"]);
    assert_eq!(logs.trim(), "tinykv-0 | tinykv-0 starts");
    let (code, unknown) = machine.run(&["logs", "tinykv-9"]);
    assert_eq!(code, 2, "{unknown}");
    assert!(unknown.contains("its pods are tinykv-0, vectorforge-0"), "{unknown}");

    let down = machine.good(&["down"]);
    assert!(down.contains("stack laptop stopped in"), "{down}");
    assert!(pods(&status).iter().all(|pod| !pod.is_alive()), "no pod outlives its stack");
    let stops: Vec<String> = machine.journal().into_iter().filter(|line| line.ends_with("stops")).collect();
    assert_eq!(stops.len(), 5, "{stops:?}");
    assert_eq!(stops[0], "modelhub-0 stops", "first what needs the others: {stops:?}");

    let (code, nothing) = machine.run(&["status"]);
    assert_eq!(code, 3, "{nothing}");
    assert!(machine.path("state/aistack/laptop/volumes/data-tinykv-0").exists(), "volumes survive");
    machine.good(&["down", "--purge", "--stack", "laptop"]);
    assert!(!machine.path("state/aistack/laptop").exists());
}

#[test]
fn config_files_lead_to_loopback() {
    let machine = Machine::new();
    machine.up();
    let config =
        fs::read_to_string(machine.path("state/aistack/laptop/pods/modelhub-0/config/modelhub.yaml"))
            .expect("written");
    let status = machine.status();
    let port = |pod: &str, name: &str| {
        status.pods.iter().find(|entry| entry.name == pod).and_then(|entry| entry.port(name)).expect("a port")
    };
    for (pod, name) in [
        ("tinykv-0", "client"),
        ("vectorforge-0", "grpc"),
        ("tinyinfer-chat", "http"),
        ("tinyinfer-embed", "http"),
    ] {
        let address = format!("http://127.0.0.1:{}", port(pod, name));
        assert!(config.contains(&address), "{pod} {address}\n{config}");
    }
    assert!(config.contains(&format!("listen: 127.0.0.1:{}", machine.port)), "{config}");
    assert!(!config.contains("0.0.0.0") && !config.contains("/var/lib/aistack"), "{config}");
}

#[test]
fn a_killed_supervisor_leaves_no_orphans() {
    let machine = Machine::new();
    machine.up();
    let status = machine.status();
    assert_eq!(pods(&status).iter().filter(|pod| pod.is_alive()).count(), 5);
    kill(Pid::from_raw(status.supervisor.pid), Signal::SIGKILL).expect("killed");
    wait_for("the pods end with their supervisor", || pods(&status).iter().all(|pod| !pod.is_alive()));
    let (code, text) = machine.run(&["status"]);
    assert_eq!(code, 3, "{text}");
    machine.up();
    machine.wait("Ready: the state of the dead one is no obstacle", StackStatus::all_ready);
}

#[test]
fn orphans_of_an_earlier_supervisor_are_ended() {
    let machine = Machine::new();
    machine.up();
    machine.good(&["down"]);
    let mut orphan = Command::new("sleep").arg("600").spawn().expect("sleep runs");
    let mut status = machine.status();
    status.pods[0].process = ProcessId::of(i32::try_from(orphan.id()).expect("a pid")).expect("it runs");
    machine.stack().write_status(&status).expect("written");
    let shown = machine.up();
    assert!(shown.contains("ended tinykv-0 (pid"), "{shown}");
    let ended = orphan.wait().expect("reaped");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
}

#[test]
fn a_crashed_pod_is_started_again_with_backoff() {
    let machine = Machine::new();
    machine.up();
    machine.tell("tinykv-0", "crash");
    kill(Pid::from_raw(machine.status().pods[0].process.pid), Signal::SIGKILL).expect("killed");
    let status = machine.wait("CrashLoopBackOff after its second end", |status| {
        status.pods[0].phase == Phase::CrashLoopBackOff && status.pods[0].restarts >= 1
    });
    let message = &status.pods[0].message;
    assert!(
        message.contains("exit code 7: told to crash") && message.contains("starts again in"),
        "{message}"
    );
    machine.says(&["status"], 4, &["NotReady 4/5", "CrashLoopBackOff"]);
    machine.untell("tinykv-0", "crash");
    machine.wait("Ready again", StackStatus::all_ready);
    machine.good(&["down"]);
}

#[test]
fn a_pod_that_never_comes_up_is_said_and_left_trying() {
    let machine = Machine::new();
    machine.tell("vectorforge-0", "crash");
    let (code, shown) = machine.run(&["up", "--detach", "--port", &machine.port.to_string()]);
    assert_eq!(code, 4, "{shown}");
    assert!(shown.contains("error: vectorforge-0 is not Ready: exit code 7: told to crash"), "{shown}");
    assert!(machine.stack().is_up());
    machine.untell("vectorforge-0", "crash");
    machine.wait("up after all", StackStatus::all_ready);
}

#[test]
fn a_pod_that_does_not_answer_is_not_ready() {
    let machine = Machine::new();
    machine.up();
    machine.tell("modelhub-0", "deaf");
    machine.wait("NotReady, with what it answers", |status| {
        let hub = status.pods.iter().find(|pod| pod.name == "modelhub-0").expect("a pod");
        hub.phase == Phase::NotReady && hub.message == "503 deaf"
    });
    machine.untell("modelhub-0", "deaf");
    machine.wait("Ready again", StackStatus::all_ready);
}

#[test]
fn a_taken_port_names_who_has_it() {
    let machine = Machine::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, machine.port)).expect("free a moment ago");
    let (code, text) = machine.run(&["up", "--detach", "--port", &machine.port.to_string()]);
    assert_eq!(code, 1, "{text}");
    let wanted = format!("port {} is taken by ", machine.port);
    assert!(text.contains(&wanted) && text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(text.contains("aistack up --port"), "{text}");
    drop(listener);
}

#[test]
fn what_is_missing_is_said_before_anything_starts() {
    let machine = Machine::new();
    fs::remove_file(machine.path("bin/modelhub")).expect("removed");
    let (code, text) = machine.run(&["up", "--detach", "--port", &machine.port.to_string()]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the program modelhub is neither beside aistack nor on the PATH"), "{text}");
    assert!(text.contains("build: cargo build --release -p modelhub"), "{text}");
    link(&machine.path("bin/tinykv"), &machine.path("bin/modelhub"));
    machine.manifest(&STACK.replace("chatty", "chaty"));
    let (code, text) = machine.run(&["up", "--detach", "--port", &machine.port.to_string()]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("model chaty is not in the model cache") && text.contains("did you mean chatty?"),
        "{text}"
    );
    assert!(machine.journal().is_empty(), "nothing was started");
}

#[test]
fn in_the_foreground_an_interrupt_stops_all_in_order() {
    let machine = Machine::new();
    let child = machine
        .command(&["up", "--port", &machine.port.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("aistack runs");
    wait_for("Ready", || machine.stack().status().is_ok_and(|status| status.all_ready()));
    let status = machine.status();
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("interrupted");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("stack laptop stopped"), "{}", text(&output));
    assert!(pods(&status).iter().all(|pod| !pod.is_alive()));
    let stops: Vec<String> = machine.journal().into_iter().filter(|line| line.ends_with("stops")).collect();
    assert_eq!(stops.first().map(String::as_str), Some("modelhub-0 stops"), "{stops:?}");
}

#[test]
fn a_second_interrupt_does_not_wait() {
    let machine = Machine::new();
    machine.tell("modelhub-0", "lazy");
    let child = machine
        .command(&["up", "--port", &machine.port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("aistack runs");
    wait_for("Ready", || machine.stack().status().is_ok_and(|status| status.all_ready()));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("interrupted");
    wait_for("it was asked to end", || machine.journal().contains(&"modelhub-0 stops".to_owned()));
    kill(pid, Signal::SIGINT).expect("interrupted again");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    // After its grace period of 60 s the others would be asked to end, each in its turn.
    let stops: Vec<String> = machine.journal().into_iter().filter(|line| line.ends_with("stops")).collect();
    assert_eq!(stops, ["modelhub-0 stops"], "nobody else is asked: all are ended");
}

#[test]
fn several_pods_share_a_service() {
    let machine = Machine::new();
    machine.manifest(&STACK.replace("model: chatty", "replicas: 2, model: chatty"));
    machine.up();
    let config =
        fs::read_to_string(machine.path("state/aistack/laptop/pods/modelhub-0/config/modelhub.yaml"))
            .expect("written");
    let address = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("endpoint: http://127.0.0.1:").map(str::to_owned));
    let ports: Vec<u16> = config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("endpoint: http://127.0.0.1:")?.parse().ok())
        .collect();
    assert!(address.is_some() && ports.len() == 3, "{config}");
    machine.wait("Ready", StackStatus::all_ready);
    // vectorforge, chat, embed, in the order of the config file.
    let mut answers: Vec<String> = (0..4).map(|_| get(ports[1])).collect();
    answers.sort();
    assert_eq!(answers, ["tinyinfer-chat-0", "tinyinfer-chat-0", "tinyinfer-chat-1", "tinyinfer-chat-1"]);
}

#[test]
fn members_keep_their_ports_and_their_number_as_long_as_their_data() {
    let machine = Machine::new();
    let three = STACK.replace("tinykv: {}", "tinykv: {replicas: 3}");
    machine.manifest(&three);
    machine.up();
    let ports = |status: &StackStatus| -> Vec<_> {
        let stores = status.pods.iter().filter(|pod| pod.owner == "KVCluster tinykv");
        stores.map(|pod| (pod.name.clone(), pod.port("peer").expect("a port"))).collect()
    };
    let first = machine.wait("Ready", StackStatus::all_ready);
    assert_eq!(first.pods.len(), 7);
    let table = machine.says(&["status"], 0, &["Ready 7/7", "KVCluster         tinykv        3/3"]);
    for pod in ["tinykv-0", "tinykv-1", "tinykv-2"] {
        assert!(table.lines().any(|line| line.contains("member") && line.contains(pod)), "{table}");
    }
    machine.tell("tinykv-1", "crash");
    kill(Pid::from_raw(first.pods[1].process.pid), Signal::SIGKILL).expect("killed");
    machine.wait("one of three is away", |status| status.pods[1].phase == Phase::CrashLoopBackOff);
    machine.good(&["down"]);

    // Two of three are enough for the hub to start, at the same ports.
    let (code, shown) =
        machine.run(&["up", "--detach", "--port", &machine.port.to_string(), "--timeout", "10m"]);
    assert_eq!(code, 4, "{shown}");
    let second = machine.wait("all but one", |status| status.ready() == 6);
    assert_eq!(ports(&second), ports(&first));
    machine.good(&["down"]);

    for replicas in [1, 5] {
        machine.manifest(&STACK.replace("tinykv: {}", &format!("tinykv: {{replicas: {replicas}}}")));
        let (code, text) = machine.run(&["up", "--detach", "--port", &machine.port.to_string()]);
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains("founded with 3 members") && text.contains("write replicas: 3 again"),
            "{text}"
        );
    }

    machine.untell("tinykv-1", "crash");
    machine.manifest(&three);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports(&first)[2].1)).expect("free");
    let (code, text) = machine.run(&["up", "--detach", "--port", &machine.port.to_string()]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the other members know tinykv-2 by it"), "{text}");
    drop(listener);
    machine.up();
    machine.good(&["down", "--purge", "--stack", "laptop"]);
    machine.manifest(STACK);
    machine.up();
    machine
        .wait("one, after the data of three is gone", |status| status.all_ready() && status.pods.len() == 5);
}

#[test]
fn keys_are_generated_once_and_kept() {
    let machine = Machine::new();
    machine.manifest(&STACK.replace("modelhub: {}", "modelhub: {requireKeys: true}"));
    machine.up();
    let path = machine.path("state/aistack/laptop/secrets/modelhub-admin/admin-key");
    let key = fs::read_to_string(&path).expect("a key");
    assert!(key.starts_with("sk-") && key.len() >= 40, "{} characters", key.len());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("a file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let config =
        fs::read_to_string(machine.path("state/aistack/laptop/pods/modelhub-0/config/modelhub.yaml"))
            .expect("written");
    assert!(config.contains(&format!("admin_key_file: {}", path.display())), "{config}");
    machine.good(&["down"]);
    machine.up();
    assert_eq!(fs::read_to_string(&path).expect("a key"), key);
}
