//! A network that delays, loses and cuts, by the seed.

use crate::runtime::{Owner, draw, sleep, spawn_for};
use parking_lot::Mutex;
use replication::NodeId;
use replication::transport::{Answering, Peer, Request, Services, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

#[derive(Default)]
struct Wires {
    /// A running process: its tasks' owner and its groups.
    up: BTreeMap<NodeId, (Owner, Services)>,
    /// Directions in which nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// When the last request of a direction arrives.
    last: BTreeMap<(NodeId, NodeId), Duration>,
    /// Of a thousand messages so many are lost.
    loss: u64,
    /// The longest delay, in microseconds.
    delay: u64,
}

/// The network of a simulation.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Wires>>);

impl Net {
    pub fn up(&self, node: NodeId, owner: Owner, services: Services) {
        self.0.lock().up.insert(node, (owner, services));
    }

    pub fn down(&self, node: NodeId) {
        self.0.lock().up.remove(&node);
    }

    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.lock().cut.insert((from, to));
    }

    pub fn mend(&self, from: NodeId, to: NodeId) {
        self.0.lock().cut.remove(&(from, to));
    }

    pub fn heal(&self) {
        let mut wires = self.0.lock();
        wires.cut.clear();
        (wires.loss, wires.delay) = (0, 2_000);
    }

    pub fn weather(&self, loss: u64, delay: u64) {
        let mut wires = self.0.lock();
        (wires.loss, wires.delay) = (loss, delay);
    }

    fn lost(&self, from: NodeId, to: NodeId) -> bool {
        let wires = self.0.lock();
        let loss = wires.loss;
        wires.cut.contains(&(from, to)) || (loss > 0 && draw(0..1_000) < loss)
    }

    /// Waits as a connection does that sends again what nobody has acknowledged: until the direction is whole, or the
    /// connection gives up.
    async fn mended(&self, from: NodeId, to: NodeId) {
        const STEP: Duration = Duration::from_millis(5);
        for _ in 0..800 {
            if !self.0.lock().cut.contains(&(from, to)) {
                return;
            }
            sleep(STEP).await;
        }
    }

    /// A delay that keeps the order of one direction, as a connection does.
    fn delay(&self, from: NodeId, to: NodeId) -> Duration {
        let now = crate::runtime::now();
        let mut wires = self.0.lock();
        let arrival = now + Duration::from_micros(draw(50..wires.delay.max(51)));
        let last = wires.last.entry((from, to)).or_default();
        *last = (*last).max(arrival);
        last.saturating_sub(now)
    }
}

/// A process's end of the network.
pub struct End {
    pub net: Net,
    pub node: NodeId,
    pub owner: Owner,
}

impl Transport for End {
    fn call(&self, to: &Peer, request: Request) -> Answering {
        let (sender, receiver) = oneshot::channel();
        let (net, from, to) = (self.net.clone(), self.node, to.node);
        let target = net.0.lock().up.get(&to).cloned();
        // A dead process sends nothing; its handles may still be held.
        let alive = net.0.lock().up.get(&from).is_some_and(|(owner, _)| *owner == self.owner);
        match target {
            Some((owner, services)) if alive && !net.lost(from, to) => {
                let delay = net.delay(from, to);
                spawn_for(owner, async move {
                    sleep(delay).await;
                    let answer = services.answer(from, request).await;
                    net.mended(to, from).await;
                    sleep(net.delay(to, from)).await;
                    if net.lost(to, from) {
                        silence().await;
                    }
                    // Nobody may wait any more.
                    let _ = sender.send(answer);
                });
            }
            Some(_) => spawn_for(0, async move {
                silence().await;
                drop(sender);
            }),
            // Refused: it never left.
            None => drop(sender.send(Err(io::ErrorKind::NotConnected.into()))),
        }
        Box::pin(async move {
            receiver
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it broke")))
        })
    }
}

/// What one waits before a silent peer counts as gone.
async fn silence() {
    sleep(Duration::from_millis(1_000 + draw(0..2_000))).await;
}
