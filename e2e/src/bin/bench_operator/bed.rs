//! The machine that everything runs on: a control plane, hollow nodes, and what each takes of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::crowd::usage;
use e2e::{Census, Engines, Hollow, HollowNode, Ledger, Plane, Tier};
use kube::Client;

use super::subject::Subject;

/// All of it.
pub struct Bed {
    pub plane: Plane,
    pub hollow: Hollow,
    pub engines: Engines,
    pub client: Client,
    pub ledger: Ledger,
}

impl Bed {
    /// Starts it.
    pub async fn start() -> Result<Self> {
        let plane = Plane::start(Tier::Controllers).await?;
        plane.install_kinds().await?;
        let gpu = (100_000, "NVIDIA-A100-SXM4-80GB".to_owned());
        let large = |name: &str| HollowNode { cpu: 100_000, memory_gib: 1_000_000, ..HollowNode::new(name) };
        let nodes = vec![large("node-1"), HollowNode { gpus: Some(gpu), ..large("node-2") }];
        let hollow = Hollow::start(plane.client(), nodes, BTreeMap::new()).await.context("hollow nodes")?;
        let (client, ledger) = (plane.client(), Ledger::new(plane.audit_log()));
        Ok(Self { plane, hollow, engines: Engines::start().await?, client, ledger })
    }

    /// Processor time of each process so far, and of this one, which is nodes, engines and whoever applies.
    pub fn cpu(&self, subject: &Subject) -> Result<BTreeMap<String, Duration>> {
        let mut all = BTreeMap::from([
            ("the bench itself (nodes, stand-ins, kubectl)".to_owned(), usage::cpu(std::process::id())?),
            ("the operator".to_owned(), usage::cpu(subject.id())?),
        ]);
        for (name, id) in self.plane.processes() {
            all.insert(name.to_owned(), usage::cpu(id)?);
        }
        Ok(all)
    }

    /// Requests to the API server so far by what they ask for, whoever asked.
    pub async fn requests(&self) -> Result<BTreeMap<String, f64>> {
        let mut all = BTreeMap::new();
        for line in self.plane.figures().await?.lines() {
            let Some((labels, value)) =
                line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let rest = labels.split_once(&format!("{name}=\""))?.1;
                rest.split_once('"').map(|(value, _)| value)
            };
            let [verb, resource, part] =
                ["verb", "resource", "subresource"].map(|name| label(name).unwrap_or_default());
            *all.entry(format!("{verb} {resource}/{part}")).or_default() +=
                value.parse::<f64>().unwrap_or(0.0);
        }
        Ok(all)
    }

    /// A census of our kinds.
    pub fn census(&self) -> Census {
        Census::begin(&self.client, None)
    }

    /// Waits until nobody wrote anything for `pause`.
    pub async fn until_silent(&mut self, pause: Duration) -> Result<e2e::crowd::ledger::Writes> {
        let mut all = self.ledger.since_last()?;
        let mut last = Instant::now();
        while last.elapsed() < pause {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let more = self.ledger.since_last()?;
            all.leases += more.leases;
            if more.total() > 0 {
                last = Instant::now();
                all.refused += more.refused;
                for (kind, count) in more.by_kind {
                    *all.by_kind.entry(kind).or_default() += count;
                }
            }
        }
        Ok(all)
    }
}
