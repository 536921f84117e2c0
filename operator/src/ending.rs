//! How pods end: what is asked of them is answered to its end wherever they roll, are drained or are one too many.

use std::net::SocketAddr;

use aistack_api::server::ServerConfig;
use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler, SleepAction};

/// The seconds of a pod that is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// For so long it goes on as if nothing were: its Service has others, and clients and proxies learn in that time that it is gone.
    linger: u16,
    /// For so long replies that have begun may take.
    drain: u16,
    /// From the last reply to the end of the process: what it knows is written then.
    closing: u16,
}

impl Ending {
    /// One of several behind a Service.
    pub const ONE_OF_SEVERAL: Self = Self { linger: 3, drain: 52, closing: 5 };
    /// The only one behind its Service: new requests wait for its successor, which must not come later for it.
    pub const ALONE: Self = Self { linger: 0, drain: 55, closing: 5 };
    /// A member of a cluster: it hands its lead over before, clients turn to the others by themselves, its streams end at once and no
    /// request takes longer than 7 s. More would only let a client that is stopped keep it away.
    pub const MEMBER: Self = Self { linger: 0, drain: 10, closing: 20 };

    /// All of it.
    pub(crate) fn grace(self) -> u16 {
        self.linger + self.drain + self.closing
    }

    /// A server that gives replies that time.
    pub(crate) fn server(self, admin: SocketAddr) -> ServerConfig {
        let mut server = ServerConfig::with_admin(admin);
        server.limits.drain_timeout_ms = self.drain_ms();
        server
    }

    /// The time that replies get, as `server.limits.drain_timeout_ms` has it.
    pub(crate) fn drain_ms(self) -> u64 {
        u64::from(self.drain) * 1000
    }

    pub(crate) fn lifecycle(self) -> Option<Lifecycle> {
        let sleep = SleepAction { seconds: i64::from(self.linger) };
        let pre_stop = LifecycleHandler { sleep: Some(sleep), ..LifecycleHandler::default() };
        (self.linger > 0).then(|| Lifecycle { pre_stop: Some(pre_stop), ..Lifecycle::default() })
    }
}
