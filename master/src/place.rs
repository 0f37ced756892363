//! Where this master listens, told apart from every other place: host, network namespace, address.
//!
//! Two processes can not listen in one place at once. So a master that listens where the last leader
//! listened knows that the last leader is gone, and need not wait for it.

use std::net::SocketAddr;
use std::path::Path;

/// The place of a listener, as text to be compared.
#[must_use]
pub(crate) fn of(address: SocketAddr) -> String {
    let machine = read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/random/boot_id"));
    let host = read("/proc/sys/kernel/hostname");
    let network = std::fs::read_link(Path::new("/proc/self/ns/net"))
        .ok()
        .map(|link| link.display().to_string());
    let parts = [machine, host, network].map(Option::unwrap_or_default);
    format!("{}/{address}", parts.join("/"))
}

fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
