//! What a pod reads on a cluster, made true on this machine: Service names, listening addresses and mount paths.
//!
//! A host is only replaced as a whole word in front of `:port`, so that prose, model names and other addresses stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Where a Service or pod name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Service port to loopback port.
    pub ports: BTreeMap<u16, u16>,
    /// Pods behind the name.
    pub pods: BTreeSet<String>,
}

/// Everything that one pod's text is rewritten by.
#[derive(Clone, Debug, Default)]
pub struct Rewriter {
    /// Names of Services and pods.
    pub names: BTreeMap<String, Target>,
    /// The pod's own container ports to loopback ports.
    pub own_ports: BTreeMap<u16, u16>,
    /// Mount paths to local paths.
    pub mounts: Vec<(String, PathBuf)>,
}

impl Rewriter {
    /// Rewrites a text and returns the pods that it refers to.
    pub fn text(&self, text: &str) -> (String, BTreeSet<String>) {
        let (text, pods) = self.addresses(text);
        (self.paths(&text), pods)
    }

    /// Rewrites every text in a YAML document; a document that is no YAML is rewritten as one text.
    pub fn document(&self, text: &str) -> (String, BTreeSet<String>) {
        let Ok(mut yaml) = serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text) else {
            return self.text(text);
        };
        let mut pods = BTreeSet::new();
        self.value(&mut yaml, &mut pods);
        match serde_yaml_ng::to_string(&yaml) {
            Ok(text) => (text, pods),
            Err(_) => self.text(text),
        }
    }

    fn value(&self, value: &mut serde_yaml_ng::Value, pods: &mut BTreeSet<String>) {
        use serde_yaml_ng::Value;
        match value {
            Value::String(text) => {
                let (rewritten, mut found) = self.text(text);
                *text = rewritten;
                pods.append(&mut found);
            }
            Value::Sequence(items) => items.iter_mut().for_each(|item| self.value(item, pods)),
            Value::Mapping(fields) => fields.values_mut().for_each(|field| self.value(field, pods)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Tagged(_) => {}
        }
    }

    fn addresses(&self, text: &str) -> (String, BTreeSet<String>) {
        let mut rewritten = String::with_capacity(text.len());
        let mut pods = BTreeSet::new();
        let mut rest = text;
        while !rest.is_empty() {
            let word = rest.find(|c: char| !is_host(c)).unwrap_or(rest.len());
            let (host, after) = rest.split_at(word);
            if let Some(digits) = after.strip_prefix(':').filter(|_| !host.is_empty()) {
                let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
                if let Some((local, found)) =
                    digits[..length].parse().ok().and_then(|port| self.address(host, port))
                {
                    rewritten.push_str("127.0.0.1:");
                    rewritten.push_str(&local.to_string());
                    pods.extend(found);
                    rest = &digits[length..];
                    continue;
                }
            }
            let next = after.chars().next().map_or(0, char::len_utf8);
            rewritten.push_str(&rest[..word + next]);
            rest = &rest[word + next..];
        }
        (rewritten, pods)
    }

    fn address(&self, host: &str, port: u16) -> Option<(u16, BTreeSet<String>)> {
        if host == "0.0.0.0" {
            return Some((*self.own_ports.get(&port)?, BTreeSet::new()));
        }
        let target = self.names.get(host)?;
        Some((*target.ports.get(&port)?, target.pods.clone()))
    }

    fn paths(&self, text: &str) -> String {
        let mut mounts: Vec<_> = self.mounts.iter().collect();
        // The longest first, so that a mount inside another wins.
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        for (mount, local) in mounts {
            let Some(at) = text.find(mount.as_str()) else { continue };
            let begins = at == 0 || text[..at].ends_with("file://") || text[..at].ends_with('=');
            let after = &text[at + mount.len()..];
            if begins && (after.is_empty() || after.starts_with('/')) {
                return format!("{}{}{after}", &text[..at], local.display());
            }
        }
        text.to_owned()
    }
}

fn is_host(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '.' || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriter() -> Rewriter {
        let target = |pod: &str, ports: &[(u16, u16)]| Target {
            ports: ports.iter().copied().collect(),
            pods: BTreeSet::from([pod.to_owned()]),
        };
        Rewriter {
            names: BTreeMap::from([
                ("tinykv".to_owned(), target("tinykv-0", &[(2379, 40001)])),
                ("tinykv-0.tinykv-members".to_owned(), target("tinykv-0", &[(2380, 40002)])),
            ]),
            own_ports: BTreeMap::from([(8080, 18080)]),
            mounts: vec![
                ("/var/lib/aistack".to_owned(), PathBuf::from("/s/data")),
                ("/tmp".to_owned(), PathBuf::from("/s/tmp")),
            ],
        }
    }

    #[test]
    fn addresses_and_paths() {
        let table = [
            ("http://tinykv:2379", "http://127.0.0.1:40001", 1),
            (
                "http://tinykv:2379,http://tinykv-0.tinykv-members:2380/x",
                "http://127.0.0.1:40001,http://127.0.0.1:40002/x",
                1,
            ),
            ("0.0.0.0:8080", "127.0.0.1:18080", 0),
            ("0.0.0.0:9999", "0.0.0.0:9999", 0),
            ("http://tinykv:9999", "http://tinykv:9999", 0),
            ("my-tinykv:2379", "my-tinykv:2379", 0),
            ("tinykv is a store", "tinykv is a store", 0),
            ("http://etcd.example.com:2379", "http://etcd.example.com:2379", 0),
            ("/var/lib/aistack/artefacts", "/s/data/artefacts", 0),
            ("file:///var/lib/aistack", "file:///s/data", 0),
            ("/var/lib/aistackx", "/var/lib/aistackx", 0),
            ("--dir=/tmp", "--dir=/s/tmp", 0),
            ("äöü: tinykv:2379", "äöü: 127.0.0.1:40001", 1),
            ("", "", 0),
        ];
        for (text, wanted, pods) in table {
            let (rewritten, found) = rewriter().text(text);
            assert_eq!((rewritten.as_str(), found.len()), (wanted, pods), "{text}");
        }
    }

    #[test]
    fn a_document_keeps_its_shape() {
        let (text, pods) = rewriter()
            .document("listen: 0.0.0.0:8080\nkv:\n  endpoints:\n  - http://tinykv:2379\nport: 8080\n");
        assert_eq!(
            text,
            "listen: 127.0.0.1:18080\nkv:\n  endpoints:\n  - http://127.0.0.1:40001\nport: 8080\n"
        );
        assert_eq!(pods.into_iter().collect::<Vec<_>>(), ["tinykv-0"]);
    }
}
