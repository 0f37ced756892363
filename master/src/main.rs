//! `millrace-master`: reads its configuration, makes the runtime, and runs the master.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Command;
use millrace_common::aws::{AwsSettings, Clients};
use millrace_common::clock::SystemClock;
use millrace_common::config::{self, DUMP_FLAG};
use millrace_common::error::Error;
use millrace_common::{actors, shutdown, telemetry};
use millrace_master::config::MasterConfig;
use millrace_master::store::DynamoStore;

fn main() -> ExitCode {
    telemetry::init();
    let command = Command::new("millrace-master")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Manages the nodes, containers and applications of a Millrace cluster")
        .args(config::to_args::<MasterConfig>());
    let matches = command.get_matches();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources = config::from_matches::<MasterConfig>(&matches, environment);
    let outcome = config::load::<MasterConfig>(&sources).and_then(|loaded| {
        for conflict in loaded.effective.conflicts() {
            tracing::info!("{conflict}");
        }
        if matches.get_flag(DUMP_FLAG) {
            print!("{}", loaded.effective);
            return Ok(());
        }
        run(loaded.settings)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = error.to_failure();
            eprintln!("millrace-master: {}: {}", failure.code, failure.message);
            eprintln!("next: {}", failure.next_move);
            ExitCode::FAILURE
        }
    }
}

fn run(config: MasterConfig) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal("no runtime can be made").caused_by(error))?;
    actors::block_on(runtime, async {
        let shutdown = shutdown::on_signal()
            .map_err(|error| Error::internal("signals can not be heard").caused_by(error))?;
        let settings = AwsSettings {
            region: config.region.clone(),
            endpoint: config.endpoint.clone(),
            ..AwsSettings::default()
        };
        let clients = Clients::load(&settings).await?;
        let (table, cluster) = (config.table.clone(), config.cluster.clone());
        let store = Arc::new(DynamoStore::new(clients.dynamodb, table, cluster));
        millrace_master::run(config, store, SystemClock::shared(), shutdown).await
    })
}
