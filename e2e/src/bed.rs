//! The one tier-two test bed of a test binary: a control plane with hollow nodes, on a runtime that no single test ends.

use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use crate::hollow::{Hollow, HollowNode, Programs, programs};
use crate::plane::{Plane, Tier};
use crate::process::Watchdog;

/// A control plane with controllers, a scheduler and nodes.
pub struct Bed {
    /// The control plane.
    pub plane: Plane,
    /// Its nodes.
    pub hollow: Hollow,
    /// Whether pods of TinyKV are processes; else why not.
    pub processes: Result<(), String>,
    _watchdog: Watchdog,
    _runtime: Runtime,
}

impl Bed {
    /// The bed; `None`, and a line that says so, where it cannot be built.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Bed>> = OnceLock::new();
        // On a thread of its own: a runtime begins here, inside that of the test that came first.
        let begin = || std::thread::spawn(Self::begin).join().expect("it does not panic");
        SHARED.get_or_init(|| begin().expect("a test bed")).as_ref()
    }

    /// The same, for a test whose pods of TinyKV have to be processes.
    pub fn of_processes() -> Option<&'static Self> {
        let bed = Self::shared()?;
        if let Err(why) = &bed.processes {
            eprintln!("{why}: not run");
            return None;
        }
        Some(bed)
    }

    fn begin() -> Result<Option<Self>> {
        if Plane::programs()?.is_none() {
            eprintln!("no Go toolchain to build the control plane with: not run");
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let gpu = |product: &str| Some((1, product.to_owned()));
        let nodes = vec![
            HollowNode::new("node-1"),
            HollowNode::new("node-2"),
            HollowNode { gpus: gpu("NVIDIA-A100-SXM4-80GB"), ..HollowNode::new("node-with-a-gpu") },
            HollowNode { gpus: gpu("NVIDIA-L4"), ..HollowNode::new("node-with-another") },
        ];
        let (processes, programs) = match programs() {
            Ok(programs) => (Ok(()), programs),
            Err(why) => (Err(why), Programs::default()),
        };
        let (plane, hollow) = runtime.block_on(async {
            let plane = Plane::start(Tier::Controllers).await?;
            plane.install_kinds().await?;
            let hollow = Hollow::start(plane.client(), nodes, programs).await.context("hollow nodes")?;
            anyhow::Ok((plane, hollow))
        })?;
        let watchdog = Watchdog::over(&[], hollow.folder())?;
        Ok(Some(Self { plane, hollow, processes, _watchdog: watchdog, _runtime: runtime }))
    }
}
