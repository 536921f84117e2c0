//! How every pod is, in one place: written by the pods' tasks, read by whoever waits, shows or saves it.

use std::cell::RefCell;

use tokio::sync::watch;

use super::plan::LocalPlan;
use super::state::{Phase, PodStatus, ProcessId, StackFolder, StackStatus};

/// The board of a stack. Lives on the supervisor's one thread.
#[derive(Debug)]
pub struct Board {
    status: RefCell<StackStatus>,
    folder: StackFolder,
    version: watch::Sender<u64>,
}

impl Board {
    /// A board on which every pod waits.
    pub fn new(plan: &LocalPlan, folder: StackFolder, manifest: std::path::PathBuf, started_ms: u64) -> Self {
        let pods = plan
            .pods
            .iter()
            .map(|pod| PodStatus {
                name: pod.name.clone(),
                owner: pod.owner.clone(),
                serves: pod.serves.clone(),
                ports: pod.ports.iter().map(|port| (port.name.clone(), port.local)).collect(),
                ..PodStatus::default()
            })
            .collect();
        let url = if plan.entry_port == 0 {
            String::new()
        } else {
            format!("http://127.0.0.1:{}", plan.entry_port)
        };
        let status = StackStatus {
            stack: plan.stack.clone(),
            supervisor: ProcessId::own(),
            started_ms,
            url,
            manifest,
            pods,
        };
        let board = Self { status: RefCell::new(status), folder, version: watch::Sender::new(0) };
        board.save();
        board
    }

    /// Changes what is said about a pod.
    pub fn change(&self, pod: &str, change: impl FnOnce(&mut PodStatus)) {
        {
            let mut status = self.status.borrow_mut();
            let Some(entry) = status.pods.iter_mut().find(|entry| entry.name == pod) else { return };
            let before = entry.clone();
            change(entry);
            if *entry == before {
                return;
            }
        }
        self.save();
        self.version.send_modify(|version| *version += 1);
    }

    /// Where a pod is in its life.
    pub fn phase(&self, pod: &str) -> Phase {
        self.status
            .borrow()
            .pods
            .iter()
            .find(|entry| entry.name == pod)
            .map(|entry| entry.phase)
            .unwrap_or_default()
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> StackStatus {
        self.status.borrow().clone()
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until a condition holds.
    pub async fn until(&self, condition: impl Fn(&StackStatus) -> bool) {
        let mut changes = self.changes();
        while !condition(&self.status.borrow()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn save(&self) {
        if let Err(error) = self.folder.write_status(&self.status.borrow()) {
            eprintln!("aistack: {error}");
        }
    }
}
