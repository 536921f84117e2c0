use super::table::FLAGS;
use super::*;
use aistack_chassis::{LogOutput, LogRotation};
use std::time::Duration;

fn of(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Flags, FlagError> {
    let owned = |text: &&str| (*text).to_owned();
    let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    read(arguments.iter().map(owned), pairs)
}

#[test]
fn etcds_flags_become_settings() {
    let table: &[(&[&str], Value)] = &[
        (&["--name", "a", "-data-dir=/d"], json!({"name": "a", "data_dir": "/d"})),
        (&["--listen-client-urls=http://localhost:1"], json!({"listen_client": "127.0.0.1:1"})),
        (
            &[
                "--listen-client-urls=http://127.0.0.1:1,https://10.0.0.1:2",
                "--listen-client-http-urls=https://[::1]:3",
            ],
            json!({"listen_client": "10.0.0.1:2", "more_listeners": [
                {"address": "[::1]:3", "in_the_clear": false}, {"address": "127.0.0.1:1", "in_the_clear": true}]}),
        ),
        (&["--listen-client-http-urls=", "--listen-peer-urls="], json!({})),
        (
            &["--listen-peer-urls=http://localhost:1,http://10.0.0.2:2"],
            json!({"listen_peer": "127.0.0.1:1", "more_peer_listeners": ["10.0.0.2:2"]}),
        ),
        (
            &["--initial-cluster", "a=http://x:1,b=http://y:2"],
            json!({"peers": ["a=http://x:1", "b=http://y:2"]}),
        ),
        (
            &["--heartbeat-interval=100", "--election-timeout", "1000"],
            json!({"raft": {"heartbeat_ms": 100, "election_ms": 1000}}),
        ),
        (&["--cert-file=c", "--key-file=k"], json!({"server": {"tls": {"cert_file": "c", "key_file": "k"}}})),
        (
            &[
                "--peer-cert-file=c",
                "--peer-trusted-ca-file=a",
                "--peer-client-cert-auth",
                "--peer-cert-allowed-cn=x,y",
            ],
            json!({"peer_tls": {"cert_file": "c", "ca_file": "a", "allowed_common_names": ["x", "y"]}}),
        ),
        (&["--trusted-ca-file=a", "--client-cert-auth"], json!({"server": {"tls": {"client_ca_file": "a"}}})),
        (
            &["--trusted-ca-file=a"],
            json!({"server": {"tls": {"client_ca_file": "a"}}, "auth": {"certificate_names": false}}),
        ),
        (&["--peer-auto-tls", "--auto-tls"], json!({"peer_tls": {"auto": true}, "auto_tls": true})),
        (&["--peer-auto-tls=false", "--peer-cert-file=", "--client-cert-auth=false"], json!({})),
        (&["--force-new-cluster"], json!({"force_new_cluster": true})),
        (&["--auto-tls", "--cipher-suites=A"], json!({"auto_tls": true})),
        (
            &["--cert-file=c", "--client-crl-file=r", "--peer-crl-file=p", "--cipher-suites=A,B"],
            json!({"server": {"tls": {"cert_file": "c", "client_crl_file": "r", "cipher_suites": ["A", "B"]}}, "peer_tls": {"crl_file": "p"}}),
        ),
        (
            &["--discovery-token=t", "--discovery-endpoints=a,b", "--discovery-insecure-transport=false"],
            json!({"discovery": {"token": "t", "endpoints": ["a", "b"], "insecure_transport": false}}),
        ),
        (&["--warning-unary-request-duration=1µs"], json!({"slow_request_us": 1})),
        (&["--quota-backend-bytes=0", "--auth-token=simple"], json!({})),
        (&["--max-concurrent-streams=4294967295"], json!({})),
        (&["--watch-progress-notify-interval=1m30s"], json!({"watch_progress_interval_ms": 90_000})),
        (&["--watch-progress-notify-interval=0s"], json!({})),
        (
            &["--auth-token=jwt,sign-method=RS256,priv-key=p,ttl=1.5s"],
            json!({"auth": {"jwt": {"sign_method": "RS256", "private_key_file": "p", "ttl_ms": 1500}}}),
        ),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention", "1000"],
            json!({"auto_compaction": {"mode": "revision", "retention": "1000"}}),
        ),
        (
            &["--pre-vote=false", "--strict-reconfig-check=true", "--logger=zap", "--listen-metrics-urls="],
            json!({}),
        ),
    ];
    settle(table);
}

