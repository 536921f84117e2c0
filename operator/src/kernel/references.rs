//! Who refers to what: a change of a Secret or of another object begins the reconciliations that it matters to.

use std::collections::{HashMap, HashSet};

use aistack_crds::Kind;
use parking_lot::Mutex;

use super::key::{Key, ObjectName};

/// Something that an object refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A Secret in its namespace.
    Secret(ObjectName),
    /// An object of ours.
    Object(Kind, ObjectName),
}

#[derive(Debug, Default)]
struct Inner {
    of: HashMap<Key, Vec<Reference>>,
    to: HashMap<Reference, HashSet<Key>>,
}

/// All references, both ways.
#[derive(Debug, Default)]
pub struct References {
    inner: Mutex<Inner>,
}

impl References {
    /// From now on, `key` refers to these and to nothing else. Answers with what nobody refers to any more.
    pub fn set(&self, key: &Key, references: Vec<Reference>) -> Vec<Reference> {
        let mut inner = self.inner.lock();
        if inner.of.get(key).map(Vec::as_slice).unwrap_or_default() == references.as_slice() {
            return Vec::new();
        }
        let before = inner.forget(key);
        for reference in &references {
            inner.to.entry(reference.clone()).or_default().insert(key.clone());
        }
        inner.of.insert(key.clone(), references);
        inner.lonely(before)
    }

    /// From now on, `key` refers to these as well.
    pub fn add(&self, key: &Key, references: &[Reference]) {
        let mut inner = self.inner.lock();
        let of = inner.of.entry(key.clone()).or_default();
        let new: Vec<Reference> = references.iter().filter(|new| !of.contains(new)).cloned().collect();
        of.extend_from_slice(&new);
        for reference in new {
            inner.to.entry(reference).or_default().insert(key.clone());
        }
    }

    /// `key` is no more. Answers with what nobody refers to any more.
    pub fn forget(&self, key: &Key) -> Vec<Reference> {
        let mut inner = self.inner.lock();
        let before = inner.forget(key);
        inner.lonely(before)
    }

    /// Who refers to it.
    pub fn to(&self, reference: &Reference) -> Vec<Key> {
        self.inner.lock().to.get(reference).into_iter().flatten().cloned().collect()
    }
}

impl Inner {
    fn forget(&mut self, key: &Key) -> Vec<Reference> {
        let references = self.of.remove(key).unwrap_or_default();
        for reference in &references {
            if let Some(keys) = self.to.get_mut(reference) {
                keys.remove(key);
                if keys.is_empty() {
                    self.to.remove(reference);
                }
            }
        }
        references
    }

    fn lonely(&self, mut references: Vec<Reference>) -> Vec<Reference> {
        references.retain(|reference| !self.to.contains_key(reference));
        references
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_from_the_other_side_until_they_change() {
        let references = References::default();
        let name = |name: &str| ObjectName::new("n", name);
        let key = |of: &str| Key::new(Kind::KVCluster, name(of));
        let secret = |of: &str| Reference::Secret(name(of));
        references.set(&key("a"), vec![secret("s"), secret("t")]);
        references.set(&key("b"), vec![secret("s")]);
        let mut to = references.to(&secret("s"));
        to.sort();
        assert_eq!(to, [key("a"), key("b")]);
        assert_eq!(references.set(&key("a"), vec![secret("t")]), [], "b refers to s still");
        assert_eq!(references.to(&secret("s")), [key("b")]);
        assert_eq!(references.forget(&key("b")), [secret("s")]);
        assert!(references.to(&secret("s")).is_empty());
        references.add(&key("a"), &[secret("t"), secret("u")]);
        assert_eq!(references.to(&secret("u")), [key("a")]);
        assert_eq!(references.set(&key("a"), Vec::new()), [secret("t"), secret("u")]);
    }
}
