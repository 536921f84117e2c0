//! Free loopback ports, and who holds one that is not free.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

/// Where ports that last are looked for: below what Linux lends by default (`net.ipv4.ip_local_port_range`), above the numbers
/// that well-known servers have.
const LASTING: std::ops::Range<u16> = 14_000..19_000;

/// Hands out loopback ports, each once on this machine for as long as the value lives.
///
/// Between the moment that a port is found free and the moment that a pod listens there, a second `aistack up` could find
/// it free as well. So each port comes with a reservation: an abstract Unix socket of its name, which the kernel gives to
/// one process at a time and takes back when that process ends.
#[derive(Debug, Default)]
pub struct Ports {
    reservations: BTreeMap<u16, UnixListener>,
}

impl Ports {
    /// The wanted port when it is free, else one that the kernel picks.
    pub fn prefer(&mut self, wanted: u16) -> io::Result<u16> {
        if let Some(port) = self.exactly(wanted) {
            return Ok(port);
        }
        loop {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if let Some(port) = self.exactly(port) {
                return Ok(port);
            }
        }
    }

    /// A port that is to stay the same over many starts: not one of those that the kernel lends to whoever connects
    /// somewhere. `seed` says where the search begins, so that stacks do not all take the first ones.
    pub fn lasting(&mut self, seed: &str) -> io::Result<u16> {
        let begin = seed.bytes().fold(0_u16, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let size = LASTING.end - LASTING.start;
        let found = (0..size).find_map(|step| {
            let offset = (u32::from(begin) + u32::from(step)) % u32::from(size);
            self.exactly(LASTING.start + u16::try_from(offset).ok()?)
        });
        found.ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, format!("all of {LASTING:?} are taken")))
    }

    /// The wanted port and no other; `None` when it is taken.
    pub fn exactly(&mut self, wanted: u16) -> Option<u16> {
        if self.reservations.contains_key(&wanted) {
            return None;
        }
        let reservation = reserve(wanted)?;
        is_free(wanted).then(|| {
            self.reservations.insert(wanted, reservation);
            wanted
        })
    }
}

fn reserve(port: u16) -> Option<UnixListener> {
    let address = SocketAddr::from_abstract_name(format!("aistack-port-{port}")).ok()?;
    UnixListener::bind_addr(&address).ok()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name as `ps` shows it.
    pub name: String,
    /// Its id.
    pub pid: u32,
}

/// The process that listens on a TCP port of this machine, when the kernel lets us see it.
pub fn holder(port: u16) -> Option<Holder> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, port))?;
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new(&wanted))
        });
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
            return Some(Holder { name, pid });
        }
    }
    None
}

/// The inode of the listening socket of a port in a table of `/proc/net` (Documentation/networking/proc_net_tcp.rst).
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let found = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        if found == port && *state == LISTEN { inode.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 x\n\
                     1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 31338 1 x\n";
        assert_eq!(listening_inode(table, 8080), Some(31337));
        assert_eq!(listening_inode(table, 8081), None, "connected, not listening");
        assert_eq!(listening_inode(table, 22), None);
    }

    #[test]
    fn a_taken_port_names_its_holder_and_another_is_given() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert_eq!(holder(port).map(|holder| holder.pid), Some(std::process::id()));
        let mut ports = Ports::default();
        assert_eq!(ports.exactly(port), None);
        let other = ports.prefer(port).expect("another port");
        assert_ne!(other, port);
        assert_ne!(ports.prefer(other).expect("a third"), other, "no port is given twice");
        assert_eq!(Ports::default().exactly(other), None, "not by anybody else either");
        drop(ports);
        assert_eq!(Ports::default().exactly(other), Some(other));
    }

    #[test]
    fn ports_that_last_are_none_that_the_kernel_lends() {
        let mut ports = Ports::default();
        let first = ports.lasting("stack/tinykv-0").expect("a free port");
        let second = ports.lasting("stack/tinykv-0").expect("another");
        assert!(
            first != second && [first, second].iter().all(|port| LASTING.contains(port)),
            "{first} {second}"
        );
    }
}
