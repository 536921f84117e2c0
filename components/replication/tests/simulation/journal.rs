//! The state machine of the stories: every command in its order. A command's position is its
//! revision, so that a history of operations can be checked exactly.

use bytes::{Buf as _, BufMut as _, Bytes};
use parking_lot::Mutex;
use replication::{Checkpoint, Restorer, StateMachine};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Default)]
pub struct State {
    pub position: Option<Bytes>,
    pub commands: Vec<u64>,
}

impl State {
    fn write(&self, path: &Path) -> io::Result<()> {
        let mut out = Vec::new();
        let position = self.position.clone().unwrap_or_default();
        out.put_u32_le(position.len() as u32);
        out.put_slice(&position);
        for command in &self.commands {
            out.put_u64_le(*command);
        }
        fs::write(path, out)
    }

    fn read(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let mut bytes = Bytes::from(fs::read(path)?);
        let size = bytes.get_u32_le() as usize;
        let position = Some(bytes.split_to(size));
        let mut commands = Vec::new();
        while bytes.has_remaining() {
            commands.push(bytes.get_u64_le());
        }
        Ok(Self { position, commands })
    }
}

/// Durable by its checkpoints alone, like a database without a log.
#[derive(Clone)]
pub struct Journal {
    file: PathBuf,
    pub state: Arc<Mutex<State>>,
    /// How often another member's state took the place of this one.
    pub restored: Arc<AtomicUsize>,
}

impl Journal {
    pub fn open(dir: &Path) -> Self {
        let file = dir.join("journal");
        let state = State::read(&file).expect("readable");
        Self { file, state: Arc::new(Mutex::new(state)), restored: Arc::default() }
    }
}

impl StateMachine for Journal {
    /// The command's position.
    type Response = usize;

    fn position(&self) -> io::Result<Option<Bytes>> {
        Ok(self.state.lock().position.clone())
    }

    fn apply(&mut self, commands: Vec<Bytes>, position: Bytes) -> io::Result<Vec<usize>> {
        let mut state = self.state.lock();
        state.position = Some(position);
        Ok(commands
            .into_iter()
            .map(|mut command| {
                state.commands.push(command.get_u64_le());
                state.commands.len()
            })
            .collect())
    }

    fn checkpointer(&self) -> Checkpoint {
        let state = self.state.lock().clone();
        let file = self.file.clone();
        Box::new(move |copy| {
            let temporary = file.with_extension("new");
            state.write(&temporary)?;
            fs::rename(&temporary, &file)?;
            fs::create_dir(copy)?;
            state.write(&copy.join("journal"))?;
            Ok(state.position.unwrap_or_default())
        })
    }

    fn restorer(&self) -> Restorer {
        let Self { file, state, restored } = self.clone();
        Box::new(move |copy| {
            let temporary = file.with_extension("new");
            fs::copy(copy.join("journal"), &temporary)?;
            fs::rename(&temporary, &file)?;
            *state.lock() = State::read(&file)?;
            restored.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }
}
