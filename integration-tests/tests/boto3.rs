//! The emulator speaks AWS's protocols to a client that is not ours and not Rust: boto3 makes,
//! writes and reads streams, tables and objects, and checks each answer itself.

use std::time::Duration;

use millrace_integration_tests::command::{base_environment, run};
use millrace_integration_tests::dataset::repository_root;
use millrace_integration_tests::{emulator, ministack};

#[tokio::test]
async fn boto3_writes_and_reads_the_emulator() {
    let Some(python) = ministack::python("boto3 on the emulator") else { return };
    let directory = tempfile::tempdir().unwrap();
    let aws = emulator::start(directory.path()).await;
    the_program_passes(&python, &aws.endpoint).await;
}

/// The same program on the second judge shows that it asks for nothing that only the emulator does.
#[tokio::test]
async fn boto3_writes_and_reads_ministack() {
    let Some(python) = ministack::python("boto3 on ministack") else { return };
    let directory = tempfile::tempdir().unwrap();
    let aws = ministack::start(&python, false, directory.path()).await;
    the_program_passes(&python, &aws.endpoint).await;
}

async fn the_program_passes(
    python: &std::path::PathBuf,
    endpoint: &millrace_integration_tests::aws::Endpoint,
) {
    let program = repository_root().join("integration-tests/reference/boto3_round_trip.py");
    let mut environment = base_environment();
    environment.extend(endpoint.environment());
    let arguments = [program.as_os_str()];
    let output = run(python, &arguments, &environment, Duration::from_secs(120)).await.success();
    assert_eq!(output.stdout.trim(), "kinesis, dynamodb, s3: as written", "{output}");
}
