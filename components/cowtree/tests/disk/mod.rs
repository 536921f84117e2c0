//! A disk in memory that loses what was not synced: bytes of files, and names of files.
#![allow(dead_code)] // each test uses a part of it

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cowtree::store::{Files, NewFile, OldFile};

/// A clone is the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    contents: Vec<Contents>,
    /// What every process sees.
    names: BTreeMap<String, usize>,
    /// What survives for sure.
    synced_names: BTreeMap<String, usize>,
    /// What happened to names since, in order.
    pending: Vec<NameChange>,
    operations: usize,
    /// The operation at which the power goes; nothing works from then on.
    cut_at: Option<usize>,
    /// The operation that fails once, as a bad sector makes it.
    fail_at: Option<usize>,
}

#[derive(Default, Clone)]
struct Contents {
    bytes: Vec<u8>,
    synced: usize,
}

enum NameChange {
    Set(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl Disk {
    /// The disk on which the operation of that number, counted from now, is the last, and fails.
    pub fn cut_after(&self, operations: usize) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + operations);
    }

    pub fn fail_once_after(&self, operations: usize) {
        let mut state = self.state();
        state.fail_at = Some(state.operations + operations);
    }

    pub fn operations(&self) -> usize {
        self.state().operations
    }

    /// The power is back without having been gone: the process was killed, and the next one finds all that it
    /// wrote, synced or not.
    pub fn after_kill(&self) {
        let mut state = self.state();
        (state.cut_at, state.fail_at) = (None, None);
    }

    /// What is found after the power comes back: all that was synced, and of the rest whatever `random` leaves.
    pub fn after_power_cut(&self, random: &mut Random) -> Self {
        let state = self.state();
        let mut names = state.synced_names.clone();
        for change in &state.pending {
            if random.below(2) == 0 {
                continue;
            }
            match change {
                NameChange::Set(name, contents) => drop(names.insert(name.clone(), *contents)),
                NameChange::Remove(name) => drop(names.remove(name)),
                NameChange::Rename(from, to, contents) => {
                    names.remove(from);
                    names.insert(to.clone(), *contents);
                }
            }
        }
        let contents = state.contents.iter().map(|contents| survivor(contents, random)).collect();
        Self(Arc::new(Mutex::new(State { contents, synced_names: names.clone(), names, ..State::default() })))
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.contents[state.names[name]].bytes.clone()
    }

    /// Another disk with one file changed.
    pub fn with(&self, name: &str, bytes: Vec<u8>) -> Self {
        let state = self.state();
        let mut contents = state.contents.clone();
        contents[state.names[name]] = Contents { synced: bytes.len(), bytes };
        Self(Arc::new(Mutex::new(State { contents, names: state.names.clone(), ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.operations += 1;
        if state.cut_at.is_some_and(|cut| state.operations >= cut) {
            return Err(io::Error::other("the power is gone"));
        }
        if state.fail_at == Some(state.operations) {
            return Err(io::Error::other("a bad sector"));
        }
        Ok(state)
    }
}

fn survivor(contents: &Contents, random: &mut Random) -> Contents {
    let mut bytes = contents.bytes.clone();
    let tail = bytes.len() - contents.synced;
    if tail > 0 {
        match random.below(3) {
            0 => bytes.truncate(contents.synced + random.below(tail + 1)),
            // The size came to the disk, some of the bytes did not.
            1 => {
                let from = contents.synced + random.below(tail);
                bytes[from..].fill(0);
            }
            _ => {}
        }
    }
    Contents { synced: bytes.len(), bytes }
}

impl Files for Disk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/disk").join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OldFile>> {
        let state = self.state();
        let contents = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Reader { disk: self.clone(), contents }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewFile>> {
        let mut state = self.operate()?;
        state.contents.push(Contents::default());
        let contents = state.contents.len() - 1;
        state.names.insert(name.to_owned(), contents);
        state.pending.push(NameChange::Set(name.to_owned(), contents));
        Ok(Box::new(Writer { disk: self.clone(), contents }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.operate()?;
        let contents = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), contents);
        state.pending.push(NameChange::Rename(from.to_owned(), to.to_owned(), contents));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.operate()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.operate()?;
        state.synced_names = state.names.clone();
        state.pending.clear();
        Ok(())
    }
}

struct Writer {
    disk: Disk,
    contents: usize,
}

impl Write for Writer {
    /// At most 700 bytes at a time, so that there are many places to cut.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(700);
        let mut state = self.disk.operate()?;
        state.contents[self.contents].bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for Writer {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.operate()?;
        let contents = &mut state.contents[self.contents];
        contents.synced = contents.bytes.len();
        Ok(())
    }
}

struct Reader {
    disk: Disk,
    contents: usize,
}

impl OldFile for Reader {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().contents[self.contents].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        let bytes = &state.contents[self.contents].bytes;
        let from = bytes.get(offset as usize..offset as usize + into.len());
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
