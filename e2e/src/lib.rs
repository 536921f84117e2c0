//! # e2e
//!
//! Tests of the operator on a real control plane: etcd and kube-apiserver (and, from tier two on, the controller manager and
//! the scheduler), built from Go modules by `hack/plane` and started here like any other child process.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use e2e::{Plane, Tier};
//!
//! let plane = Plane::start(Tier::ApiServer).await?;
//! plane.install_kinds().await?;
//! let version = plane.client().apiserver_version().await?;
//! assert_eq!(version.minor, "37");
//! # Ok(())
//! # }
//! ```
//!
//! Nothing stays behind: processes end when the plane is dropped, and when the test process dies without a word.

pub mod bed;
pub mod crowd;
pub mod hollow;
pub mod keys;
pub mod module;
pub mod operator;
pub mod plane;
pub mod process;
pub mod story;
pub mod wait;

pub use bed::Bed;
pub use crowd::{Census, Crowd, Engines, Ledger};
pub use hollow::{Hollow, HollowNode};
pub use operator::Running;
pub use plane::{Plane, Tier};
pub use story::Story;
