//! From manifests to processes: what a store of several members becomes on one machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aistack_api::modelhub::ModelhubConfig;
use aistack_api::tinykv::TinykvConfig;
use aistack_cli::local::members;
use aistack_cli::local::plan::{Folders, LocalPlan, PodPlan, Wanted, plan};
use aistack_operator::compile;

/// Plans a stack with so many members of its store. Ports are counted up; those that must last begin at 14000.
fn planned(replicas: u16, state: &Path) -> LocalPlan {
    let text = format!(
        "{{apiVersion: platform.dev/v1, kind: AIStack, metadata: {{name: laptop}}, spec: {{tinykv: {{replicas: {replicas}}}, \
         vectorforge: {{}}, tinyinfer: {{model: chatty, embedding: {{model: vectory}}}}, modelhub: {{}}}}}}"
    );
    let compiled = compile("stack.yaml", &text).expect("valid");
    let folders = Folders { state: state.to_owned(), models: PathBuf::from("/models") };
    let (mut lasting, mut any) = (14_000..15_000, 20_000..21_000);
    let mut give = |_: &str, container: u16, wanted: Wanted| {
        let port = match wanted {
            Wanted::Entry => Some(container),
            Wanted::Lasting => lasting.next(),
            Wanted::Any => any.next(),
        };
        Ok(port.expect("enough of them"))
    };
    plan("laptop", &compiled.manifests, &folders, &mut give).expect("a plan")
}

fn stores(plan: &LocalPlan) -> Vec<&PodPlan> {
    plan.pods.iter().filter(|pod| pod.program == "tinykv").collect()
}

fn config<'a, C: serde::Deserialize<'a>>(pod: &'a PodPlan) -> C {
    serde_yaml_ng::from_str(&pod.files[0].text).expect("the component's own struct reads its file")
}

#[test]
fn three_members_know_one_another_and_wait_for_nobody() {
    let plan = planned(3, Path::new("/state"));
    let stores = stores(&plan);
    let names: Vec<_> = stores.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["tinykv-0", "tinykv-1", "tinykv-2"]);
    let peers = [
        "tinykv-0=http://127.0.0.1:14000",
        "tinykv-1=http://127.0.0.1:14001",
        "tinykv-2=http://127.0.0.1:14002",
    ];
    for (ordinal, pod) in stores.iter().enumerate() {
        assert!(pod.needs.is_empty(), "each would wait for the others: {} {:?}", pod.name, pod.needs);
        assert_eq!(pod.port("peer"), Some(14_000 + u16::try_from(ordinal).expect("small")));
        assert_eq!(pod.env["TINYKV_NAME"], pod.name);
        let client = pod.port("client").expect("a port");
        assert_eq!(pod.env["TINYKV_ADVERTISE_CLIENT_URLS"], format!("[\"http://127.0.0.1:{client}\"]"));
        let listed: Vec<String> = serde_json::from_str(&pod.env["TINYKV_PEERS"]).expect("a list");
        assert_eq!(listed, peers);
        let config = TinykvConfig { peers: listed, ..config(pod) };
        assert!(config.found_together);
        assert_eq!(config.listen_peer.port(), pod.port("peer").expect("a port"));
        let config = TinykvConfig { name: pod.name.clone(), ..config };
        config.validate().expect("it starts with this");
        let volumes: Vec<_> = pod.volumes().collect();
        assert_eq!(volumes, [&PathBuf::from(format!("/state/volumes/data-tinykv-{ordinal}"))]);
    }
}

#[test]
fn the_hub_knows_all_members_and_starts_after_them() {
    let plan = planned(3, Path::new("/state"));
    let clients: Vec<_> = stores(&plan)
        .iter()
        .map(|pod| format!("http://127.0.0.1:{}", pod.port("client").expect("a port")))
        .collect();
    let hub = plan.pods.last().expect("pods");
    assert_eq!(hub.name, "modelhub-0");
    let config: ModelhubConfig = config(hub);
    assert_eq!(config.kv.endpoints, clients);
    for member in ["tinykv-0", "tinykv-1", "tinykv-2"] {
        assert!(hub.needs.iter().any(|need| need == member), "{:?}", hub.needs);
    }
}

#[test]
fn a_member_alone_needs_no_lasting_port() {
    let plan = planned(1, Path::new("/state"));
    let [store] = stores(&plan)[..] else { panic!("one") };
    assert!(store.port("peer").expect("a port") >= 20_000);
    // On a cluster it may be joined by others.
    let peer = store.port("peer").expect("a port");
    assert_eq!(store.env["TINYKV_PEERS"], format!("[\"tinykv-0=http://127.0.0.1:{peer}\"]"));
}

#[test]
fn the_number_of_members_is_that_of_their_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let plans: BTreeMap<u16, LocalPlan> =
        [1, 3, 5].map(|number| (number, planned(number, folder.path()))).into();
    for (had, before) in &plans {
        for (has, now) in &plans {
            assert_eq!(members::kept(before, now), Ok(()), "without data, {had} may become {has}");
        }
    }
    assert_eq!(members::port(&plans[&3], "tinykv-1", 2380), None, "a port that nobody keeps on disk");
    std::fs::create_dir_all(folder.path().join("volumes/data-tinykv-0")).expect("created");
    std::fs::create_dir_all(folder.path().join("volumes/data-tinykv-1")).expect("created");
    assert_eq!(members::port(&plans[&3], "tinykv-1", 2380), Some(14_001));
    assert_eq!(members::port(&plans[&3], "tinykv-2", 2380), None);
    for (had, has, said) in
        [(1, 3, "1 member,"), (3, 1, "3 members,"), (3, 5, "3 members,"), (5, 3, "5 members,")]
    {
        let refused = members::kept(&plans[&had], &plans[&has]).expect_err("another number");
        assert!(refused.starts_with("KVCluster tinykv of stack laptop was founded with "), "{refused}");
        for part in
            [said, &format!("says replicas: {has}"), &format!("write replicas: {had} again"), "--purge"]
        {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }
    assert_eq!(members::kept(&plans[&3], &plans[&3]), Ok(()));
}
