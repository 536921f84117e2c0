//! One face for the four maps, and the work that a map without the operation has to do instead.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use cowtree::Tree;

pub trait Key: Ord + Clone {
    /// The same 32 bytes for the same number, ordered as the numbers are.
    fn numbered(n: u64) -> Self;
}

impl Key for [u8; 32] {
    fn numbered(n: u64) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(format!("/registry/pods/{n:017x}").as_bytes());
        key
    }
}

impl Key for Bytes {
    fn numbered(n: u64) -> Self {
        Self::copy_from_slice(&<[u8; 32]>::numbered(n))
    }
}

pub trait Map<K: Key>: Default + Clone {
    /// Whether a clone copies all entries.
    const FORKS_ARE_COPIES: bool = false;
    /// Whether it has a diff of its own; else everything is compared.
    const DIFFS: bool = false;

    fn put(&mut self, key: K, value: u64);
    fn cut(&mut self, key: &K);
    fn find(&self, key: &K) -> Option<u64>;
    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a u64)>
    where
        K: 'a;
    fn count_between(&self, low: &K, high: &K) -> usize;
    fn differences(&self, newer: &Self) -> usize {
        by_comparing_all(self.entries(), newer.entries())
    }
}

impl<K: Key> Map<K> for Tree<K, u64> {
    const DIFFS: bool = true;

    fn put(&mut self, key: K, value: u64) {
        self.insert(key, value);
    }
    fn cut(&mut self, key: &K) {
        self.remove(key);
    }
    fn find(&self, key: &K) -> Option<u64> {
        self.get(key).copied()
    }
    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a u64)>
    where
        K: 'a,
    {
        self.iter()
    }
    fn count_between(&self, low: &K, high: &K) -> usize {
        self.count(low..high)
    }
    fn differences(&self, newer: &Self) -> usize {
        self.diff(newer).count()
    }
}

pub type Imbl<K> = imbl::OrdMap<K, u64>;

impl<K: Key> Map<K> for Imbl<K> {
    const DIFFS: bool = true;

    fn put(&mut self, key: K, value: u64) {
        self.insert(key, value);
    }
    fn cut(&mut self, key: &K) {
        self.remove(key);
    }
    fn find(&self, key: &K) -> Option<u64> {
        self.get(key).copied()
    }
    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a u64)>
    where
        K: 'a,
    {
        self.iter()
    }
    fn count_between(&self, low: &K, high: &K) -> usize {
        self.range::<_, K>(low..high).count()
    }
    fn differences(&self, newer: &Self) -> usize {
        self.diff(newer).count()
    }
}

pub type Rpds<K> = rpds::RedBlackTreeMapSync<K, u64>;

impl<K: Key> Map<K> for Rpds<K> {
    fn put(&mut self, key: K, value: u64) {
        self.insert_mut(key, value);
    }
    fn cut(&mut self, key: &K) {
        self.remove_mut(key);
    }
    fn find(&self, key: &K) -> Option<u64> {
        self.get(key).copied()
    }
    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a u64)>
    where
        K: 'a,
    {
        self.iter()
    }
    fn count_between(&self, low: &K, high: &K) -> usize {
        self.range(low..high).count()
    }
}

pub type Std<K> = BTreeMap<K, u64>;

impl<K: Key> Map<K> for Std<K> {
    const FORKS_ARE_COPIES: bool = true;

    fn put(&mut self, key: K, value: u64) {
        self.insert(key, value);
    }
    fn cut(&mut self, key: &K) {
        self.remove(key);
    }
    fn find(&self, key: &K) -> Option<u64> {
        self.get(key).copied()
    }
    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a u64)>
    where
        K: 'a,
    {
        self.iter()
    }
    fn count_between(&self, low: &K, high: &K) -> usize {
        self.range(low..high).count()
    }
}

fn by_comparing_all<'a, K: Ord + 'a>(
    mut old: impl Iterator<Item = (&'a K, &'a u64)>,
    mut new: impl Iterator<Item = (&'a K, &'a u64)>,
) -> usize {
    let (mut mine, mut theirs) = (old.next(), new.next());
    let mut differences = 0;
    loop {
        let order = match (mine, theirs) {
            (None, None) => return differences,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        differences += usize::from(order != Ordering::Equal || mine != theirs);
        if order != Ordering::Greater {
            mine = old.next();
        }
        if order != Ordering::Less {
            theirs = new.next();
        }
    }
}
