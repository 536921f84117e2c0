//! A cluster of one is backed up and restored, told by the binary: what it prints, what it refuses, and that a restore
//! that was interrupted does not start, and begins anew where it is to.

mod ports;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ports::address;

use etcd_client::{Client, PutOptions};

struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tinykv() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tinykv"))
}

/// A server on this directory, and a client once it answers.
async fn serve(data: &Path) -> (Server, Client) {
    let address = address();
    let mut command = tinykv();
    command.args(["--admin-listen", "127.0.0.1:0", "--log-level", "warn", "--listen-client-urls"]);
    command.arg(format!("http://{address}")).arg("--data-dir").arg(data);
    let child = command.stdout(Stdio::null()).spawn().expect("the binary starts");
    let server = Server(child, address);
    loop {
        if let Ok(mut client) = Client::connect([server.1.as_str()], None).await
            && client.get("is-it-there", None).await.is_ok()
        {
            return (server, client);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a command to its end: whether it succeeded, and what it said.
fn says(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("the binary starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}

fn restore(file: &Path, data: &Path) -> (bool, String) {
    says(tinykv().arg("restore").arg(file).arg("--data-dir").arg(data))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_as_it_was_and_into_an_empty_directory_only() {
    let dir = tempfile::tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    let (server, mut client) = serve(&at("old")).await;
    let lease = client.lease_grant(100_000, None).await.expect("granted").id();
    for count in 0..300 {
        client.put(format!("k/{count}"), vec![b'v'; 100 * (count % 50)], None).await.expect("put");
    }
    client.put("leased", "x", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    let file = at("kv.db");
    let address = server.1.clone();
    let (ok, said) = says(tinykv().arg("backup").arg(&file).args(["--endpoints", &address]));
    assert!(ok && said.contains("revision 302, 301 versions, 1 leases, 0 users"), "{said}");
    client.put("after", "x", None).await.expect("put");
    drop(server);
    let (ok, said) = says(tinykv().arg("backup").arg(&file).args(["--endpoints", &address]));
    assert!(!ok && said.contains("no member answers") && said.contains(&address), "{said}");

    let (ok, said) = restore(&file, &at("new"));
    assert!(ok && said.contains("revision 302"), "{said}");
    let (ok, said) = restore(&file, &at("new"));
    assert!(!ok && said.contains("is not empty"), "{said}");
    let (server, mut client) = serve(&at("new")).await;
    let all = client.get("", Some(etcd_client::GetOptions::new().with_all_keys())).await.expect("read");
    assert_eq!((all.count(), all.header().expect("a header").revision()), (301, 302));
    let about = client.lease_time_to_live(lease, None).await.expect("a lease");
    assert_eq!(about.granted_ttl(), 100_000);
    assert_eq!(client.put("more", "x", None).await.expect("put").header().expect("a header").revision(), 303);
    drop(server);

    // Interrupted before its identity was there.
    fs::remove_file(at("new").join("identity.json")).expect("removed");
    let (ok, said) = says(
        tinykv()
            .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(at("new"))
            .args(["--listen-client-urls", "http://127.0.0.1:0"]),
    );
    assert!(!ok && said.contains("no identity.json"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_begins_anew() {
    let dir = tempfile::tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    let (server, mut client) = serve(&at("old")).await;
    for count in 0..100 {
        client.put(format!("k/{count}"), vec![b'v'; 500_000], None).await.expect("put");
    }
    let file = at("kv.db");
    let (ok, said) = says(tinykv().arg("backup").arg(&file).args(["--endpoints", &server.1]));
    assert!(ok, "{said}");
    drop(server);
    let data = at("new");
    let begins = || {
        let mut command = tinykv();
        command.arg("restore").arg(&file).arg("--when-new").arg("--data-dir").arg(&data);
        command
    };
    // Mostly the first try is killed in the middle.
    let mut is_in_the_middle = false;
    for _ in 0..20 {
        let _ = fs::remove_dir_all(&data);
        let mut child = begins().stdout(Stdio::null()).spawn().expect("the binary starts");
        while !data.join("state").exists() && child.try_wait().expect("a child").is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Gone already, if it was faster.
        let _ = child.kill();
        child.wait().expect("a child");
        is_in_the_middle = data.join("state").exists() && !data.join("identity.json").exists();
        if is_in_the_middle {
            break;
        }
    }
    assert!(is_in_the_middle, "every one was done before it was killed");
    let (ok, said) = restore(&file, &data);
    assert!(!ok && said.contains("is not empty"), "a person is asked: {said}");
    let (ok, said) = says(&mut begins());
    assert!(ok && said.contains("revision 101"), "{said}");
    let (ok, said) = says(&mut begins());
    assert!(ok && said.contains("this member has data"), "{said}");
    let (_server, mut client) = serve(&data).await;
    let all = client.get("k/", Some(etcd_client::GetOptions::new().with_prefix().with_count_only()));
    assert_eq!(all.await.expect("read").count(), 100);
}

fn drill(place: &Path, more: &[&str]) -> (bool, String) {
    says(tinykv().arg("drill").arg(format!("file://{}", place.display())).args(more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_tells_whether_a_cluster_could_begin_with_the_newest_backup() {
    let dir = tempfile::tempdir().expect("dir");
    let place = dir.path().join("kept");
    let expect = |more: &[&str], is_well: bool, expected: &[&str]| {
        let (ok, said) = drill(&place, more);
        let all = ok == is_well && expected.iter().all(|expected| said.contains(expected));
        assert!(all, "{expected:?} is expected, and this is said: {said}");
    };
    let url = format!("file://{}", place.display());
    expect(&[], false, &[&url, "there is no backup"]);
    assert!(!place.exists(), "a drill writes nothing where backups are kept");
    let (server, mut client) = serve(&dir.path().join("data")).await;
    for count in 0..3 {
        client.put(format!("k/{count}"), "x", None).await.expect("put");
    }
    client.delete("k/0", None).await.expect("deleted");
    let (ok, said) = says(tinykv().arg("backup").arg(&url).args(["--endpoints", &server.1]));
    assert!(ok, "{said}");
    let newest = fs::read_dir(&place).expect("read").next().expect("a backup").expect("a backup").path();
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    // Older ones and what others put there do not count.
    fs::write(place.join("tinykv-00000000001-revision-9-00000000.db"), "old").expect("written");
    fs::write(place.join("tinykv-theirs.db"), "theirs").expect("written");
    expect(&[], true, &[&name(&newest), "sound", "revision 5, 2 keys, 4 versions", "taken 0 h 0 min ago"]);
    expect(&["--max-age-hours", "1"], true, &["sound"]);
    let whole = fs::read(&newest).expect("read");

    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for (bytes, expected) in [(&damaged[..], "is damaged"), (&whole[..100], "cut short"), (&[], "cut short")]
    {
        fs::write(&newest, bytes).expect("written");
        expect(&[], false, &["no cluster could begin with the newest backup", &name(&newest), expected]);
    }

    let old = place.join("tinykv-01600000000-revision-5-00000000.db");
    fs::remove_file(&newest).expect("removed");
    fs::write(&old, &whole).expect("written");
    expect(&[], true, &[&name(&old), "sound"]);
    expect(&["--max-age-hours", "48"], false, &["too old", &name(&old), "sound", "may be 48 hours old"]);
}
