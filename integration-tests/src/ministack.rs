//! The second judge: ministack, an AWS surface that shares no code with Millrace.
//!
//! It is a Python program; `MILLRACE_PYTHON` names the interpreter that has it (`test.sh` makes
//! one). Without that the tests that need it are skipped, loudly.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::aws::{Aws, Endpoint, REGION};
use crate::command;
use crate::eventually::{PATIENCE, within};
use crate::processes::{self, Process};

/// The Python interpreter with boto3 and ministack, or `None` with a loud note for `test`.
#[must_use]
pub fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("MILLRACE_PYTHON").map(PathBuf::from);
    if python.is_none() {
        crate::skip::note(test, "MILLRACE_PYTHON is not set: no boto3, no ministack");
    }
    python
}

/// Starts ministack on a free port. With `rights` every call is checked against the policies of
/// its caller; the caller of the returned endpoint may do everything.
///
/// # Panics
/// When it does not come up.
pub async fn start(python: &Path, rights: bool, directory: &Path) -> Aws {
    let port = processes::free_port();
    let environment = [
        ("AUTH", if rights { "true" } else { "false" }),
        ("BIND_HOST", "127.0.0.1"),
        ("GATEWAY_PORT", &port.to_string()),
        ("MINISTACK_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let arguments = ["-m", "ministack"];
    let mut process = Process::spawn("ministack", python, &arguments, &environment, directory);
    let endpoint = Endpoint {
        url: format!("http://127.0.0.1:{port}"),
        access_key_id: "test".to_owned(),
        secret_access_key: "test".to_owned(),
    };
    within(PATIENCE, "ministack answers", async || {
        process.assert_running();
        let answer = endpoint.kinesis().list_streams().send().await;
        answer.map(|_| ()).map_err(|error| format!("{error:?}"))
    })
    .await;
    Aws { endpoint, process }
}

/// Makes a user for each of `policies` (IAM policy documents), who holds exactly that one, and
/// returns the endpoint as each of them calls it.
///
/// # Panics
/// When they can not be made.
pub async fn users<const N: usize>(
    python: &PathBuf,
    root: &Endpoint,
    policies: [String; N],
) -> [Endpoint; N] {
    let made = many_users(python, root, &policies).await;
    made.try_into().expect("the program makes a user for each policy")
}

/// As [`users`], for any number.
///
/// # Panics
/// When they can not be made.
pub async fn many_users(python: &PathBuf, root: &Endpoint, policies: &[String]) -> Vec<Endpoint> {
    let program =
        crate::dataset::repository_root().join("integration-tests/reference/make_users.py");
    let mut arguments = vec![program.into_os_string()];
    arguments.extend(policies.iter().map(Into::into));
    let environment = root.environment();
    let made = command::run(python, &arguments, &environment, Duration::from_secs(60)).await;
    let keys = made.success().json();
    let keys = keys.as_array().expect("the program prints a list");
    let endpoint = |keys: &serde_json::Value| {
        let field = |name: &str| keys[name].as_str().expect("it prints both").to_owned();
        Endpoint {
            url: root.url.clone(),
            access_key_id: field("access_key_id"),
            secret_access_key: field("secret_access_key"),
        }
    };
    keys.iter().map(endpoint).collect()
}

/// Makes a role that holds `of_role` and a user who holds `of_user` and may assume it; the role's ARN
/// and the endpoint as the user calls it.
///
/// # Panics
/// When they can not be made.
pub async fn role(
    python: &PathBuf,
    root: &Endpoint,
    of_role: &str,
    of_user: &str,
) -> (String, Endpoint) {
    let program =
        crate::dataset::repository_root().join("integration-tests/reference/make_role.py");
    let arguments = [program.into_os_string(), of_role.into(), of_user.into()];
    let environment = root.environment();
    let made = command::run(python, &arguments, &environment, Duration::from_secs(60)).await;
    let made = made.success().json();
    let field = |name: &str| made[name].as_str().expect("the program prints all").to_owned();
    let caller = Endpoint {
        url: root.url.clone(),
        access_key_id: field("access_key_id"),
        secret_access_key: field("secret_access_key"),
    };
    (field("role_arn"), caller)
}