fn settle(table: &[(&[&str], Value)]) {
    for (arguments, expected) in table {
        let flags = of(arguments, &[]).expect("etcd's flags");
        assert_eq!(Value::Object(flags.settings), *expected, "{arguments:?}");
        assert!(flags.rest.is_empty(), "{arguments:?}");
    }
}

#[test]
fn flags_of_unit_files_become_settings() {
    let table: &[(&[&str], Value)] = &[
        (
            &["--listen-metrics-urls=http://127.0.0.1:1,https://10.0.0.1:2"],
            json!({"metrics_listeners": [
                {"address": "127.0.0.1:1", "in_the_clear": true}, {"address": "10.0.0.1:2", "in_the_clear": false}]}),
        ),
        (&["--tls-min-version=TLS1.3", "--tls-max-version="], json!({"tls_min_version": "1.3"})),
        (
            &["--tls-min-version=TLS1.2", "--tls-max-version=TLS1.2"],
            json!({"tls_min_version": "1.2", "tls_max_version": "1.2"}),
        ),
        (&["--enable-grpc-gateway=false"], json!({"http": {"json_gateway": false}})),
        (
            &["--cors=http://a,http://b", "--host-whitelist=c"],
            json!({"http": {"cors_origins": ["http://a", "http://b"], "allowed_hosts": ["c"]}}),
        ),
        (
            &["--cert-file=c", "--client-cert-allowed-hostname=a,b"],
            json!({"server": {"tls": {"cert_file": "c", "allowed_client_hosts": ["a", "b"]}}}),
        ),
        (
            &["--wal-dir=/w", "--socket-reuse-port", "--socket-reuse-address"],
            json!({"log_dir": "/w", "reuse_port": true}),
        ),
        (&["--metrics=extensive"], json!({"extensive_metrics": true})),
        (&["--metrics=basic"], json!({})),
        (
            &[
                "--discovery-insecure-transport=true",
                "--discovery-request-timeout=5s",
                "--discovery-dial-timeout=2s",
                "--discovery-fallback=exit",
            ],
            json!({}),
        ),
        (&["--enable-distributed-tracing=false", "--distributed-tracing-sampling-rate=5"], json!({})),
        (
            &[
                "--enable-distributed-tracing",
                "--distributed-tracing-address=otel:4317",
                "--distributed-tracing-instance-id=i",
                "--distributed-tracing-sampling-rate=250000",
            ],
            json!({"server": {"telemetry": {
                "otlp_endpoint": "http://otel:4317", "sample_ratio": 0.25, "service_name": "etcd", "instance": "i"}}}),
        ),
    ];
    settle(table);
}

