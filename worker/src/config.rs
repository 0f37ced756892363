//! What the worker reads at its start, in its role as node. Containers read nothing but their launch
//! context.

use std::path::PathBuf;
use std::time::Duration;

use millrace_common::labels::Labels;
use millrace_common::resources::ByteSize;
use millrace_common::settings;

settings! {
    /// Configuration of `millrace-worker`.
    pub struct WorkerConfig for "millrace-worker" {
        /// `host:port` of the master; of several masters, separated by commas, the one that leads is
        /// found.
        master: String = "127.0.0.1:7070";
        /// File, readable by this user only, with the token that this node shows to the master; none
        /// in a cluster without tokens.
        token_file: Option<PathBuf> = "";
        /// Name of this node in the cluster, the same after a restart; the host's name when not set.
        node_id: Option<String> = "";
        /// Name or address under which other nodes reach the containers of this one; `auto` is the
        /// address from which this host reaches its master.
        host: String = "auto";
        /// Cores to offer; all that this process may use when not set.
        cores: Option<u32> = "";
        /// Memory to offer; all that the machine or the process's cgroup has when not set.
        memory: Option<ByteSize> = "";
        /// Labels of this node, for the `node_selector` of applications. One without a value has the
        /// value `true`.
        label: Labels = "";
        /// Directory for the containers' files and logs.
        work_dir: PathBuf = "millrace-work";
        /// Variables of this worker's environment that applications may refer to as
        /// secret://env/NAME, separated by commas; none when empty.
        secret_env: Option<String> = "";
        /// Directory below which applications may refer to files as secret://file/PATH.
        secret_dir: PathBuf = "/run/secrets";
        /// With less than this free on the disk of work_dir the node is unhealthy: it gets no new
        /// containers, and those on it move to other nodes where there is room.
        min_free_disk: ByteSize = "256MiB";
        /// How often a small file is written to work_dir, synced and removed.
        disk_check_interval: Duration = "2s";
        /// How long the disk of an unhealthy node has to be well, with a quarter more free than
        /// min_free_disk, before the node is used again; each relapse within ten minutes doubles it.
        disk_recover_after: Duration = "30s";
        /// Containers that have ended and whose files are kept, so that their logs stay readable.
        kept_containers: u32 = "100";
        /// Most that each of a container's two logs holds on the disk; the oldest lines go first.
        log_max: ByteSize = "32MiB";
        /// Most that a container may have on the disk, its logs and spilled blocks included; one that
        /// has more is ended.
        container_disk: ByteSize = "64GiB";
        /// How long containers have to end by themselves when this worker is told to end.
        shutdown_grace: Duration = "10s";
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millrace_common::config::{Sources, check_document, load};

    use super::*;

    #[test]
    fn the_document_is_what_the_declaration_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let bless = std::env::var_os("MILLRACE_BLESS").is_some();
        check_document::<WorkerConfig>(&path, bless).unwrap();
    }

    #[test]
    fn the_defaults_fit_their_keys() {
        load::<WorkerConfig>(&Sources::default()).unwrap();
    }
}
