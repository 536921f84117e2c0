//! Which addresses the operator calls. A manifest names any host, and what a name stands for is its owner's to say; neither may
//! lead to loopback and link-local addresses, where a pod and its node talk to themselves, or to a cloud's metadata service.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;

/// Metadata services and node agents of clouds that are not link-local: AWS on IPv6, Azure, Alibaba, Oracle.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Resolves names, and leaves out what may not be called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    /// Whether all may be called, by an operator that runs on somebody's own machine.
    pub local: bool,
}

impl Guard {
    /// Whether an address may be called.
    pub(super) fn admits(self, address: IpAddr) -> bool {
        let is_own = match address.to_canonical() {
            IpAddr::V4(v4) => {
                let is_this_network = v4.octets()[0] == 0;
                v4.is_loopback()
                    || v4.is_link_local()
                    || is_this_network
                    || v4.is_broadcast()
                    || v4.is_multicast()
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
            }
        };
        self.local || !(is_own || METADATA.contains(&address.to_canonical()))
    }

    /// Addresses of a host, be it a name or an address itself.
    pub(super) async fn resolve(self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let admitted: Vec<SocketAddr> =
            found.into_iter().filter(|address| self.admits(address.ip())).collect();
        if admitted.is_empty() { Err(io::Error::other(NotAdmitted)) } else { Ok(admitted) }
    }
}

/// All addresses of a host are of the operator's own surroundings.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the host is loopback, link-local or a metadata service, which the operator does not call")]
pub(super) struct NotAdmitted;

impl Service<Name> for Guard {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = *self;
        // The connector puts the port in.
        Box::pin(async move { Ok(guard.resolve(name.as_str(), 0).await?.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_the_operator_is_not_called() {
        let table = [
            ("10.1.2.3", true),
            ("192.168.1.1", true),
            ("93.184.216.34", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("100.100.100.200", false),
            ("168.63.129.16", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
        ];
        for (address, admitted) in table {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(Guard { local: false }.admits(address), admitted, "{address}");
            assert!(Guard { local: true }.admits(address));
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_stand_for() {
        let refused = Guard { local: false }.resolve("localhost", 80).await.expect_err("it is this machine");
        assert!(refused.to_string().contains("does not call"), "{refused}");
        assert!(Guard { local: true }.resolve("localhost", 80).await.is_ok());
        // As inet_aton reads it, which resolvers do.
        assert!(Guard { local: false }.resolve("127.1", 80).await.is_err());
    }
}
