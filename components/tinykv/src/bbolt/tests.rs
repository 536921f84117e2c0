//! Files written here and read back, and what became of files: garbage, cuts, flipped bits. What bbolt itself says of
//! such files is asked in `e2e/peers/etcd/snapshot`.

use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn records(random: &mut Random, count: u64, longest: u64) -> Records {
    let mut record = || {
        let (key, value) = (1 + random.below(40), random.below(longest));
        (random.bytes(key), random.bytes(value))
    };
    (0..count).map(|_| record()).collect()
}

fn written(path: &Path, buckets: &[(&str, &Records)]) -> u64 {
    let mut writer = Writer::new(fs::File::create(path).expect("created")).expect("a file");
    for (name, records) in buckets {
        let fill = |bucket: &mut write::Filling<'_>| {
            records.iter().try_for_each(|(key, value)| bucket.put(key, value))
        };
        writer.bucket(name, fill).expect("written");
    }
    let (file, length) = writer.finish().expect("written");
    assert_eq!(file.metadata().expect("a file").len(), length);
    length
}

fn read_all(tree: &Tree, name: &str) -> Result<Option<Records>, BboltError> {
    let Some(bucket) = tree.bucket(name)? else { return Ok(None) };
    let mut records = Records::new();
    tree.each(&bucket, |key, value| {
        records.insert(key.to_vec(), value.to_vec());
        Ok::<(), BboltError>(())
    })?;
    Ok(Some(records))
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("file.db");
    (dir, path)
}

#[test]
fn what_is_written_reads_back() {
    let (_dir, path) = file();
    let mut random = Random(7);
    let none = Records::new();
    for (count, longest) in [(0, 1), (1, 1), (1, 100_000), (300, 10), (3_000, 300), (50, 20_000), (40_000, 2)]
    {
        let records = records(&mut random, count, longest);
        let length = written(&path, &[("empty", &none), ("full", &records), ("full too", &records)]);
        let tree = Tree::open(&path, length).expect("a file");
        for (name, expected) in
            [("empty", Some(&none)), ("full", Some(&records)), ("full too", Some(&records)), ("absent", None)]
        {
            assert_eq!(read_all(&tree, name).expect("whole").as_ref(), expected, "{name}, {count} records");
        }
    }
}

#[test]
fn keys_and_buckets_that_do_not_ascend_are_refused() {
    let (_dir, path) = file();
    let mut writer = Writer::new(fs::File::create(&path).expect("created")).expect("a file");
    for keys in [["b", "a"], ["a", "a"], ["", "a"]] {
        let fill =
            |bucket: &mut write::Filling<'_>| keys.iter().try_for_each(|key| bucket.put(key.as_bytes(), b""));
        assert!(writer.bucket("bucket", fill).is_err(), "{keys:?}");
    }
    writer.bucket("b", |_| Ok(())).expect("written");
    assert!(writer.bucket("a", |_| Ok(())).is_err());
}

/// Reads all that can be read; the error, if there is one, names the file.
fn survives(path: &Path, length: u64) -> Result<(), String> {
    let all = || -> Result<(), BboltError> {
        let tree = Tree::open(path, length)?;
        read_all(&tree, "one")?;
        read_all(&tree, "two")?;
        Ok(())
    };
    all().map_err(|error| {
        let said = error.to_string();
        assert!(said.contains("file.db"), "{said}");
        said
    })
}

#[test]
fn one_meta_is_enough_and_without_both_it_is_no_such_file() {
    let (_dir, path) = file();
    let mut random = Random(1);
    let records = records(&mut random, 100, 100);
    let length = written(&path, &[("one", &records)]);
    let whole = fs::read(&path).expect("a file");
    for (pages, expected) in [(0..1, None), (1..2, None), (0..2, Some("no bbolt file"))] {
        let mut bytes = whole.clone();
        bytes[pages.start * 4096..pages.end * 4096].fill(0xAA);
        fs::write(&path, &bytes).expect("written");
        match (survives(&path, length), expected) {
            (Ok(()), None) => {}
            (Err(said), Some(part)) => assert!(said.contains(part), "{said}"),
            (outcome, expected) => panic!("{pages:?}: {outcome:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (_dir, path) = file();
    let mut random = Random(2);
    let records = records(&mut random, 400, 100);
    let length = written(&path, &[("one", &records)]);
    let whole = fs::read(&path).expect("a file");
    for cut in (0..length).step_by(97) {
        fs::write(&path, &whole[..cut as usize]).expect("written");
        let said = survives(&path, cut).expect_err("cut");
        assert!(said.contains("cut short") || said.contains("no bbolt file"), "cut at {cut}: {said}");
    }
}

#[test]
fn damage_is_named_by_its_page() {
    let (_dir, path) = file();
    let mut random = Random(3);
    let records = records(&mut random, 400, 100);
    let length = written(&path, &[("one", &records)]);
    let whole = fs::read(&path).expect("a file");
    let leaf = 3 * 4096;
    let at = |offset: usize, bytes: &[u8]| (leaf + offset, bytes.to_vec());
    for (change, part) in [
        (at(0, &[9]), "it says that it is another one"),
        (at(8, &[0]), "neither a leaf nor a branch"),
        (at(10, &[0xFF, 0xFF]), "lies outside of its page"),
        (at(12, &[0xFF, 0xFF, 0xFF, 0xFF]), "more pages belong to it than there are"),
        (at(12, &[1]), "belongs to two places"),
        (at(16, &[1]), "a key stands where a bucket should"),
        (at(20, &[0xFF, 0xFF, 0xFF, 0xFF]), "lies outside of its page"),
        (at(24, &[0xFF, 0xFF, 0xFF, 0xFF]), "lies outside of its page"),
        (at(24, &[0, 0, 0, 0]), "keys do not ascend"),
    ] {
        let mut bytes = whole.clone();
        let (offset, new) = change;
        bytes[offset..offset + new.len()].copy_from_slice(&new);
        fs::write(&path, &bytes).expect("written");
        let said = survives(&path, length).expect_err(part);
        assert!(said.contains(part), "{said}, expected {part}");
    }
}

#[test]
fn no_damage_is_answered_by_a_panic() {
    let (_dir, path) = file();
    let mut random = Random(4);
    let (one, two) = (records(&mut random, 2_000, 60), records(&mut random, 20, 9_000));
    let length = written(&path, &[("one", &one), ("two", &two)]);
    let whole = fs::read(&path).expect("a file");
    let mut refused = 0;
    for _ in 0..1_500 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(8) {
            // Mostly where pages and elements begin: what stands there decides most.
            let page = random.below(length / 4096) * 4096;
            let near = if random.below(3) == 0 { 4096 } else { 200 };
            let at = (page + random.below(near)) as usize;
            match random.below(3) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.below(256) as u8,
                _ => bytes[at..(at + 4).min(length as usize)].fill(0xFF),
            }
        }
        fs::write(&path, &bytes).expect("written");
        refused += u32::from(survives(&path, length).is_err());
    }
    assert!(refused > 500, "{refused} were refused");
    // Pages of chance between metas that are whole.
    for _ in 0..200 {
        let mut bytes = whole.clone();
        let noise = random.bytes(length - 2 * 4096);
        bytes[2 * 4096..].copy_from_slice(&noise);
        fs::write(&path, &bytes).expect("written");
        survives(&path, length).expect_err("noise");
    }
}
