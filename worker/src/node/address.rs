//! The address under which other nodes reach this one, when none is configured: the one from which
//! this host reaches its master.
//!
//! Never does: send a packet. Connecting a datagram socket only picks the way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::net::{UdpSocket, lookup_host};

/// As `host` in the configuration: to be found out.
pub(super) const AUTO: &str = "auto";

/// The address from which this host reaches `master`, a `host:port`; in brackets when it is of
/// version 6.
///
/// # Errors
/// When the name is not known, or there is no way there.
pub(super) async fn toward(master: &str) -> io::Result<String> {
    let mut refused = io::Error::other(format!("{master} has no address"));
    for target in lookup_host(master).await? {
        let any: IpAddr = match target {
            _ if target.is_ipv4() => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(target).await.and_then(|()| socket.local_addr()) {
            Ok(local) => {
                return Ok(match local.ip() {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                });
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reaches_the_master_over_loopback_is_on_loopback() {
        assert_eq!(toward("127.0.0.1:7070").await.unwrap(), "127.0.0.1");
        assert!(toward("no-such-host.invalid:7070").await.is_err());
    }
}
