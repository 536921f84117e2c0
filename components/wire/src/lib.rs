//! The protocols that cross a process boundary: etcd's v3 API, and the project's own `platform.v1` contracts.
//!
//! Nothing but generated code lives here (`cargo xtask gen` writes `src/generated` from `proto/`; see
//! `proto/PROVENANCE.md`). Components turn these types into their own at the door.
//!
//! ```
//! use wire::etcd::etcdserverpb::PutRequest;
//! let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
//! assert_eq!(put.key.as_ref(), b"k");
//! ```

#![allow(missing_docs, clippy::all, clippy::pedantic, rust_2018_idioms)]

/// etcd's v3 API.
pub mod etcd {
    /// Users, roles and permissions.
    pub mod authpb {
        include!("generated/authpb.rs");
    }
    /// Keys, values and events.
    pub mod mvccpb {
        include!("generated/mvccpb.rs");
    }
    /// Services and messages.
    pub mod etcdserverpb {
        include!("generated/etcdserverpb.rs");
    }
    /// Locks.
    pub mod v3lockpb {
        include!("generated/v3lockpb.rs");
    }
    /// Elections.
    pub mod v3electionpb {
        include!("generated/v3electionpb.rs");
    }

    /// The descriptors of all of these, for gRPC reflection and for JSON.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/etcd.bin");
}

/// The project's own contracts.
pub mod platform {
    /// Version 1.
    pub mod v1 {
        include!("generated/platform.v1.rs");

        /// The contracts' descriptors, for gRPC reflection.
        pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/platform.v1.bin");
    }
}
