//! Stories of members that come and go, told through the crate `etcd-client` against the real
//! binary.

mod ports;

use etcd_client::{Client, ConnectOptions, Error, GetOptions, MemberAddOptions, WatchOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ports::address;

/// For what must happen, however slow and busy the machine is.
const PATIENCE: Duration = Duration::from_mins(5);

/// One member's process and what it is started with.
struct Member {
    name: String,
    client: String,
    peer: String,
    admin: String,
    dir: PathBuf,
    settings: &'static [&'static str],
    child: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    fn new(dir: &Path, name: &str) -> Self {
        let (client, peer, admin) = (address(), address(), address());
        Self { name: name.to_owned(), client, peer, admin, dir: dir.join(name), settings: &[], child: None }
    }

    fn url(&self) -> String {
        format!("http://{}", self.peer)
    }

    fn listed(&self) -> String {
        format!("{}={}", self.name, self.url())
    }

    fn start(&mut self, state: &str, members: &[String]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinykv"));
        command.arg("--data-dir").arg(&self.dir).args(["--name", &self.name]);
        command.arg("--listen-client-urls").arg(format!("http://{}", self.client));
        command.arg("--listen-peer-urls").arg(self.url());
        command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", state]);
        command.args(["--admin-listen", &self.admin, "--log-level", "warn"]);
        command.args(self.settings);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts"));
    }

    /// What a readiness probe is answered, head and all.
    fn readiness(&self) -> String {
        self.told("/readyz")
    }

    /// What the admin port answers, head and all.
    fn told(&self, path: &str) -> String {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(&self.admin).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("asked");
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// Waits until it has said something, in a line without `but`.
    async fn says_without(&self, wanted: &str, but: &str) {
        let said = |log: String| log.lines().any(|line| line.contains(wanted) && !line.contains(but));
        while !std::fs::read_to_string(self.log()).is_ok_and(said) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn says(&self, wanted: &str) {
        self.says_without(wanted, "\0").await;
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the process ends by itself.
    async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was started");
        tokio::task::spawn_blocking(move || child.wait()).await.expect("waits").expect("waits")
    }

    /// A client of this member alone, once it serves what every member does.
    async fn connect(&self) -> Client {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "{}: {:?}", self.name, std::fs::read_to_string(self.log()));
            if let Ok(mut client) = Client::connect([self.client.as_str()], None).await
                && client.status().await.is_ok()
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn message(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => format!("{:?}: {}", status.code(), status.message()),
        other => other.to_string(),
    }
}

/// Repeats a request while the cluster is busy electing or changing.
macro_rules! patiently {
    ($request:expr) => {
        loop {
            match $request.await {
                Err(Error::GRpcStatus(status)) if status.code() == tonic::Code::Unavailable => {}
                answer => break answer,
            }
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_by_a_voter_and_a_learner_and_its_leader_leaves() {
    let dir = tempfile::tempdir().expect("dir");
    let (mut a, mut b, mut c) =
        (Member::new(dir.path(), "a"), Member::new(dir.path(), "b"), Member::new(dir.path(), "c"));
    a.start("new", &[a.listed()]);
    let mut client = a.connect().await;
    patiently!(client.put("k", "v", None)).expect("written");

    // A voter that is added counts only when it is there: the one member goes on alone meanwhile.
    let added = patiently!(client.member_add([b.url()], None)).expect("added");
    assert!(added.member().is_some_and(|member| member.name().is_empty() && !member.is_learner()));
    patiently!(client.put("k", "still alone", None)).expect("written");
    let again = patiently!(client.member_add([b.url()], None)).expect_err("there already");
    assert_eq!(message(&again), "FailedPrecondition: etcdserver: Peer URLs already exists");
    let bad = client.member_add(["http://10.0.0.1"], None).await.expect_err("no port");
    assert_eq!(message(&bad), "InvalidArgument: etcdserver: given member URLs are invalid");
    b.start("existing", &[a.listed(), b.listed()]);
    let mut of_b = b.connect().await;
    assert_eq!(patiently!(of_b.get("k", None)).expect("read").kvs()[0].value(), b"still alone");

    // One learner at a time; it serves its own state and nothing else.
    let learner = || Some(MemberAddOptions::new().with_is_learner());
    let added = patiently!(client.member_add([c.url()], learner())).expect("added");
    let id = added.member().expect("told").id();
    let early = patiently!(client.member_promote(id)).expect_err("not started");
    assert_eq!(
        message(&early),
        "FailedPrecondition: etcdserver: can only promote a learner member which is in sync with leader"
    );
    let second = patiently!(client.member_add(["http://10.0.0.9:2380"], learner())).expect_err("one at most");
    assert_eq!(message(&second), "FailedPrecondition: etcdserver: too many learner members in cluster");
    c.start("existing", &[a.listed(), b.listed(), c.listed()]);
    let mut of_c = c.connect().await;
    let own = || Some(GetOptions::new().with_serializable());
    while patiently!(of_c.get("k", own())).expect("read").kvs().is_empty() {}
    // That it is a learner comes after the key.
    while !of_c.status().await.expect("answers").is_learner() {}
    for refused in [
        of_c.get("k", None).await.map(|_| ()).expect_err("linearizable"),
        of_c.put("k", "x", None).await.map(|_| ()).expect_err("a write"),
        of_c.member_list().await.map(|_| ()).expect_err("the members"),
    ] {
        assert_eq!(message(&refused), "FailedPrecondition: etcdserver: rpc not supported for learner");
    }
    // No Service is to lead clients to who refuses them.
    let probed = c.readiness();
    assert!(probed.starts_with("HTTP/1.1 503") && probed.contains("[-]non_learner"), "{probed}");
    while let Err(error) = patiently!(client.member_promote(id)) {
        assert!(message(&error).contains("in sync with leader"), "{}", message(&error));
    }
    while let Err(error) = patiently!(of_c.put("k", "by the third", None)) {
        assert!(message(&error).contains("for learner"), "it has not heard yet: {}", message(&error));
    }
    while !c.readiness().starts_with("HTTP/1.1 200") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let voter = patiently!(client.member_promote(id)).expect_err("it votes");
    assert_eq!(message(&voter), "FailedPrecondition: etcdserver: can only promote a learner member");

    // Everybody lists everybody, with the URLs of all, as soon as they have told.
    for client in [&mut client, &mut of_b, &mut of_c] {
        let wanted: Vec<_> = [&a, &b, &c]
            .map(|it| (it.name.clone(), vec![it.url()], vec![format!("http://{}", it.client)], false))
            .into();
        loop {
            let list = patiently!(client.member_list()).expect("listed");
            let mut told: Vec<_> = list
                .members()
                .iter()
                .map(|it| {
                    let urls = (it.peer_urls().to_vec(), it.client_urls().to_vec());
                    (it.name().to_owned(), urls.0, urls.1, it.is_learner())
                })
                .collect();
            told.sort();
            if told == wanted {
                break;
            }
        }
    }

    // The leader is removed: it hands over, says so, ends in good order and does not come back.
    let leader = loop {
        let leader = client.status().await.expect("answers").leader();
        if leader != 0 {
            break leader;
        }
    };
    let unknown = patiently!(of_c.member_remove(7)).expect_err("nobody");
    assert_eq!(message(&unknown), "NotFound: etcdserver: member not found");
    let list = patiently!(of_b.member_list()).expect("listed");
    let name = list.members().iter().find(|it| it.id() == leader).expect("a member").name().to_owned();
    let mut others: Vec<Member> = vec![a, b, c];
    let at = others.iter().position(|it| it.name == name).expect("one of them");
    let mut gone = others.remove(at);
    let mut client = others[0].connect().await;
    if let Err(error) = patiently!(client.member_remove(leader)) {
        // Asked again after it was done.
        assert!(message(&error).contains("not found"), "{}", message(&error));
    }
    assert!(gone.ended().await.success(), "a removed member ends in good order");
    patiently!(client.put("k", "without it", None)).expect("written");
    assert_eq!(patiently!(client.member_list()).expect("listed").members().len(), 2);
    gone.start("existing", &[gone.listed()]);
    assert!(!gone.ended().await.success(), "its data is of no use any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_leader_is_told_when_there_is_none() {
    let dir = tempfile::tempdir().expect("dir");
    let mut members = ["a", "b", "c"].map(|name| Member::new(dir.path(), name));
    let listed: Vec<_> = members.iter().map(Member::listed).collect();
    for member in &mut members {
        member.start("new", &listed);
    }
    let options = ConnectOptions::new().with_require_leader(true);
    let mut plain = members[0].connect().await;
    patiently!(plain.put("k", "v", None)).expect("written");
    let mut client = Client::connect([members[0].client.as_str()], Some(options)).await.expect("connects");
    let mut watch =
        patiently!(client.watch("k", Some(WatchOptions::new().with_start_revision(2)))).expect("watches");
    while watch.message().await.expect("streams").expect("goes on").events().is_empty() {}
    members[1].kill();
    members[2].kill();
    let error = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(error) => break error,
        }
    };
    assert_eq!(message(&error), "Unavailable: etcdserver: no leader");
    let error = client.get("k", None).await.expect_err("nobody leads");
    assert_eq!(message(&error), "Unavailable: etcdserver: no leader");
    let own = Some(GetOptions::new().with_serializable());
    assert_eq!(plain.get("k", own).await.expect("its own state").kvs()[0].value(), b"v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_peers_says_how_to_get_some() {
    let dir = tempfile::tempdir().expect("dir");
    let mut member = Member::new(dir.path(), "alone");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinykv"));
    command.arg("--data-dir").arg(&member.dir).args(["--admin-listen", "127.0.0.1:0"]);
    command.arg("--listen-client-urls").arg(format!("http://{}", member.client));
    member.child = Some(command.stdout(Stdio::null()).spawn().expect("the binary starts"));
    let mut client = member.connect().await;
    let error = client.member_add(["http://10.0.0.2:2380"], None).await.expect_err("no peers");
    assert!(message(&error).contains("listens to no peers"), "{}", message(&error));
}

const TOGETHER: &[&str] = &["--set", "found_together=true"];

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_founded_when_all_its_members_are_there() {
    let dir = tempfile::tempdir().expect("dir");
    let mut members = ["a", "b", "c"].map(|name| Member::new(dir.path(), name));
    let listed: Vec<_> = members.iter().map(Member::listed).collect();
    for member in &mut members {
        member.settings = TOGETHER;
    }
    members[0].start("new", &listed);
    members[1].start("new", &listed);
    for waiting in &members[..2] {
        waiting.says("the cluster is founded when all its members are there; waiting").await;
        let identity = std::fs::read_to_string(waiting.dir.join("identity.json")).expect("an identity");
        assert!(identity.contains("\"awaits_founders\": true"), "{identity}");
    }
    members[2].start("new", &listed);
    let mut client = members[2].connect().await;
    patiently!(client.put("k", "v", None)).expect("written");
    // Once founded it needs most of its members, like any other.
    members[1].kill();
    members[2].kill();
    members[1].start("new", &listed);
    let mut client = members[1].connect().await;
    assert_eq!(patiently!(client.get("k", None)).expect("read").kvs()[0].value(), b"v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_list_founds_no_second_cluster_beside_data() {
    let dir = tempfile::tempdir().expect("dir");
    let mut members = ["a", "b", "c"].map(|name| Member::new(dir.path(), name));
    let listed: Vec<_> = members.iter().map(Member::listed).collect();
    members[0].start("new", &listed[..1]);
    let mut client = members[0].connect().await;
    patiently!(client.put("k", "v", None)).expect("written");
    members[0].kill();
    for member in &mut members {
        member.settings = TOGETHER;
        member.start("new", &listed);
    }
    let mut client = members[0].connect().await;
    assert_eq!(patiently!(client.get("k", None)).expect("read").kvs()[0].value(), b"v");
    for (added, other) in [(1, "c ("), (2, "b (")] {
        // All that is missing is the one with the data: the other is there.
        members[added].says_without("a (it belongs to another cluster", other).await;
        assert_eq!(patiently!(client.member_list()).expect("listed").members().len(), 1);
    }
    // The way that is left is the one that etcd knows.
    members[1].kill();
    patiently!(client.member_add([members[1].url()], None)).expect("added");
    members[1].start("existing", &listed[..2]);
    let mut client = members[1].connect().await;
    assert_eq!(patiently!(client.get("k", None)).expect("read").kvs()[0].value(), b"v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_data_does_not_come_back_as_itself() {
    let dir = tempfile::tempdir().expect("dir");
    let mut members = ["a", "b", "c"].map(|name| Member::new(dir.path(), name));
    let listed: Vec<_> = members.iter().map(Member::listed).collect();
    for member in &mut members {
        member.start("new", &listed);
    }
    let mut client = members[0].connect().await;
    patiently!(client.put("k", "v", None)).expect("written");
    let [_, _, lost] = &mut members;
    let id = loop {
        let list = patiently!(client.member_list()).expect("listed");
        let own =
            list.members().iter().find(|member| member.name() == "c" && !member.client_urls().is_empty());
        if let Some(own) = own {
            break own.id();
        }
    };
    lost.kill();
    std::fs::remove_dir_all(&lost.dir).expect("removed");
    lost.start("new", &listed);
    assert!(!lost.ended().await.success());
    lost.says("has already been bootstrapped").await;
    lost.says(&format!("etcdctl member remove {id:x}, etcdctl member add c --peer-urls={}", lost.url()))
        .await;
    // Nor as one that was added: that was long ago.
    lost.start("existing", &listed);
    lost.says("has started before, and its data is not in").await;
    lost.kill();
    patiently!(client.member_remove(id)).expect("removed");
    patiently!(client.member_add([lost.url()], None)).expect("added");
    lost.start("existing", &listed);
    let mut client = lost.connect().await;
    assert_eq!(patiently!(client.get("k", None)).expect("read").kvs()[0].value(), b"v");
}

/// A cluster is founded anew where another one was, under another token, and one machine still has the old data.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_token_is_none_of_the_clusters() {
    const ONE: &[&str] = &["--initial-cluster-token", "one"];
    const TWO: &[&str] = &["--initial-cluster-token", "two"];
    let dir = tempfile::tempdir().expect("dir");
    let mut members = ["a", "b", "c"].map(|name| Member::new(dir.path(), name));
    let listed: Vec<_> = members.iter().map(Member::listed).collect();
    for member in &mut members {
        member.settings = ONE;
        member.start("new", &listed);
    }
    let mut client = members[2].connect().await;
    patiently!(client.put("old", "v", None)).expect("written");
    for member in &mut members {
        member.kill();
    }
    for member in &mut members[..2] {
        std::fs::remove_dir_all(&member.dir).expect("wiped");
        member.settings = TWO;
        member.start("new", &listed);
    }
    let mut client = members[0].connect().await;
    patiently!(client.put("new", "v", None)).expect("written");
    members[2].start("new", &listed);
    members[2].says("belongs to another cluster").await;
    members[0].says("belongs to cluster").await;
    let all = Some(GetOptions::new().with_prefix());
    let found = patiently!(client.get("", all.clone())).expect("read");
    assert_eq!(found.kvs().iter().map(etcd_client::KeyValue::key).collect::<Vec<_>>(), [b"new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alerts_and_dashboards_ask_for_is_where_they_look() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut member = Member::new(dir.path(), "m");
    member.start("new", &[member.listed()]);
    drop(member.connect().await);
    let page = member.told("/metrics");
    let told: Vec<&str> = page.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let mut asked = 0;
    for file in ["files/alerts.yaml", "dashboards/tinykv.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/aistack").join(file);
        let text = std::fs::read_to_string(&path).expect("it is there");
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        // What is between two members is not told by one alone.
        let words = words.filter(|word| word.starts_with("etcd_") && !word.starts_with("etcd_network_peer"));
        for name in words {
            asked += 1;
            assert!(told.contains(&name), "{file} asks for {name}");
        }
    }
    assert!(asked > 8, "{asked} names were found");
}
