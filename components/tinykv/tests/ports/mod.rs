//! Ports of this machine for servers that tests start.

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives to connections: one that was free when it was asked for would be somebody's by the time that the
/// server has started.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// The same, with the host.
#[allow(dead_code, reason = "not every program of tests wants it")]
pub fn address() -> String {
    format!("127.0.0.1:{}", port())
}

/// A port at which nobody listens, and which no test of this program was given before.
pub fn port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let begin = std::process::id() % u32::from(COUNT);
        AtomicU16::new(u16::try_from(begin).expect("less than the count"))
    });
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
