//! The master's one port serves gRPC with reflection and health, and HTTP with JSON and metrics.

use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};

/// Status code and body of one GET.
async fn get(cluster: &Cluster, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(cluster.address).await.expect("the port is open");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer is text");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status line"), body.expect("a body"))
}

async fn json(cluster: &Cluster, path: &str) -> serde_json::Value {
    let (status, body) = get(cluster, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

#[tokio::test]
async fn http_tells_health_metrics_nodes_and_applications() {
    let cluster =
        Cluster::start(&Judge::Emulator, &[NodeSize { cores: 3, memory: "2GiB" }; 2]).await;
    assert_eq!(json(&cluster, "/healthz").await["status"], "ok");
    assert_eq!(json(&cluster, "/api/v1/cluster").await["cluster"], "test");
    let nodes = json(&cluster, "/api/v1/nodes").await;
    let nodes = nodes["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    for node in nodes {
        assert_eq!(node["offered"]["cores"], 3, "{node}");
        assert_eq!(node["state"], "ALIVE", "{node}");
    }
    let applications = json(&cluster, "/api/v1/applications").await;
    assert_eq!(applications["applications"].as_array().map(Vec::len), Some(0));
    assert_eq!(get(&cluster, "/api/v1/applications/nobody").await.0, 404);
    assert_eq!(get(&cluster, "/nothing-here").await.0, 404);

    let (status, metrics) = get(&cluster, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.lines().any(|line| line == "millrace_master_leading 1"), "{metrics}");
    assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
}

#[tokio::test]
async fn grpc_tells_its_services_and_its_health() {
    let cluster = Cluster::start(&Judge::Emulator, &[]).await;
    let channel = Channel::from_shared(format!("http://{}", cluster.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let health = HealthClient::new(channel.clone());
    let answer = { health }.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(ListServiceResponse { service })) =
        answer.message_response
    else {
        panic!("no list: {answer:?}")
    };
    let names: Vec<&str> = service.iter().map(|service| service.name.as_str()).collect();
    for name in ["ClientService", "NodeService", "ResourceService"] {
        let name = format!("millrace.v1.{name}");
        assert!(names.contains(&name.as_str()), "{name} is not in {names:?}");
    }
}
