//! docker-compose.yml without a Docker engine: each service's command runs with the file's
//! environment, in a network namespace with an address and a host name of its own.
//!
//! Promises: what the file says decides (commands, environment, order, health checks, published
//! ports); volumes become directories of the test. A dropped composition leaves no process, no
//! namespace and no link. Never does: isolate files or users; the image's user is not tried here.

mod file;
mod network;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_common::access::{Token, read_token};
use millrace_common::rpc::Caller;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use tempfile::TempDir;
use tonic::transport::Channel;

pub use self::file::{Condition, Service, Volume, services};
pub use self::network::{Network, Place};

use crate::aws::Endpoint;
use crate::command::{Output, base_environment, binary, run};
use crate::eventually::{PATIENCE, within};
use crate::processes::Process;

/// How long a service has between SIGTERM and the failure of the test: its `stop_grace_period`.
const STOP: Duration = Duration::from_secs(30);
/// How long a call may take.
const CALL: Duration = Duration::from_secs(30);

/// One running process of a service.
#[derive(Debug)]
pub struct Instance {
    /// Host name, as `worker-2`.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Its process.
    pub process: Process,
    environment: Vec<(String, String)>,
}

/// The services that run.
#[derive(Debug)]
pub struct Composition {
    services: BTreeMap<String, Service>,
    /// Running instances by service, in the order of their start. Dropped before the network.
    instances: BTreeMap<String, Vec<Instance>>,
    network: Network,
    hosts: String,
    directory: TempDir,
}

impl Composition {
    /// Reads the file; starts nothing.
    ///
    /// # Panics
    /// When the file is refused, or there can be no network.
    pub async fn new(python: &PathBuf, variables: &[(&str, &str)]) -> Self {
        Self {
            services: services(python, variables).await,
            instances: BTreeMap::new(),
            network: Network::new().expect("namespaces can be made"),
            hosts: "127.0.0.1 localhost\n".to_owned(),
            directory: tempfile::tempdir().expect("the temporary directory can be written to"),
        }
    }

