//! What the groups of a process share: one log, one thread, one connection to each peer.

use crate::NodeId;
use crate::channel::Channel;
use crate::log::{Log, LogError, LogOptions, Recovery};
use crate::options::{GroupOptions, StartError};
use crate::raft::StateMachine;
use crate::replicated::{Parts, Replicated};
use crate::tcp::{self, Connections, Here, Identity};
use crate::thread::RaftThread;
use crate::traffic::Traffic;
use crate::transport::{Nobody, Services, Transport};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

/// A process that runs groups.
pub struct Host {
    log: Log,
    recovery: Recovery,
    services: Services,
    transport: Arc<dyn Transport>,
    traffic: Traffic,
    thread: RaftThread,
}

/// How a process meets its peers.
pub struct Peers {
    /// Peers of other clusters are refused.
    pub cluster: u64,
    /// This process's member id, the same in each of its groups.
    pub node: NodeId,
    /// Where peers connect.
    pub listeners: Vec<TcpListener>,
    /// What connections go through; [`Clear`](crate::Clear) changes nothing.
    pub channel: Arc<dyn Channel>,
}

impl Host {
    /// Opens the log in `dir`; there are no peers.
    pub fn alone(dir: &Path, log: LogOptions) -> Result<Arc<Self>, StartError> {
        Self::open(dir, log, None)
    }

    /// Opens the log in `dir` and listens to peers.
    pub fn with_peers(dir: &Path, log: LogOptions, peers: Peers) -> Result<Arc<Self>, StartError> {
        Self::open(dir, log, Some(peers))
    }

    fn open(dir: &Path, log: LogOptions, peers: Option<Peers>) -> Result<Arc<Self>, StartError> {
        let (log, recovery) = Log::open(&dir.join("log"), log)?;
        let thread = RaftThread::start().map_err(StartError::Thread)?;
        let (services, traffic) = (Services::default(), Traffic::default());
        let transport: Arc<dyn Transport> = match peers {
            None => Arc::new(Nobody),
            Some(peers) => {
                let identity = Identity { cluster: peers.cluster, node: peers.node };
                let runtime = thread.handle();
                let channel = Arc::clone(&peers.channel);
                let here = Here { identity, services: services.clone(), traffic: traffic.clone() };
                tcp::listen(runtime, peers.listeners, here, channel).map_err(StartError::Listener)?;
                Arc::new(Connections::new(runtime.clone(), identity, peers.channel, traffic.clone()))
            }
        };
        Ok(Arc::new(Self { log, recovery, services, transport, traffic, thread }))
    }

    /// What was found in the log at start.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Starts a group. A group that has founded itself before goes on from its log and state;
    /// one with a single voter returns once every command acknowledged before is applied.
    pub async fn start<S: StateMachine>(
        self: &Arc<Self>,
        options: GroupOptions,
        machine: S,
    ) -> Result<Replicated<S>, StartError> {
        let parts = Parts {
            log: self.log.clone(),
            services: self.services.clone(),
            transport: Arc::clone(&self.transport),
            traffic: self.traffic.clone(),
        };
        let started = self.thread.run(Replicated::launch(parts, options, machine)).await;
        let mut group = started.unwrap_or_else(|| {
            Err(StartError::Raft("its thread has ended; the log of this process says why".to_owned()))
        })?;
        group.host = Some(Arc::clone(self));
        Ok(group)
    }

    /// The error that stopped the log, if one did.
    pub fn failure(&self) -> Option<LogError> {
        self.log.failure().map(LogError::Stopped)
    }

    /// Ends everything that runs for the groups.
    pub async fn stop(&self) {
        self.thread.stop().await;
    }
}
