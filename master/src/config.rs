//! What the master reads at its start.

use std::path::PathBuf;
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::settings;

pub use crate::scheduler::Queues;

settings! {
    /// Configuration of `millrace-master`.
    pub struct MasterConfig for "millrace-master" {
        /// Address of the one port for gRPC, REST, metrics and logs. Port 0 takes any free one.
        listen: String = "127.0.0.1:7070";
        /// `host:port` under which workers and drivers reach this master; the address it listens on
        /// when not set.
        advertise: Option<String> = "";
        /// Name of the cluster. Two clusters may share a table.
        cluster: String = "local";
        /// DynamoDB table that holds the applications' heads and the master's state.
        table: String = "millrace";
        /// AWS region; the SDK's usual chain when not set.
        region: Option<String> = "";
        /// AWS endpoint, as http://127.0.0.1:4566; the SDK's usual chain when not set.
        endpoint: Option<String> = "";
        /// File, readable by this user only, with the cluster's secret, as `millrace token init` makes
        /// it; the same for all masters of a cluster. Without it there are no tokens, and the master
        /// listens on loopback only.
        secret_file: Option<PathBuf> = "";
        /// File to which is appended who did what to which application, one JSON object a line. It is
        /// moved aside at 16 MiB, and five of those are kept; the log of the process when not set.
        audit_file: Option<PathBuf> = "";
        /// File to write the address to once the master listens, for scripts that asked for port 0.
        port_file: Option<PathBuf> = "";
        /// How often nodes and drivers say that they live.
        heartbeat_interval: Duration = "1s";
        /// A node that was silent for this long gets no new containers.
        suspect_after: Duration = "5s";
        /// A node or a driver that was silent for this long is lost, with all that runs on it.
        lost_after: Duration = "15s";
        /// How long a new leader waits for the nodes it knows of before it grants anything.
        adopt_timeout: Duration = "15s";
        /// How long a container has between the request to end and its kill.
        kill_grace: Duration = "10s";
        /// How often the leader renews its leadership.
        leader_renew_interval: Duration = "2s";
        /// A leader whose last renewal is older than this stops serving.
        leader_step_down_after: Duration = "6s";
        /// A standby that saw no renewal for this long takes over.
        leader_take_over_after: Duration = "10s";
        /// First delay before a failed driver is started again; it doubles up to
        /// attempt_backoff_max.
        attempt_backoff: Duration = "1s";
        /// Longest delay before a failed driver is started again.
        attempt_backoff_max: Duration = "60s";
        /// This many driver failures within attempt_window without a commit end the application.
        attempt_failures_max: u32 = "5";
        /// Driver failures older than this are forgiven.
        attempt_window: Duration = "10m";
        /// Shares of the cluster that applications are submitted to. `guarantee` is what nobody else
        /// is given, used or not (default 0%); `cap` is what the queue never goes beyond (default
        /// 100%); `submit` names who may submit to it (default everybody). The queue `default` is
        /// always there.
        queue: Queues = "";
    }
}

/// The intervals and limits that the cores decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// See [`MasterConfig::heartbeat_interval`].
    pub heartbeat_interval: Duration,
    /// See [`MasterConfig::suspect_after`].
    pub suspect_after: Duration,
    /// See [`MasterConfig::lost_after`].
    pub lost_after: Duration,
    /// See [`MasterConfig::adopt_timeout`].
    pub adopt_timeout: Duration,
    /// See [`MasterConfig::kill_grace`].
    pub kill_grace: Duration,
    /// See [`MasterConfig::attempt_backoff`].
    pub attempt_backoff: millrace_common::retry::Backoff,
    /// See [`MasterConfig::attempt_failures_max`].
    pub attempt_failures_max: u32,
    /// See [`MasterConfig::attempt_window`].
    pub attempt_window: Duration,
}

impl MasterConfig {
    /// Checks what no single key can say.
    ///
    /// # Errors
    /// [`Code::ConfigurationValue`] when a deposed leader could go on while its successor serves.
    pub fn check(&self) -> Result<(), Error> {
        let (renew, down, over) =
            (self.leader_renew_interval, self.leader_step_down_after, self.leader_take_over_after);
        if renew < down && down < over {
            return Ok(());
        }
        Err(Error::new(
            Code::ConfigurationValue,
            format!(
                "leader_renew_interval is {renew:?}, leader_step_down_after {down:?} and \
                 leader_take_over_after {over:?}: a leader would serve beside its successor"
            ),
            "let each be longer than the one before, as 2s, 6s and 10s",
        ))
    }

    /// The part that the cores decide by.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing {
            heartbeat_interval: self.heartbeat_interval,
            suspect_after: self.suspect_after,
            lost_after: self.lost_after,
            adopt_timeout: self.adopt_timeout,
            kill_grace: self.kill_grace,
            attempt_backoff: millrace_common::retry::Backoff {
                base: self.attempt_backoff,
                max: self.attempt_backoff_max,
            },
            attempt_failures_max: self.attempt_failures_max,
            attempt_window: self.attempt_window,
        }
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
        check_document::<MasterConfig>(&path, bless).unwrap();
    }

    #[test]
    fn the_defaults_fit_their_keys_and_one_another() {
        load::<MasterConfig>(&Sources::default()).unwrap().settings.check().unwrap();
    }

    #[test]
    fn a_leader_that_would_outlast_its_successor_is_refused() {
        let mut config = load::<MasterConfig>(&Sources::default()).unwrap().settings;
        config.leader_take_over_after = config.leader_step_down_after;
        assert_eq!(config.check().unwrap_err().code(), Code::ConfigurationValue);
    }
}
