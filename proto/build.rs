//! Compiles the protocol with protox, so that no `protoc` has to be installed.
//!
//! Owned by the proto crate. It never reaches outside `proto/millrace`.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 8] = [
    "millrace/v1/types.proto",
    "millrace/v1/application.proto",
    "millrace/v1/client.proto",
    "millrace/v1/node.proto",
    "millrace/v1/resource.proto",
    "millrace/v1/driver.proto",
    "millrace/v1/task.proto",
    "millrace/v1/block.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=millrace");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("millrace_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // A specification is large, and commands are moved often.
        .boxed(".millrace.v1.DriverCommand.body.check_spec")
        .compile_fds(descriptors)?;
    Ok(())
}
