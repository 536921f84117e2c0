//! Stories of `tinykv check` and of downgrades, against the real binary.

mod ports;

use etcd_client::Client;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tonic::transport::Channel;
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::downgrade_request::DowngradeAction::{Cancel, Enable, Validate};
use wire::etcd::etcdserverpb::maintenance_client::MaintenanceClient;

use ports::address;

/// A cluster of one.
struct Server {
    client: String,
    dir: PathBuf,
    child: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    fn new(dir: &Path) -> Self {
        Self { client: address(), dir: dir.join("data"), child: None }
    }

    fn start(&mut self, more: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinykv"));
        command.arg("--data-dir").arg(&self.dir).arg("--listen-client-urls");
        command.arg(format!("http://{}", self.client));
        command.args(["--admin-listen", "127.0.0.1:0", "--log-level", "warn"]).args(more);
        self.child = Some(command.stdout(Stdio::null()).spawn().expect("the binary starts"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn stop(&mut self) {
        let mut child = self.child.take().expect("it was started");
        let told = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
        assert!(told.success() && child.wait().expect("it ends").success());
    }

    async fn connect(&self) -> Client {
        loop {
            if let Ok(mut client) = Client::connect([self.client.as_str()], None).await
                && client.status().await.is_ok()
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn maintenance(&self) -> MaintenanceClient<Channel> {
        self.connect().await;
        MaintenanceClient::connect(format!("http://{}", self.client)).await.expect("it answers")
    }

    fn check(&self) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinykv"));
        let ended =
            command.arg("check").arg("--data-dir").arg(&self.dir).output().expect("the binary starts");
        let said = [ended.stdout, ended.stderr].concat();
        (ended.status.success(), String::from_utf8(said).expect("text"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_refused_while_a_server_runs_and_counts_what_the_log_holds_beyond_the_state() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Server::new(dir.path());
    server.start(&[]);
    let mut client = server.connect().await;
    for key in ["a", "b", "c"] {
        client.put(key, "v", None).await.expect("written");
    }
    client.delete("b", None).await.expect("deleted");
    let (sound, said) = server.check();
    assert!(!sound && said.contains("a server is running on the data directory"), "{said}");
    server.kill();
    let (sound, said) = server.check();
    assert!(sound && said.contains("state: 0 keys, 0 versions, revision 1"), "{said}");
    assert!(said.contains("with which there are 2 keys at revision 5"), "{said}");
    server.start(&[]);
    server.connect().await;
    server.stop();
    let (sound, said) = server.check();
    assert!(sound && said.contains("state: 2 keys, 4 versions, revision 5"), "{said}");
    assert!(!said.contains("goes on"), "{said}");
}

async fn downgrade(
    client: &mut MaintenanceClient<Channel>,
    action: pb::downgrade_request::DowngradeAction,
    version: &str,
) -> Result<String, (tonic::Code, String)> {
    let request = pb::DowngradeRequest { action: action.into(), version: version.to_owned() };
    match client.downgrade(request).await {
        Ok(answer) => Ok(answer.into_inner().version),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_outlives_a_restart_and_can_be_cancelled() {
    use tonic::Code::{FailedPrecondition, InvalidArgument};
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Server::new(dir.path());
    server.start(&[]);
    let mut client = server.maintenance().await;
    let refused = |code, text: &str| Err((code, format!("etcdserver: {text}")));
    let invalid = refused(InvalidArgument, "invalid downgrade target version");
    // What etcd 3.7.3 answered to the same, in this order.
    assert_eq!(downgrade(&mut client, Cancel, "").await, Ok("3.7".to_owned()));
    assert_eq!(downgrade(&mut client, Validate, "3.6").await, Ok("3.7".to_owned()));
    assert_eq!(downgrade(&mut client, Validate, "3.7").await, invalid);
    let malformed = refused(InvalidArgument, "wrong downgrade target version format");
    assert_eq!(downgrade(&mut client, Validate, "3").await, malformed);
    assert_eq!(downgrade(&mut client, Enable, "3.6.0").await, Ok("3.7".to_owned()));
    for end in [Server::kill as fn(&mut Server), Server::stop] {
        end(&mut server);
        server.start(&[]);
        client = server.maintenance().await;
        let status = client.status(pb::StatusRequest {}).await.expect("answered").into_inner();
        let info = status.downgrade_info.expect("always there");
        assert_eq!((info.enabled, info.target_version.as_str()), (true, "3.6.0"));
        assert_eq!((status.storage_version.as_str(), status.version.as_str()), ("3.6.0", "3.7.3"));
    }
    assert_eq!(downgrade(&mut client, Enable, "3.6").await, invalid);
    let busy = refused(FailedPrecondition, "cluster has a downgrade job in progress");
    assert_eq!(downgrade(&mut client, Enable, "3.5").await, busy);
    let mut snapshot = client.snapshot(pb::SnapshotRequest {}).await.expect("answered").into_inner();
    assert_eq!(snapshot.message().await.expect("sent").expect("a part").version, "3.6.0");
    assert_eq!(downgrade(&mut client, Cancel, "").await, Ok("3.6".to_owned()));
    let status = client.status(pb::StatusRequest {}).await.expect("answered").into_inner();
    assert_eq!(status.storage_version, "3.7.0");
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
    assert_eq!(downgrade(&mut client, Validate, "3.6").await, Ok("3.7".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_refused_by_the_code_and_in_the_words_of_etcd() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Server::new(dir.path());
    server.start(&[]);
    let mut client = server.connect().await;
    // Beyond what is stored, and beyond what gRPC takes: 1.5 MiB and half a MiB more.
    let table = [
        (1_572_860, "InvalidArgument: etcdserver: request is too large".to_owned()),
        (
            2_200_000,
            "ResourceExhausted: grpc: received message larger than max (2200008 vs. 2097152)".to_owned(),
        ),
    ];
    for (size, expected) in table {
        let refused = client.put("k", vec![0; size], None).await.expect_err("too large");
        let etcd_client::Error::GRpcStatus(status) = refused else { panic!("{refused}") };
        assert_eq!(format!("{:?}: {}", status.code(), status.message()), expected);
    }
}
