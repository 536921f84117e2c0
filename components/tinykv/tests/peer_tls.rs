//! Three members that talk over TLS, told through the crate `etcd-client` against the real binary: a stranger's
//! certificate, new certificates, and members that encrypt without proof.

mod ports;

use etcd_client::Client;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ports::address;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Gives a member another certificate; first the key, so that the pair is wrong in between.
    fn issue(&self, member: &Member) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        replace(&member.file("key.pem"), &key.serialize_pem());
        replace(&member.file("cert.pem"), &cert.pem());
    }
}

/// Replaces a file as a whole, as Kubernetes and certificate managers do.
fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).expect("written");
    fs::rename(temporary, path).expect("renamed");
}

struct Member {
    name: String,
    client: String,
    peer: String,
    dir: PathBuf,
    child: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn three(dir: &Path) -> Vec<Member> {
    let member = |name: &str| {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).expect("created");
        Member { name: name.to_owned(), client: address(), peer: address(), dir, child: None }
    };
    ["a", "b", "c"].map(member).into()
}

fn listed(members: &[Member]) -> String {
    let each = members.iter().map(|member| format!("{}=https://{}", member.name, member.peer));
    each.collect::<Vec<_>>().join(",")
}

impl Member {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn start(&mut self, members: &str, tls: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinykv"));
        command.current_dir(&self.dir).args(["--data-dir", "data", "--name", &self.name]);
        command.arg("--listen-client-urls").arg(format!("http://{}", self.client));
        command.arg("--listen-peer-urls").arg(format!("https://{}", self.peer));
        command.args(["--initial-cluster", members, "--admin-listen", "127.0.0.1:0", "--log-level", "warn"]);
        let log = File::options().create(true).append(true).open(self.file("log")).expect("a log");
        let child = command.args(tls).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("the binary starts"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the member's log says this.
    async fn says(&self, part: &str) {
        while !fs::read_to_string(self.file("log")).expect("a log").contains(part) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A client of this member alone, once it answers linearizable reads.
    async fn connect(&self) -> Client {
        loop {
            if let Ok(mut client) = Client::connect([self.client.as_str()], None).await
                && client.get("is-it-there", None).await.is_ok()
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Writes until it is acknowledged: leaders may change on a busy machine.
async fn write(client: &mut Client, key: &str, value: &str) {
    while client.put(key, value, None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read(client: &mut Client, key: &str) -> String {
    loop {
        if let Ok(answer) = client.get(key, None).await {
            return answer
                .kvs()
                .first()
                .map(|kv| kv.value_str().expect("text").to_owned())
                .unwrap_or_default();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const MUTUAL: &[&str] = &[
    "--peer-cert-file=cert.pem",
    "--peer-key-file=key.pem",
    "--peer-trusted-ca-file=ca.pem",
    "--peer-client-cert-auth",
];

/// Three members that answer, each with a certificate of `ca`.
async fn mutual(members: &mut [Member], ca: &Authority) -> Vec<Client> {
    let list = listed(members);
    for member in &mut *members {
        ca.issue(member);
        fs::write(member.file("ca.pem"), &ca.pem).expect("written");
        member.start(&list, MUTUAL);
    }
    let mut clients = Vec::new();
    for member in members {
        clients.push(member.connect().await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_ca_is_refused_until_it_is_replaced_and_the_cluster_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let mut members = three(dir.path());
    let mut clients = mutual(&mut members, &ours).await;
    write(&mut clients[1], "k", "from b").await;
    assert_eq!(read(&mut clients[2], "k").await, "from b");
    let urls: Vec<_> = clients[0].member_list().await.expect("listed").members().to_vec();
    assert!(urls.iter().all(|member| member.peer_urls()[0].starts_with("https://")), "{urls:?}");

    members[2].kill();
    theirs.issue(&members[2]);
    let list = listed(&members);
    members[2].start(&list, MUTUAL);
    tokio::join!(
        members[0].says("must chain to a CA in ca.pem"),
        members[2].says("does not take the certificate in cert.pem")
    );
    for count in 0..20 {
        write(&mut clients[0], "k", &count.to_string()).await;
    }
    assert_eq!(read(&mut clients[1], "k").await, "19");
    // No restart: the files are read again.
    ours.issue(&members[2]);
    let mut third = members[2].connect().await;
    assert_eq!(read(&mut third, "k").await, "19");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_changed_one_member_at_a_time_while_writes_run() {
    let dir = tempfile::tempdir().expect("dir");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut members = three(dir.path());
    let clients = mutual(&mut members, &old).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = Vec::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let stopped = stopped.clone();
        writers.push(tokio::spawn(async move {
            let mut count = 0;
            while !*stopped.borrow() || count == 0 {
                count += 1;
                write(&mut client, &format!("w{number}"), &count.to_string()).await;
            }
            count
        }));
    }
    for member in &members {
        replace(&member.file("ca.pem"), &format!("{}{}", old.pem, new.pem));
    }
    for member in &members {
        new.issue(member);
    }
    for member in &members {
        replace(&member.file("ca.pem"), &new.pem);
    }
    // Each meets the others anew, by what lies there now.
    let list = listed(&members);
    for member in &mut members {
        member.kill();
        member.start(&list, MUTUAL);
        member.connect().await;
    }
    stop.send(true).expect("writers run");
    let mut third = members[2].connect().await;
    for (number, writer) in writers.into_iter().enumerate() {
        let last = writer.await.expect("wrote");
        assert_eq!(read(&mut third, &format!("w{number}")).await, last.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_clients_encrypt_by_certificates_that_members_make() {
    let dir = tempfile::tempdir().expect("dir");
    let mut members = three(dir.path());
    let list = listed(&members);
    for member in &mut members {
        member.start(&list, &["--peer-auto-tls"]);
    }
    let mut first = members[0].connect().await;
    write(&mut first, "k", "v").await;
    // One that comes back shows the same certificate.
    let key = members[1].file("data/fixtures/peer/key.pem");
    let before = fs::read(&key).expect("a key");
    members[1].kill();
    members[1].start(&list, &["--peer-auto-tls"]);
    let mut second = members[1].connect().await;
    assert_eq!(read(&mut second, "k").await, "v");
    assert_eq!(fs::read(&key).expect("a key"), before);
    // One that does not encrypt is told so by those that do, and hears that they expect it.
    members[2].kill();
    let clear = list.replace("https://", "http://");
    members[2].start(&clear, &[]);
    tokio::join!(members[0].says("it does not encrypt"), members[2].says("it expects encryption"));
    write(&mut first, "k", "w").await;
    members[2].kill();
    // URLs of both kinds are no cluster.
    members[2].start(&list.replacen("https://", "http://", 1), &["--peer-auto-tls"]);
    members[2].says("a cluster is either").await;
}
