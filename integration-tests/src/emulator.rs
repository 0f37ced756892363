//! The first judge: Millrace's own emulator, with the limits of real Kinesis on.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

/// Asks the control endpoint of an emulator for something, as docs/emulator.md describes it.
///
/// # Panics
/// When it does not do it.
pub async fn control(aws: &Aws, method: &str, path: &str, body: &str) {
    let address = aws.endpoint.url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the emulator listens");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close");
    let request = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("the emulator reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the emulator answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
}
