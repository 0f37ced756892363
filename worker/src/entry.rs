//! How a container comes into its own: its secrets are resolved, its environment holds them, and what
//! it was given is written down for people.
//!
//! Promises: a value of `[env]` that refers to a secret is in the environment of the process, and the
//! reference alone everywhere else. No process can change its own environment safely, so the container
//! begins once more, with the right one, under the same process id.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use millrace_common::Error;
use millrace_common::application::{EffectiveKey, origin_of, shown};
use millrace_common::resources::ByteSize;
use millrace_common::secrets::{self, LENT_PREFIX, Secrets};
use millrace_common::telemetry;
use millrace_proto::v1::LaunchContext;

/// Name of the file in the container's directory that says what the container was given.
pub const CONFIGURATION: &str = "configuration.json";

/// Resolves the secrets of this container and begins again if its environment lacks one. Comes back
/// in the process that has them all.
///
/// # Errors
/// When a secret can not be read, the process can not begin again, or the file can not be written.
pub fn enter(launch: &LaunchContext) -> Result<(), Error> {
    let secrets = Secrets::resolve(launch)?;
    if !secrets.is_empty() {
        telemetry::conceal_panics();
    }
    let lacking: Vec<(&String, String)> = launch
        .env
        .iter()
        .filter(|(_, value)| value.starts_with(secrets::SCHEME))
        .filter_map(|(name, value)| Some((name, secrets.reveal(value)?)))
        .filter(|(name, value)| std::env::var(name).ok().as_ref() != Some(value))
        .collect();
    if !lacking.is_empty() {
        let program = std::env::current_exe()
            .map_err(|error| Error::internal("this program can not be found").caused_by(error))?;
        let error = Command::new(program).args(std::env::args_os().skip(1)).envs(lacking).exec();
        return Err(Error::internal("the container can not begin again").caused_by(error));
    }
    let given = given(
        launch,
        std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }),
    );
    write(Path::new(&launch.work_dir), &given).map_err(|error| {
        Error::internal(format!("{CONFIGURATION} can not be written")).caused_by(error)
    })
}

/// What a container was given, with where it comes from; no value of a secret.
fn given(
    launch: &LaunchContext,
    environment: impl Iterator<Item = (String, String)>,
) -> Vec<EffectiveKey> {
    let key = |key: &str, value: String, origin: &str| EffectiveKey {
        key: key.to_owned(),
        value,
        origin: origin.to_owned(),
    };
    let resources = launch.resources.unwrap_or_default();
    let of_node = format!("node {}", launch.node_id);
    let mut keys = vec![
        key("container.cores", resources.cores.to_string(), "grant"),
        key("container.memory", ByteSize::bytes(resources.memory_bytes).to_string(), "grant"),
        key("container.attempt", launch.attempt.to_string(), "grant"),
        key("container.epoch", launch.epoch.to_string(), "grant"),
        key("container.cluster", launch.cluster.clone(), "grant"),
        key("container.table", launch.table.clone(), "grant"),
        key("container.driver", launch.driver_address.clone(), "grant"),
        key("container.masters", launch.master_address.clone(), &of_node),
        key("container.host", launch.host.clone(), &of_node),
        key("container.work_dir", launch.work_dir.clone(), &of_node),
        key("container.secret_dir", launch.secret_dir.clone(), &of_node),
    ];
    let origins: BTreeMap<String, String> =
        launch.spec.iter().flat_map(|spec| spec.origins.clone()).collect();
    let mut environment: Vec<_> =
        environment.filter(|(name, _)| !name.starts_with(LENT_PREFIX)).collect();
    environment.sort();
    for (name, value) in environment {
        let (value, origin) = match launch.env.get(&name) {
            // As the application says it: of a secret the reference.
            Some(said) => (said.clone(), origin_of(&origins, &format!("env.{name}")).to_owned()),
            None if OWN.contains(&name.as_str()) => (value, "millrace".to_owned()),
            None => (value, format!("environment of {of_node}")),
        };
        keys.push(key(&format!("environment.{name}"), shown(&name, &value), &origin));
    }
    keys
}

/// What Millrace tells every container about itself.
const OWN: [&str; 3] = ["MILLRACE_APPLICATION", "MILLRACE_ATTEMPT", "MILLRACE_CONTAINER_ID"];

fn write(directory: &Path, keys: &[EffectiveKey]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = io::BufWriter::new(options.open(directory.join(CONFIGURATION))?);
    // A key on each line: it is read like a log.
    for (index, key) in keys.iter().enumerate() {
        file.write_all(if index == 0 { b"[" } else { b",\n" })?;
        serde_json::to_writer(&mut file, key)?;
    }
    file.write_all(b"]\n")?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_has_its_origins_and_no_secret() {
        let pairs = [("TOKEN", "secret://env/T"), ("NAME", "a")];
        let launch = LaunchContext {
            node_id: "n1".to_owned(),
            env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Default::default()
        };
        let environment = [
            ("TOKEN", "canary"),
            ("NAME", "a"),
            ("PATH", "/bin"),
            ("AWS_SECRET_ACCESS_KEY", "canary"),
            ("MILLRACE_SECRET_T", "canary"),
            ("MILLRACE_ATTEMPT", "1"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let keys = given(&launch, environment.into_iter());
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &keys).unwrap();
        let text = std::fs::read_to_string(dir.path().join(CONFIGURATION)).unwrap();
        assert!(!text.contains("canary"), "{text}");
        let is = |name: &str, value: &str, origin: &str| {
            let key = format!("environment.{name}");
            let found = keys.iter().find(|found| found.key == key).unwrap();
            assert_eq!((found.value.as_str(), found.origin.as_str()), (value, origin));
        };
        is("TOKEN", "secret://env/T", "default");
        is("PATH", "/bin", "environment of node n1");
        is("AWS_SECRET_ACCESS_KEY", "[secret]", "environment of node n1");
        is("MILLRACE_ATTEMPT", "1", "millrace");
    }
}
