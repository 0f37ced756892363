//! The first judge: Millrace's own emulator, with the limits of real Kinesis on.

use std::path::Path;

use crate::aws::{Aws, Endpoint};
use crate::command::binary;
use crate::processes::{Process, port_of};

/// Starts an emulator on a free port, with its state below `directory`.
///
/// # Panics
/// When it does not come up.
pub async fn start(directory: &Path) -> Aws {
    let port_file = directory.join("emulator.port");
    let data = directory.join("emulator");
    let arguments = [
        "--listen".into(),
        "127.0.0.1:0".into(),
        "--data-dir".into(),
        data.into_os_string(),
        "--port-file".into(),
        port_file.clone().into_os_string(),
    ];
    let mut process =
        Process::spawn("emulator", &binary("millrace-emulator"), &arguments, &[], directory);
    let address = port_of(&mut process, &port_file).await;
    let endpoint = Endpoint {
        url: format!("http://{address}"),
        access_key_id: "test".to_owned(),
        secret_access_key: "test".to_owned(),
    };
    Aws { endpoint, process }
}
