//! Starting what a cluster stands on and its masters, each waited for until it answers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use millrace_proto::v1;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use tonic::transport::Channel;

use super::Judge;
use crate::aws::{Aws, Endpoint};
use crate::command::{base_environment, binary, run};
use crate::eventually::{PATIENCE, within};
use crate::processes::{Process, port_of};

pub(super) fn client_of(address: SocketAddr) -> ClientServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}"));
    let endpoint = endpoint.expect("an address is a URI").timeout(Duration::from_secs(30));
    ClientServiceClient::new(endpoint.connect_lazy())
}

pub(super) fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The judge, the caller of the nodes, and the caller of the master.
pub(super) async fn start_judge(judge: &Judge, directory: &Path) -> (Aws, Endpoint, Endpoint) {
    match judge {
        Judge::Emulator => {
            let aws = crate::emulator::start(directory).await;
            let caller = aws.endpoint.clone();
            (aws, caller.clone(), caller)
        }
        Judge::Ministack(python) => {
            let aws = crate::ministack::start(python, false, directory).await;
            let caller = aws.endpoint.clone();
            (aws, caller.clone(), caller)
        }
        Judge::MinistackWithRights(python, policies) => {
            let aws = crate::ministack::start(python, true, directory).await;
            let policies = [policies.application.clone(), policies.master.clone()];
            let [caller, master] = crate::ministack::users(python, &aws.endpoint, policies).await;
            (aws, caller, master)
        }
    }
}

/// Makes the one table, as its administrator does it: by `millrace init`.
pub(super) async fn init_table(root: &Endpoint) {
    let mut environment = base_environment();
    environment.extend(root.environment());
    let _ = run(&binary("millrace"), &["init"], &environment, PATIENCE).await.success();
}

/// Starts a master of the named cluster and waits until it answers.
pub(super) async fn start_master(
    cluster: &str,
    listen: &str,
    environment: &[(String, String)],
    directory: &Path,
) -> (Process, SocketAddr) {
    let name = format!("master-{cluster}");
    let (process, address) = spawn_master(&name, cluster, listen, environment, directory).await;
    let mut client = client_of(address);
    within(PATIENCE, &format!("{name} answers"), async || {
        let answer = client.get_cluster(v1::GetClusterRequest {}).await;
        answer.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;
    (process, address)
}

/// Starts a master of the named cluster and waits until it listens.
pub(super) async fn spawn_master(
    name: &str,
    cluster: &str,
    listen: &str,
    environment: &[(String, String)],
    directory: &Path,
) -> (Process, SocketAddr) {
    let port_file = directory.join(format!("{name}.port"));
    if port_file.exists() {
        std::fs::remove_file(&port_file).expect("the test's directory can be written to");
    }
    let arguments: Vec<String> =
        ["--listen", listen, "--cluster", cluster, "--port-file", &port_file.display().to_string()]
            .map(str::to_owned)
            .to_vec();
    let master = binary("millrace-master");
    let mut process = Process::spawn(name, &master, &arguments, environment, directory);
    let address = port_of(&mut process, &port_file).await;
    (process, address)
}