#[test]
fn flags_go_before_variables_and_what_is_not_etcds_stays() {
    let flags = of(
        &["check", "--name=a", "--print-config"],
        &[("ETCD_NAME", "b"), ("ETCD_NO_SUCH", "x"), ("PATH", "y")],
    );
    let flags = flags.expect("etcd's flags");
    assert_eq!(flags.rest, ["check", "--print-config"]);
    assert_eq!(Value::Object(flags.settings), json!({"name": "a"}));
    assert!(flags.warnings.iter().any(|warning| warning.contains("ETCD_NO_SUCH")), "{:?}", flags.warnings);
    let needless = of(&["--max-wals=5"], &[]).expect("harmless");
    assert!(needless.warnings[0].contains("--max-wals"), "{:?}", needless.warnings);
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    for (argument, part) in [
        ("--peer-client-cert-auth", "needs --peer-trusted-ca-file"),
        ("--client-cert-auth=true", "needs --trusted-ca-file"),
        ("--peer-auto-tls=maybe", "true or false"),
        ("--discovery=http://x", "--discovery-endpoints"),
        ("--listen-client-urls=http://a:1,http://b:2", "no address"),
        ("--listen-metrics-urls=http://a:1", "no address"),
        ("--tls-min-version=TLS1.1", "TLS1.2 or TLS1.3"),
        ("--metrics=much", "basic or extensive"),
        ("--corrupt-check-time=1m", "hashkv --cluster"),
        ("--discovery-srv=example.com", "--initial-cluster"),
        ("--log-outputs=default,/a", "not supported"),
        ("--enable-log-rotation", "single file path"),
        ("--auth-token=jwt", "sign-method"),
        ("--name", "needs a value"),
    ] {
        let error = of(&[argument], &[]).expect_err(argument).to_string();
        assert!(error.contains(part), "{argument}: {error}");
    }
}

#[test]
fn etcds_file_stands_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("etcd.yaml");
    let text = "name: a\nheartbeat-interval: 200\nclient-transport-security:\n  cert-file: c\n  auto-tls: false\n\
        peer-transport-security:\n  auto-tls: true\n  allowed-cn: x\n";
    std::fs::write(&path, text).expect("written");
    let flags = of(&["--name=b", &format!("--config-file={}", path.display())], &[]).expect("etcd's file");
    let expected = json!({"name": "a", "raft": {"heartbeat_ms": 200}, "server": {"tls": {"cert_file": "c"}},
            "peer_tls": {"auto": true, "allowed_common_names": ["x"]}});
    assert_eq!(Value::Object(flags.settings), expected);
    assert!(flags.warnings[0].contains("name"), "{:?}", flags.warnings);
}

#[test]
fn logs_go_where_etcds_flags_send_them() {
    let outputs = |arguments: &[&str]| of(arguments, &[]).map(|flags| flags.log_outputs);
    let file = |path: &str| LogOutput::File(path.into());
    let table: &[(&[&str], Vec<LogOutput>)] = &[
        (&[], vec![]),
        (&["--log-outputs=default"], vec![LogOutput::Stderr]),
        (&["--log-outputs=stdout,/var/log/a.log"], vec![LogOutput::Stdout, file("/var/log/a.log")]),
    ];
    for (arguments, expected) in table {
        assert_eq!(outputs(arguments).expect("etcd's flags").to, *expected, "{arguments:?}");
    }
    let json =
        r#"--log-rotation-config-json={"maxsize": 1, "maxage": 2, "maxbackups": 3, "localtime": false}"#;
    let rotating = outputs(&["--log-outputs=/a", "--enable-log-rotation", json]).expect("etcd's flags");
    let max_age = Some(Duration::from_hours(48));
    let rotation = LogRotation { max_bytes: 1 << 20, max_age, max_backups: Some(3) };
    assert_eq!(rotating, LogOutputs { to: vec![file("/a")], rotation: Some(rotation) });
    for (json, part) in
        [(r#"{"compress": true}"#, "logrotate"), ("{", "improperly"), (r#"{"localtime": true}"#, "UTC")]
    {
        let json = format!("--log-rotation-config-json={json}");
        let error = outputs(&["--log-outputs=/a", "--enable-log-rotation", &json]).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(of(&["--log-format=console"], &[]).expect("a form").log_format.as_deref(), Some("console"));
}

#[test]
fn the_page_names_every_flag_that_is_refused() {
    let page = include_str!("../../../../docs/tinykv.md");
    let (_, after) = page.split_once("- **Not there**").expect("the list");
    let (list, _) = after.split_once("\n- **").expect("its end");
    for (flag, _) in FLAGS.iter().filter(|(_, meaning)| matches!(meaning, Meaning::Only(..))) {
        assert!(
            list.contains(&format!("`--{flag}")),
            "--{flag} is refused, and docs/tinykv.md does not say so"
        );
    }
}
