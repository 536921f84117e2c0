//! The manifests that the API server's own code judges in `e2e/peers/apiserver` are judged alike here.

use aistack_crds::{Kind, check::check};
use serde::Deserialize;
use serde_json::Value;

fn documents(text: &str) -> impl Iterator<Item = (Option<&str>, Kind, Value)> {
    text.split("\n---\n").map(|document| {
        let refused = document.lines().find_map(|line| line.strip_prefix("# refused: "));
        let parsed = serde_yaml_ng::Deserializer::from_str(document);
        let object = Value::deserialize(parsed).expect("the file is YAML");
        let kind = object["kind"].as_str().and_then(Kind::from_name).expect("a kind of ours");
        (refused, kind, object)
    })
}

#[test]
fn both_engines_refuse_alike() {
    let mut seen = 0;
    for (refused, kind, object) in documents(include_str!("../../e2e/peers/apiserver/refused.yaml")) {
        let wanted = refused.expect("each says why it is refused");
        let problems = check(&kind.crd(), &object).expect_err(wanted);
        assert!(problems.iter().any(|problem| problem.message.contains(wanted)), "{wanted}\n{problems:?}");
        seen += 1;
    }
    assert!(seen >= 35, "only {seen} manifests");
}

#[test]
fn both_engines_accept_alike() {
    for (_, kind, object) in documents(include_str!("../../e2e/peers/apiserver/accepted.yaml")) {
        assert_eq!(check(&kind.crd(), &object).err(), None, "{object}");
    }
}
