//! What this host has, as far as this process may use it.

use millrace_common::error::{Code, Error};
use millrace_common::resources::{ByteSize, Resources};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::config::WorkerConfig;

/// What the node offers: as configured, else as detected.
///
/// # Errors
/// [`Code::ConfigurationValue`] for an offer of nothing.
pub(super) fn offer(config: &WorkerConfig) -> Result<Resources, Error> {
    let cores = config.cores.unwrap_or_else(detect_cores);
    let memory = config.memory.unwrap_or_else(detect_memory);
    if cores == 0 || memory == ByteSize::default() {
        return Err(Error::new(
            Code::ConfigurationValue,
            format!("a node that offers {cores} cores and {memory} can run nothing"),
            "set --cores and --memory above zero, or leave them out to have them detected",
        ));
    }
    Ok(Resources::new(cores, memory))
}

/// The cores this process may run on: affinity and cgroup limits counted.
fn detect_cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

/// The memory of the machine, or of the cgroup when that is less.
fn detect_memory() -> ByteSize {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind);
    let machine = system.total_memory();
    let limit = system.cgroup_limits().map(|limits| limits.total_memory).filter(|limit| *limit > 0);
    ByteSize::bytes(limit.map_or(machine, |limit| limit.min(machine)))
}

/// Resident memory of a process in bytes; 0 when it is gone.
pub(super) fn resident_bytes(pid: u32) -> u64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_something_to_offer() {
        assert!(detect_cores() >= 1);
        assert!(detect_memory() > ByteSize::mib(64));
        assert!(resident_bytes(std::process::id()) > 1 << 20);
        assert_eq!(resident_bytes(u32::MAX), 0);
    }
}
