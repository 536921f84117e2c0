//! Nodes that start, crash and come back, and the clients that use them.

use crate::disk::Disk;
use crate::journal::Journal;
use crate::network::{End, Net};
use crate::runtime::{Simulated, crash, draw, now, sleep, spawn_for, timeout};
use bytes::Bytes;
use parking_lot::Mutex;
use replication::log::Log;
use replication::transport::Services;
use replication::{GroupOptions, NodeId, Parts, Replicated, Traffic};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

pub type Group = Replicated<Journal, Simulated>;

/// One life of a node.
#[derive(Clone)]
pub struct Node {
    pub group: Arc<Group>,
    pub journal: Journal,
    pub disk: Disk,
    owner: u64,
}

/// What a client did, when, and what came of it.
#[derive(Debug, Clone)]
pub enum Operation {
    /// A write that was answered: where in the journal it stands.
    Write { start: Duration, end: Duration, command: u64, position: usize },
    /// A write that was not: it may stand there, once.
    Maybe { start: Duration, command: u64 },
    /// A read: how long the journal was, and its last command.
    Read { start: Duration, end: Duration, length: usize, last: u64 },
}

#[derive(Clone)]
pub struct Cluster {
    pub net: Net,
    pub nodes: Arc<Mutex<BTreeMap<NodeId, Node>>>,
    pub history: Arc<Mutex<Vec<Operation>>>,
    dir: PathBuf,
    founders: BTreeMap<NodeId, String>,
    lives: Arc<Mutex<u64>>,
}

impl Cluster {
    pub fn new(dir: PathBuf, founders: &[NodeId]) -> Self {
        let net = Net::default();
        net.heal();
        Self {
            net,
            nodes: Arc::default(),
            history: Arc::default(),
            dir,
            founders: founders.iter().map(|node| (*node, format!("node-{node}"))).collect(),
            lives: Arc::default(),
        }
    }

    /// Starts a node, whatever its last life left.
    pub async fn start(&self, node: NodeId) {
        let owner = {
            let mut lives = self.lives.lock();
            *lives += 1;
            1_000 * *lives + node
        };
        let dir = self.dir.join(node.to_string());
        std::fs::create_dir_all(&dir).expect("a directory");
        let founders =
            if self.founders.contains_key(&node) { self.founders.clone() } else { BTreeMap::new() };
        let options = GroupOptions {
            founders,
            snapshot_entries: 40,
            keep_entries: 10,
            ..GroupOptions::new(node, dir.clone())
        };
        let disk = Disk::default();
        let (log, _) = Log::open(&dir.join("log"), disk.options()).expect("the log opens after any crash");
        let services = Services::default();
        let transport = Arc::new(End { net: self.net.clone(), node, owner });
        let parts = Parts { log, services: services.clone(), transport, traffic: Traffic::default() };
        let journal = Journal::open(&dir);
        let (sender, receiver) = oneshot::channel();
        self.net.up(node, owner, services);
        let machine = journal.clone();
        spawn_for(owner, async move {
            let group = Group::launch(parts, options, machine).await.expect("the group starts");
            // The story waits.
            let _ = sender.send(group);
        });
        let group = Arc::new(receiver.await.expect("started"));
        self.nodes.lock().insert(node, Node { group, journal, disk, owner });
    }

    /// Ends a node as a power cut would.
    pub fn crash(&self, node: NodeId) {
        let Some(dead) = self.nodes.lock().remove(&node) else { return };
        self.net.down(node);
        dead.disk.crash();
        crash(dead.owner);
    }

    pub fn node(&self, node: NodeId) -> Option<Node> {
        self.nodes.lock().get(&node).cloned()
    }

    /// Where everybody stands.
    pub fn describe(&self) -> String {
        let told = |node: &Node| {
            format!("{} commands, {:?}", node.journal.state.lock().commands.len(), node.group.status())
        };
        self.nodes.lock().values().map(told).collect::<Vec<_>>().join("\n")
    }

    /// Whether a node was ever started.
    pub fn has_lived(&self, node: NodeId) -> bool {
        self.dir.join(node.to_string()).exists()
    }

    /// Any running node.
    pub fn any(&self) -> Option<Node> {
        let nodes = self.nodes.lock();
        if nodes.is_empty() {
            return None;
        }
        nodes.values().nth(draw(0..nodes.len() as u64) as usize).cloned()
    }

    /// Who leads, according to the node itself.
    pub fn leader(&self) -> Option<NodeId> {
        self.nodes.lock().iter().find(|(id, node)| node.group.leader() == Some(**id)).map(|(id, _)| *id)
    }

    pub async fn led(&self) -> NodeId {
        loop {
            if let Some(leader) = self.leader() {
                return leader;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes and reads through any node until `until`.
    pub async fn client(self, number: u64, until: Duration) {
        let mut count = 0;
        while now() < until {
            sleep(Duration::from_millis(draw(1..60))).await;
            let Some(node) = self.any() else { continue };
            let start = now();
            let operation = if draw(0..3) < 2 {
                count += 1;
                let command = number << 32 | count;
                let written = node.group.propose(Bytes::copy_from_slice(&command.to_le_bytes()));
                match timeout(Duration::from_secs(3), written).await {
                    Ok(Ok(position)) => Operation::Write { start, end: now(), command, position },
                    Ok(Err(_)) | Err(_) => Operation::Maybe { start, command },
                }
            } else {
                match timeout(Duration::from_secs(3), node.group.read_barrier()).await {
                    Ok(Ok(())) => {
                        let state = node.journal.state.lock();
                        let (length, last) = (state.commands.len(), state.commands.last().copied());
                        Operation::Read { start, end: now(), length, last: last.unwrap_or(0) }
                    }
                    Ok(Err(_)) | Err(_) => continue,
                }
            };
            self.history.lock().push(operation);
        }
    }

    /// Waits until every node has applied the same; answers the journal.
    pub async fn settled(&self) -> Vec<u64> {
        let limit = now() + Duration::from_mins(2);
        loop {
            sleep(Duration::from_millis(100)).await;
            let journals: Vec<Vec<u64>> = {
                let nodes = self.nodes.lock();
                nodes.values().map(|node| node.journal.state.lock().commands.clone()).collect()
            };
            let passed = match self.any() {
                Some(node) => {
                    matches!(timeout(Duration::from_secs(3), node.group.read_barrier()).await, Ok(Ok(())))
                }
                None => false,
            };
            if passed && journals.windows(2).all(|pair| pair[0] == pair[1]) {
                return journals.into_iter().next().unwrap_or_default();
            }
            assert!(now() < limit, "the nodes do not come together: {}", self.describe());
        }
    }
}
