//! The typed configuration of every AIStack component, the ports they listen on, and the data that their clients exchange.
//!
//! The operator renders a component's configuration by serialising the very struct that the component parses, so a
//! difference between the two is a compile error. This crate refuses to know about runtimes, sockets and Kubernetes:
//! it is serde, schemars and plain data.
//!
//! ```
//! let limits = aistack_api::server::Limits::default();
//! assert!(limits.max_body_bytes > 0);
//! ```

pub mod cause;
pub mod engine;
pub mod modelhub;
pub mod operator;
pub mod rag;
pub mod registry;
pub mod server;
pub mod tinyinfer;
pub mod tinykv;
pub mod traffic;
pub mod vectorforge;
