//! Stories told through the crate `etcd-client`, and through the project's own contract, against
//! the real binary.

mod ports;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, LeaseStatus,
    PutOptions, Txn, TxnOp, WatchFilterType, WatchOptions,
};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use wire::platform::v1 as platform;
use wire::platform::v1::kv_service_client::KvServiceClient;

use ports::port;

struct Server {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, port: u16, settings: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinykv"));
    command.arg("--data-dir").arg(dir.join("data"));
    command.arg("--listen-client-urls").arg(format!("http://127.0.0.1:{port}"));
    command.args(["--admin-listen", "127.0.0.1:0", "--log-level", "warn"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.stdout(Stdio::null()).spawn().expect("the binary starts")
}

async fn connect(port: u16) -> Client {
    let patience = async {
        loop {
            if let Ok(mut client) = Client::connect([format!("127.0.0.1:{port}")], None).await
                && client.get("anything", None).await.is_ok()
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), patience).await.expect("the server answers")
}

async fn server(settings: &[&str]) -> (Server, Client) {
    let dir = tempfile::tempdir().expect("dir");
    let port = port();
    let child = spawn(dir.path(), port, settings);
    let server = Server { child, port, dir };
    let client = connect(port).await;
    (server, client)
}

fn message(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => format!("{:?}: {}", status.code(), status.message()),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn keys_are_written_read_and_deleted() {
    let (_server, mut client) = server(&[]).await;
    let first = client
        .put("a", "1", None)
        .await
        .expect("written")
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision);
    assert_eq!(first, 2);
    let prev = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await.expect("written");
    assert_eq!(prev.prev_key().map(etcd_client::KeyValue::value), Some(&b"1"[..]));
    client.put("b", "3", None).await.expect("written");
    let page = client.get("", Some(GetOptions::new().with_all_keys().with_limit(1))).await.expect("read");
    assert_eq!((page.kvs().len(), page.count(), page.more()), (1, 2, true));
    let past = client.get("a", Some(GetOptions::new().with_revision(2))).await.expect("read");
    assert_eq!(past.kvs()[0].value(), b"1");
    let future = client.get("a", Some(GetOptions::new().with_revision(99))).await.expect_err("not yet");
    assert_eq!(message(&future), "OutOfRange: etcdserver: mvcc: required revision is a future revision");
    let deleted =
        client.delete("", Some(DeleteOptions::new().with_all_keys().with_prev_key())).await.expect("deleted");
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (2, 2));
    client.compact(3, None).await.expect("compacted");
    let gone = client.get("a", Some(GetOptions::new().with_revision(2))).await.expect_err("compacted");
    assert_eq!(message(&gone), "OutOfRange: etcdserver: mvcc: required revision has been compacted");
    let empty = client.put("", "x", None).await.expect_err("no key");
    assert_eq!(message(&empty), "InvalidArgument: etcdserver: key is not provided");
    let large = client.put("large", vec![b'x'; 1_600_000], None).await.expect_err("too large");
    assert_eq!(message(&large), "InvalidArgument: etcdserver: request is too large");
    let status = client.status().await.expect("status");
    assert!(status.version().starts_with("3.7."));
}

#[tokio::test]
async fn transactions_are_checked_and_atomic() {
    let (_server, mut client) = server(&[]).await;
    let create = || {
        Txn::new()
            .when([Compare::create_revision("k", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("k", "mine", None)])
            .or_else([TxnOp::get("k", None)])
    };
    assert!(client.txn(create()).await.expect("applied").succeeded());
    assert!(!client.txn(create()).await.expect("applied").succeeded());
    let twice = Txn::new().and_then([TxnOp::put("k", "1", None), TxnOp::put("k", "2", None)]);
    let error = client.txn(twice).await.expect_err("a key twice");
    assert_eq!(message(&error), "InvalidArgument: etcdserver: duplicate key given in txn request");
    let many: Vec<_> = (0..129).map(|n| TxnOp::put(format!("k{n}"), "v", None)).collect();
    let error = client.txn(Txn::new().and_then(many)).await.expect_err("too many");
    assert_eq!(message(&error), "InvalidArgument: etcdserver: too many operations in txn request");
}

#[tokio::test]
async fn watchers_see_the_past_the_present_and_only_what_they_want() {
    let (_server, mut client) = server(&[]).await;
    client.put("w/a", "1", None).await.expect("written");
    client.put("w/a", "2", None).await.expect("written");
    let options = WatchOptions::new().with_prefix().with_start_revision(2).with_prev_key();
    let mut all = client.watch("w/", Some(options)).await.expect("watches");
    let filters = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
    let mut deletions = client.watch("w/", Some(filters)).await.expect("watches");
    client.delete("w/a", None).await.expect("deleted");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = all.message().await.expect("streams").expect("goes on");
        for event in response.events() {
            let prev = event.prev_kv().map(|kv| String::from_utf8_lossy(kv.value()).into_owned());
            seen.push((event.event_type(), event.kv().map(etcd_client::KeyValue::mod_revision), prev));
        }
    }
    let expected = [
        (EventType::Put, Some(2), None),
        (EventType::Put, Some(3), Some("1".to_owned())),
        (EventType::Delete, Some(4), Some("2".to_owned())),
    ];
    assert_eq!(seen, expected);
    let only = loop {
        let response = deletions.message().await.expect("streams").expect("goes on");
        if !response.events().is_empty() {
            break response;
        }
    };
    assert_eq!(only.events()[0].event_type(), EventType::Delete);

    client.compact(4, None).await.expect("compacted");
    let options = WatchOptions::new().with_start_revision(2);
    let mut late = client.watch("w/a", Some(options)).await.expect("watches");
    let refused = loop {
        let response = late.message().await.expect("streams").expect("goes on");
        if response.canceled() {
            break response;
        }
    };
    assert_eq!(refused.compact_revision(), 4);
    // The compacted revision itself is a legal start, and a deletion there is still told.
    let options = WatchOptions::new().with_start_revision(4);
    let mut edge = client.watch("w/a", Some(options)).await.expect("watches");
    let told = loop {
        let response = edge.message().await.expect("streams").expect("goes on");
        if !response.events().is_empty() {
            break response;
        }
    };
    assert_eq!(told.events()[0].event_type(), EventType::Delete);
}

#[tokio::test]
async fn a_lease_lives_while_it_is_renewed_and_takes_its_keys_along() {
    let (_server, mut client) = server(&[]).await;
    let kept = client.lease_grant(600, None).await.expect("granted").id();
    let (mut keeper, mut answers) = client.lease_keep_alive(kept).await.expect("keeps");
    keeper.keep_alive().await.expect("sent");
    assert_eq!(answers.message().await.expect("streams").expect("answered").ttl(), 600);

    let mut watch = client.watch("leased", Some(WatchOptions::new())).await.expect("watches");
    let with_kept = Some(PutOptions::new().with_lease(kept));
    client.put("leased", "v", with_kept).await.expect("written");
    client.lease_revoke(kept).await.expect("revoked");
    until_deleted(&mut watch).await;
    keeper.keep_alive().await.expect("sent");
    let dead = answers.message().await.expect("streams").expect("answered");
    assert_eq!(dead.ttl(), 0, "a dead lease is no error");

    let brief = client.lease_grant(1, None).await.expect("granted");
    assert_eq!(brief.ttl(), 2, "never shorter than one and a half elections");
    let mut watch = client.watch("brief", Some(WatchOptions::new())).await.expect("watches");
    let with_brief = Some(PutOptions::new().with_lease(brief.id()));
    match client.put("brief", "v", with_brief).await {
        Ok(_) => until_deleted(&mut watch).await,
        // A machine that stood still for two seconds in between.
        Err(error) => assert_eq!(message(&error), "NotFound: etcdserver: requested lease not found"),
    }
    let left = client.lease_time_to_live(brief.id(), None).await.expect("answered");
    assert_eq!(left.ttl(), -1);
    let error = client.lease_revoke(brief.id()).await.expect_err("gone");
    assert_eq!(message(&error), "NotFound: etcdserver: requested lease not found");
}

/// Reads on until a key was deleted.
async fn until_deleted(watch: &mut etcd_client::WatchStream) {
    let patience = async {
        loop {
            let response = watch.message().await.expect("streams").expect("goes on");
            if response.events().iter().any(|event| event.event_type() == EventType::Delete) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(2), patience).await.expect("the key goes with its lease");
}

#[tokio::test]
async fn without_space_only_what_shrinks_goes_on() {
    let (_server, mut client) = server(&["quota_bytes=100000"]).await;
    let mut last = 0;
    let error = loop {
        match client.put("k", vec![b'x'; 10_000], None).await {
            Ok(written) => last = written.header().map_or(0, etcd_client::ResponseHeader::revision),
            Err(error) => break error,
        }
    };
    assert_eq!(message(&error), "ResourceExhausted: etcdserver: mvcc: database space exceeded");
    client.compact(last, None).await.expect("compaction frees space");
    client.put("k", "small", None).await.expect_err("the alarm stands until somebody clears it");
    let alarm = etcd_client::AlarmType::Nospace;
    client.alarm(etcd_client::AlarmAction::Deactivate, alarm, None).await.expect("cleared");
    client.put("k", "small", None).await.expect("written");
}

/// A client that has proved who it is.
async fn as_user(port: u16, name: &str) -> Client {
    let options = etcd_client::ConnectOptions::new().with_user(name, format!("{name}'s password"));
    Client::connect([format!("127.0.0.1:{port}")], Some(options)).await.expect("the password is right")
}

#[tokio::test]
async fn users_do_what_their_roles_permit_and_nothing_else() {
    let (mut server, mut client) = server(&["auth.bcrypt_cost=4"]).await;
    let error = client.auth_enable().await.expect_err("nobody would be in charge");
    assert_eq!(message(&error), "FailedPrecondition: etcdserver: root user does not exist");
    for name in ["root", "ann"] {
        client.user_add(name, format!("{name}'s password"), None).await.expect("added");
    }
    client.user_grant_role("root", "root").await.expect("granted");
    client.role_add("staff").await.expect("added");
    let mine = etcd_client::Permission::read_write("a/").with_prefix();
    client.role_grant_permission("staff", mine).await.expect("granted");
    client.user_grant_role("ann", "staff").await.expect("granted");
    client.put("secret", "s", None).await.expect("written");
    client.auth_enable().await.expect("enabled");

    let nobody = client.get("a/1", None).await.expect_err("who asks?");
    assert_eq!(message(&nobody), "InvalidArgument: etcdserver: user name is empty");
    let wrong = etcd_client::ConnectOptions::new().with_user("ann", "a guess");
    let error = Client::connect([format!("127.0.0.1:{}", server.port)], Some(wrong)).await.map(|_| ());
    let error = error.expect_err("a wrong password");
    let text = "InvalidArgument: etcdserver: authentication failed, invalid user ID or password";
    assert_eq!(message(&error), text);

    let mut ann = as_user(server.port, "ann").await;
    let denied = "PermissionDenied: etcdserver: permission denied";
    ann.put("a/1", "1", None).await.expect("permitted");
    assert_eq!(ann.get("a/1", None).await.expect("permitted").kvs().len(), 1);
    let everything = GetOptions::new().with_all_keys();
    assert_eq!(message(&ann.get("", Some(everything)).await.expect_err("not hers")), denied);
    assert_eq!(message(&ann.put("secret", "mine", None).await.expect_err("not hers")), denied);
    let guess = Txn::new().when([Compare::value("secret", CompareOp::Equal, "s")]);
    assert_eq!(message(&ann.txn(guess).await.expect_err("not hers")), denied);
    assert_eq!(message(&ann.user_add("eve", "x", None).await.expect_err("not hers")), denied);
    assert_eq!(message(&ann.defragment().await.expect_err("not hers")), denied);
    assert_eq!(ann.user_get("ann").await.expect("herself").roles(), ["staff"]);
    assert_eq!(message(&ann.user_get("root").await.expect_err("somebody else")), denied);
    let open_end = WatchOptions::new().with_from_key();
    let mut refused = ann.watch("a/", Some(open_end)).await.expect("streams");
    let told = refused.message().await.expect("streams").expect("answered");
    assert!(told.canceled() && told.cancel_reason().ends_with("etcdserver: permission denied"), "{told:?}");

    // Users and roles outlive the process, tokens do not.
    let _ = server.child.kill();
    let _ = server.child.wait();
    server.child = spawn(server.dir.path(), server.port, &["auth.bcrypt_cost=4"]);
    let mut root = loop {
        let options = etcd_client::ConnectOptions::new().with_user("root", "root's password");
        match Client::connect([format!("127.0.0.1:{}", server.port)], Some(options)).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(root.get("secret", None).await.expect("permitted").kvs().len(), 1);
    root.role_revoke_permission(
        "staff",
        "a/",
        Some(etcd_client::RoleRevokePermissionOptions::new().with_prefix()),
    )
    .await
    .expect("revoked");
    let mut ann = as_user(server.port, "ann").await;
    assert_eq!(message(&ann.get("a/1", None).await.expect_err("no longer hers")), denied);
    root.auth_disable().await.expect("disabled");
    client.get("a/1", None).await.expect("everybody may");
}

#[tokio::test]
async fn a_lock_passes_from_one_holder_to_the_next() {
    let (server, mut client) = server(&[]).await;
    let first = client.lock("door", None).await.expect("nobody holds it");
    let mut other = connect(server.port).await;
    let waiting = tokio::spawn(async move { other.lock("door", None).await });
    // The other one stands in line once its key is there.
    while client.get("door/", Some(GetOptions::new().with_prefix())).await.expect("read").kvs().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!waiting.is_finished());
    client.unlock(first.key()).await.expect("given back");
    let second = waiting.await.expect("no panic").expect("it is the next one's");
    assert_ne!(first.key(), second.key());
    // Whoever stops waiting leaves the line.
    let mut third = connect(server.port).await;
    let waiting = tokio::spawn(async move { third.lock("door", None).await });
    while client.get("door/", Some(GetOptions::new().with_prefix())).await.expect("read").kvs().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waiting.abort();
    while client.get("door/", Some(GetOptions::new().with_prefix())).await.expect("read").kvs().len() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let options = etcd_client::LockOptions::new().with_lease(4711);
    let error = client.lock("door", Some(options)).await.expect_err("no such lease");
    assert!(message(&error).contains("etcdserver: requested lease not found"), "{error}");
}

#[tokio::test]
async fn an_election_has_one_leader_whom_all_observe() {
    let (_server, mut client) = server(&[]).await;
    let error = client.leader("crown").await.expect_err("nobody stood");
    assert_eq!(message(&error), "Unknown: election: no leader");
    let mut observed = client.observe("crown").await.expect("observes");
    let lease = client.lease_grant(3_600, None).await.expect("granted").id();
    let campaign = client.campaign("crown", "one", lease).await.expect("elected");
    let leader = campaign.leader().expect("a key").clone();
    let told = async |stream: &mut etcd_client::ObserveStream| {
        let response = stream.message().await.expect("streams").expect("goes on");
        response.kv().map(|kv| String::from_utf8_lossy(kv.value()).into_owned())
    };
    assert_eq!(told(&mut observed).await.as_deref(), Some("one"));
    let options = etcd_client::ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("two", Some(options)).await.expect("proclaimed");
    assert_eq!(told(&mut observed).await.as_deref(), Some("two"));
    let options = etcd_client::ResignOptions::new().with_leader(leader.clone());
    client.resign(Some(options)).await.expect("resigned");
    let options = etcd_client::ProclaimOptions::new().with_leader(leader);
    let error = client.proclaim("three", Some(options)).await.expect_err("it leads no more");
    assert_eq!(message(&error), "Unknown: election: not leader");
    let next = client.lease_grant(3_600, None).await.expect("granted").id();
    client.campaign("crown", "four", next).await.expect("elected");
    assert_eq!(told(&mut observed).await.as_deref(), Some("four"));
}

#[tokio::test]
async fn the_projects_own_contract_is_the_same_store() {
    let (server, mut client) = server(&[]).await;
    let mut own =
        KvServiceClient::connect(format!("http://127.0.0.1:{}", server.port)).await.expect("connects");
    let watch = platform::WatchRequest { key: "p/".into(), prefix: true, start_revision: 0 };
    let mut events = own.watch(watch).await.expect("watches").into_inner();
    let put = platform::PutRequest { key: "p/a".into(), value: "1".into(), ttl_seconds: 0 };
    let revision = own.put(put).await.expect("written").into_inner().revision;
    assert_eq!(client.get("p/a", None).await.expect("read").kvs()[0].value(), b"1");
    let get = platform::GetRequest { key: "p/a".into(), revision: 0 };
    let found = own.get(get).await.expect("read").into_inner();
    assert_eq!((found.kv.map(|kv| kv.mod_revision), found.revision), (Some(revision), revision));
    let delete = platform::DeleteRequest { key: "p/a".into() };
    assert!(own.delete(delete.clone()).await.expect("deleted").into_inner().deleted);
    assert!(!own.delete(delete).await.expect("nothing there").into_inner().deleted);
    let kinds = [platform::watch_event::Kind::Put, platform::watch_event::Kind::Delete];
    for kind in kinds {
        assert_eq!(events.message().await.expect("streams").expect("goes on").kind(), kind);
    }
    let nameless = own.get(platform::GetRequest::default()).await.expect_err("no key");
    assert_eq!(nameless.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_is_refused_stops_no_leases_clock() {
    let (server, mut client) = server(&["auth.bcrypt_cost=4"]).await;
    let lease = client.lease_grant(600, None).await.expect("granted").id();
    client.put("root's", "v", Some(PutOptions::new().with_lease(lease))).await.expect("written");
    for user in ["root", "ann"] {
        client.user_add(user, user, None).await.expect("added");
    }
    client.user_grant_role("root", "root").await.expect("granted");
    client.auth_enable().await.expect("enabled");
    let by = |name: &str| ConnectOptions::new().with_user(name, name);
    let endpoints = [format!("127.0.0.1:{}", server.port)];
    let mut ann = Client::connect(&endpoints, Some(by("ann"))).await.expect("connected");
    let refused = ann.lease_revoke(lease).await.expect_err("it is of root's key");
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    let mut root = Client::connect(&endpoints, Some(by("root"))).await.expect("connected");
    let leases = root.leases().await.expect("listed");
    assert_eq!(leases.leases().iter().map(LeaseStatus::id).collect::<Vec<_>>(), [lease]);
    let left = root.lease_time_to_live(lease, None).await.expect("told").ttl();
    assert!(left > 0, "its time goes on: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_puts_load_on_and_cleans_up() {
    let (server, mut client) = server(&["auth.bcrypt_cost=4"]).await;
    client.put("bench0", "not the bench's", None).await.expect("written");
    client.user_add("root", "secret", None).await.expect("added");
    client.user_grant_role("root", "root").await.expect("granted");
    client.auth_enable().await.expect("enabled");
    let bench = async |arguments: &str, user: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tinykv"));
        command.arg("bench").args(arguments.split(' ')).args(["--json", "--timeout", "600", "--user", user]);
        command.args(["--endpoints", &format!("127.0.0.1:{}", server.port)]);
        let done = command.output().await.expect("it runs");
        let said = serde_json::from_slice::<serde_json::Value>(&done.stdout).unwrap_or_default();
        (done.status.success(), said, String::from_utf8_lossy(&done.stderr).into_owned())
    };
    for (arguments, count) in [
        ("put --total 300 --clients 7 --keys 40 --value-size 10000", 300),
        ("range --fill --keys 20 --limit 10 --total 100 --serializable", 100),
        ("txn --total 50 --operations 3 --keys 2 --connections 1", 50),
        ("lease --total 200 --clients 3", 200),
        ("watch --total 20 --clients 2 --watchers 7 --streams 3 --rate 1000", 20),
        ("put --seconds 1 --rate 20 --clean", 20),
    ] {
        let (succeeded, said, errors) = bench(arguments, "root:secret").await;
        assert!(succeeded, "{arguments}: {said} {errors}");
        assert_eq!(said["requests"]["count"], count, "{arguments}: {said}");
        if arguments.starts_with("watch") {
            assert_eq!(said["events"]["count"], 140, "every watcher hears of every put: {said}");
        }
    }
    let (succeeded, _, errors) = bench("put", "root:wrong").await;
    assert!(!succeeded && errors.contains("authentication failed"), "{errors}");
    let options = etcd_client::ConnectOptions::new().with_user("root", "secret");
    let mut root =
        Client::connect([format!("127.0.0.1:{}", server.port)], Some(options)).await.expect("root");
    let left = root.get("bench", Some(GetOptions::new().with_prefix())).await.expect("read");
    assert_eq!(left.kvs().iter().map(etcd_client::KeyValue::key).collect::<Vec<_>>(), [b"bench0"]);
    assert!(
        root.leases().await.expect("answered").leases().is_empty(),
        "the bench's leases are gone with it"
    );
}
