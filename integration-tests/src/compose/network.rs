//! A network of its own for each service: namespaces on one bridge, which this machine can not reach
//! but through the links of those that publish a port.
//!
//! Promises: every namespace, link and file that was made is removed when it is dropped, and what a
//! test program that was killed left behind when the next one starts. Needs root.
//! Never does: touch a namespace or a link that it did not make; all their names begin alike.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the names of all namespaces begin with, before the id of their process.
const PREFIX: &str = "mrnet-";
/// Where `ip netns` keeps namespaces, and the files that it puts over those of /etc in each.
const NAMESPACES: &str = "/run/netns";
const FILES: &str = "/etc/netns";
/// The bridge, in a namespace of its own.
const BRIDGE: &str = "bridge";
/// Bits of a published link's network: the two ends.
const LINK_BITS: u8 = 30;

/// The place of one service instance in the network.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its address among the services.
    pub address: Ipv4Addr,
    /// Where this machine reaches it; none when it publishes nothing.
    pub published: Option<Ipv4Addr>,
}

/// The bridge and the namespaces on it.
#[derive(Debug)]
pub struct Network {
    id: u32,
    num_places: u8,
    namespaces: Vec<String>,
}

impl Network {
    /// Why there can be no such network here; none when there can.
    #[must_use]
    pub fn why_not_here() -> Option<String> {
        Self::new().err().map(|error| format!("needs root, and `ip`: {error}"))
    }

    /// An empty network.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new() -> Result<Self, String> {
        remove_stale();
        let mut network = Self { id: std::process::id(), num_places: 0, namespaces: Vec::new() };
        let switch = network.add_namespace("switch")?;
        ip(&["-n", &switch, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", BRIDGE, "up"])?;
        network.lead_nowhere(&switch)?;
        Ok(network)
    }

    /// What this machine sends to the services' addresses goes into a link that nobody hears: it
    /// must not leave the machine, where something else may answer.
    fn lead_nowhere(&self, switch: &str) -> Result<(), String> {
        let link = format!("mr{}x", self.id);
        let [.., net] = self.id.to_be_bytes();
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "nowhere", "netns", switch])?;
        ip(&["address", "add", &format!("198.18.{net}.1/24"), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        ip(&["-n", switch, "link", "set", "nowhere", "up"])
    }

    fn add_namespace(&mut self, name: &str) -> Result<String, String> {
        let namespace = format!("{PREFIX}{}-{name}", self.id);
        ip(&["netns", "add", &namespace])?;
        self.namespaces.push(namespace.clone());
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The address that the next place gets: networks for benchmarks, in which no machine lies.
    #[must_use]
    pub fn next_address(&self) -> Ipv4Addr {
        let [.., net] = self.id.to_be_bytes();
        Ipv4Addr::new(198, 18, net, self.num_places + 2)
    }

    /// A namespace with an address on the bridge; with a link to this machine when it
    /// `is_published`. `hosts` is its /etc/hosts.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add(&mut self, name: &str, hosts: &str, is_published: bool) -> Result<Place, String> {
        let address = self.next_address();
        let index = self.num_places;
        self.num_places += 1;
        let namespace = self.add_namespace(name)?;
        let files = Path::new(FILES).join(&namespace);
        std::fs::create_dir_all(&files)
            .and_then(|()| std::fs::write(files.join("hosts"), hosts))
            .map_err(|error| format!("{}: {error}", files.display()))?;
        let switch = self.namespaces[0].clone();
        let port = format!("port{index}");
        ip(&[
            "-n", &namespace, "link", "add", "eth0", "type", "veth", "peer", "name", &port,
            "netns", &switch,
        ])?;
        ip(&["-n", &switch, "link", "set", &port, "master", BRIDGE])?;
        ip(&["-n", &switch, "link", "set", &port, "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        let published = is_published.then(|| self.publish(&namespace, index)).transpose()?;
        Ok(Place { namespace, address, published })
    }

    fn publish(&self, namespace: &str, index: u8) -> Result<Ipv4Addr, String> {
        let [.., net] = self.id.to_be_bytes();
        let (outer, inner) = (
            Ipv4Addr::new(198, 19, net, index * 4 + 1),
            Ipv4Addr::new(198, 19, net, index * 4 + 2),
        );
        // Fifteen bytes are the most that a link's name may have.
        let link = format!("mr{}p{index}", self.id);
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth1", "netns", namespace])?;
        ip(&["address", "add", &format!("{outer}/{LINK_BITS}"), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        ip(&["-n", namespace, "address", "add", &format!("{inner}/{LINK_BITS}"), "dev", "eth1"])?;
        ip(&["-n", namespace, "link", "set", "eth1", "up"])?;
        Ok(inner)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Links go with the namespaces that hold their other ends.
        for namespace in self.namespaces.iter().rev() {
            remove(namespace);
        }
    }
}

fn remove(namespace: &str) {
    if let Err(error) = ip(&["netns", "delete", namespace]) {
        eprintln!("{namespace} stays: {error}");
    }
    // Not there for the bridge's.
    let _ = std::fs::remove_dir_all(Path::new(FILES).join(namespace));
}

/// Removes the namespaces of test programs that are gone.
fn remove_stale() {
    for entry in std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let id = rest.split('-').next().unwrap_or_default();
        if !PathBuf::from("/proc").join(id).exists() {
            remove(&name);
        }
    }
}

/// Runs `ip` with these arguments.
fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), said.trim()))
}