    /// What the file says of a service.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> &Service {
        self.services.get(name).unwrap_or_else(|| panic!("the file has no service {name}"))
    }

    /// The names of all services.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// The directory of this test's files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The running instances of a service.
    #[must_use]
    pub fn instances(&self, service: &str) -> &[Instance] {
        self.instances.get(service).map_or(&[], Vec::as_slice)
    }

    /// Brings a service to `num` instances, what it depends on first; the newest end first.
    ///
    /// # Panics
    /// When one does not become healthy, or does not end in order.
    pub async fn scale(&mut self, service: &str, num: usize) {
        let needed: Vec<_> = self.service(service).depends_on.clone().into_iter().collect();
        for (other, condition) in needed {
            self.satisfy(&other, condition).await;
        }
        while self.instances(service).len() < num {
            self.start(service);
        }
        if !self.service(service).health.is_empty() {
            for instance in self.instances.get_mut(service).into_iter().flatten() {
                is_healthy(&self.services[service].health, instance).await;
            }
        }
        while self.instances(service).len() > num {
            let running = self.instances.get_mut(service);
            let Some(mut instance) = running.and_then(Vec::pop) else { break };
            let status = instance.process.terminate(STOP).await;
            assert!(status.success(), "{}: {status}\n{}", instance.name, instance.process.log());
        }
    }

    /// Makes a condition true.
    async fn satisfy(&mut self, service: &str, condition: Condition) {
        let is_there = self.instances.contains_key(service);
        match condition {
            _ if is_there => {}
            // A service without a health check is healthy for nobody.
            Condition::ServiceHealthy if self.service(service).health.is_empty() => {
                panic!("{service} has no health check");
            }
            Condition::ServiceStarted | Condition::ServiceHealthy => {
                Box::pin(self.scale(service, 1)).await;
            }
            Condition::ServiceCompletedSuccessfully => {
                Box::pin(self.scale(service, 1)).await;
                let running = self.instances.get_mut(service).expect("it was just started");
                let mut instance = running.pop().expect("it was just started");
                within(PATIENCE, &format!("{service} has done its work"), async || {
                    let ended = instance.process.exit().map_err(|error| error.to_string())?;
                    let status = ended.ok_or_else(|| "it runs".to_owned())?;
                    assert!(status.success(), "{service}: {status}\n{}", instance.process.log());
                    Ok(())
                })
                .await;
            }
        }
    }

    fn start(&mut self, name: &str) {
        let service = self.service(name).clone();
        // The first has the service's name, by which the others find it.
        let host = match self.instances.contains_key(name) {
            false => name.to_owned(),
            true => format!("{name}-{}", self.network.next_address().octets()[3]),
        };
        self.hosts.push_str(&format!("{} {host}\n", self.network.next_address()));
        let place = self.network.add(&host, &self.hosts, !service.ports.is_empty());
        let place = place.unwrap_or_else(|error| panic!("{host} has no place: {error}"));
        let directory = self.path().join(&host);
        std::fs::create_dir_all(&directory).expect("the test's directory can be written to");
        let mut volumes: Vec<(String, String)> = Vec::new();
        for volume in &service.volumes {
            let outside = match &volume.name {
                Some(name) => self.path().join("volumes").join(name),
                None => directory.clone(),
            };
            std::fs::create_dir_all(&outside).expect("the test's directory can be written to");
            volumes.push((volume.directory.clone(), outside.display().to_string()));
        }
        // One inside another is the place of what lies in it.
        volumes.sort_by_key(|(inside, _)| std::cmp::Reverse(inside.len()));
        let placed = |word: &String| {
            let marked = volumes.iter().enumerate().fold(word.clone(), |text, (index, volume)| {
                text.replace(&volume.0, &format!("\0{index}\0"))
            });
            volumes.iter().enumerate().fold(marked, |text, (index, volume)| {
                text.replace(&format!("\0{index}\0"), &volume.1)
            })
        };
        let mut environment = base_environment();
        let programs = binary("millrace");
        let programs = programs.parent().expect("a program lies in a directory").display();
        let path = std::env::var("PATH").unwrap_or_default();
        environment.push(("PATH".to_owned(), format!("{programs}:{path}")));
        environment.push(("HOSTNAME".to_owned(), host.clone()));
        let given = service.environment.iter();
        environment.extend(given.map(|(name, value)| (name.clone(), placed(value))));
        let mut arguments: Vec<String> =
            ["netns", "exec", &place.namespace, "unshare", "--uts", "bash", "-c"]
                .map(str::to_owned)
                .to_vec();
        arguments.push("hostname \"$0\" && exec \"$@\"".to_owned());
        arguments.push(host.clone());
        arguments.extend(service.command.iter().map(placed));
        let process = Process::spawn(&host, Path::new("ip"), &arguments, &environment, self.path());
        let instance = Instance { name: host, place, process, environment };
        self.instances.entry(name.to_owned()).or_default().push(instance);
    }

    /// Where this machine reaches a published port.
    ///
    /// # Panics
    /// When the service does not run or publishes nothing.
    #[must_use]
    pub fn published(&self, service: &str) -> SocketAddr {
        let instance = self.instances(service).first().expect("the service runs");
        let address = instance.place.published.expect("the service publishes a port");
        (address, self.service(service).ports[0]).into()
    }

    /// AWS as this machine reaches it.
    #[must_use]
    pub fn aws(&self) -> Endpoint {
        let of_master = &self.service("master").environment;
        let key = |name: &str| of_master.get(name).cloned().unwrap_or_default();
        Endpoint {
            url: format!("http://{}", self.published("emulator")),
            access_key_id: key("AWS_ACCESS_KEY_ID"),
            secret_access_key: key("AWS_SECRET_ACCESS_KEY"),
        }
    }

    /// The environment of a client on this machine.
    #[must_use]
    pub fn client_environment(&self) -> Vec<(String, String)> {
        let mut environment = base_environment();
        environment.extend(self.aws().environment());
        environment.push(("MILLRACE_MASTER".to_owned(), self.published("master").to_string()));
        let token = self.token_file().display().to_string();
        environment.push(("MILLRACE_TOKEN_FILE".to_owned(), token));
        environment
    }

    /// Where the administrator's token is on this machine: in the volume that the file names.
    fn token_file(&self) -> PathBuf {
        self.path().join("volumes/access/admin.token")
    }

    /// The administrator's token.
    ///
    /// # Panics
    /// When the service that makes it has not run.
    #[must_use]
    pub fn token(&self) -> Token {
        read_token(&self.token_file()).expect("the service `access` has made it")
    }

    /// Runs the `millrace` command on this machine, which reaches the published ports alone.
    pub async fn millrace(&self, arguments: &[&str]) -> Output {
        run(&binary("millrace"), arguments, &self.client_environment(), PATIENCE).await
    }

    /// A gRPC client of the master on this machine.
    ///
    /// # Panics
    /// When the master does not run.
    #[must_use]
    pub fn client(&self) -> ClientServiceClient<Caller> {
        let endpoint = Channel::from_shared(format!("http://{}", self.published("master")));
        let endpoint = endpoint.expect("an address is a URI").timeout(CALL);
        ClientServiceClient::new(Caller::new(endpoint.connect_lazy(), Some(&self.token())))
    }

    /// Ends everything, the workers first, and asserts that it ends in order.
    ///
    /// # Panics
    /// When something does not.
    pub async fn down(mut self) {
        for service in ["worker", "master", "emulator"] {
            self.scale(service, 0).await;
        }
    }
}

impl Instance {
    /// Runs a command beside the process, in its network and its environment.
    pub async fn run(&self, command: &[String]) -> Output {
        let mut arguments = vec!["netns", "exec", self.place.namespace.as_str()];
        arguments.extend(command.iter().map(String::as_str));
        run(&PathBuf::from("ip"), &arguments, &self.environment, CALL).await
    }
}

/// Waits until the service's own health check succeeds.
async fn is_healthy(check: &[String], instance: &mut Instance) {
    let what = format!("{} is healthy", instance.name);
    within(PATIENCE, &what, async || {
        instance.process.assert_running();
        let said = instance.run(check).await;
        if said.code == 0 { Ok(()) } else { Err(said.to_string()) }
    })
    .await;
}
