//! What `millrace` shows of what a master says: tables for people, stable keys for programs, exit
//! codes for both. The master is a real gRPC server with canned answers.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Said, millrace, nobody, program};
use millrace_common::error::{Code, Error};
use millrace_common::rpc;
use millrace_proto::v1;
use millrace_proto::v1::ApplicationState as S;
use millrace_proto::v1::client_service_server::{ClientService, ClientServiceServer};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A master that answers what it was given.
#[derive(Clone, Default)]
struct Fake {
    application: v1::Application,
    containers: Vec<v1::ContainerStatus>,
    nodes: Vec<v1::Node>,
    batches: Vec<v1::Batch>,
    warnings: Vec<String>,
    refusal: Option<(Code, &'static str)>,
    /// The state after this many questions for the application.
    later: Option<(u32, v1::Application)>,
    asked: Arc<AtomicU32>,
}

impl Fake {
    fn refuse(&self) -> Result<(), Status> {
        match self.refusal {
            Some((code, message)) => {
                Err(Error::new(code, message, "do something else").to_status())
            }
            None => Ok(()),
        }
    }

    fn now(&self) -> v1::Application {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        match &self.later {
            Some((after, application)) if asked >= *after => application.clone(),
            _ => self.application.clone(),
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ClientService for Fake {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Answer<v1::GetClusterResponse> {
        Ok(Response::new(v1::GetClusterResponse::default()))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        Ok(Response::new(v1::ListNodesResponse { nodes: self.nodes.clone() }))
    }

    async fn submit_application(
        &self,
        request: Request<v1::SubmitApplicationRequest>,
    ) -> Answer<v1::SubmitApplicationResponse> {
        self.refuse()?;
        Ok(Response::new(v1::SubmitApplicationResponse {
            name: request.into_inner().spec.unwrap().name,
            attempt: 1,
            state: S::Queued.into(),
            warnings: self.warnings.clone(),
            ..Default::default()
        }))
    }

    async fn list_applications(
        &self,
        _: Request<v1::ListApplicationsRequest>,
    ) -> Answer<v1::ListApplicationsResponse> {
        let applications = vec![self.application.clone()];
        Ok(Response::new(v1::ListApplicationsResponse { applications }))
    }

    async fn get_application(
        &self,
        _: Request<v1::GetApplicationRequest>,
    ) -> Answer<v1::GetApplicationResponse> {
        self.refuse()?;
        Ok(Response::new(v1::GetApplicationResponse {
            application: Some(self.now()),
            containers: self.containers.clone(),
        }))
    }

    async fn list_containers(
        &self,
        _: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        Ok(Response::new(v1::ListContainersResponse::default()))
    }

    async fn why_application(
        &self,
        _: Request<v1::WhyApplicationRequest>,
    ) -> Answer<v1::WhyApplicationResponse> {
        self.refuse()?;
        let cause = v1::Cause {
            kind: v1::CauseKind::HotShard.into(),
            what: "shard logs/7 is 60 s behind".to_owned(),
            next_move: "split the shard".to_owned(),
            code: String::new(),
        };
        let late = v1::Cause {
            kind: v1::CauseKind::TableThrottled.into(),
            what: "the head waits".to_owned(),
            next_move: "raise the table's limits".to_owned(),
            code: "MR3009".to_owned(),
        };
        Ok(Response::new(v1::WhyApplicationResponse {
            standing: v1::Standing::Slow.into(),
            cause: Some(cause),
            others: vec![late],
            links: vec![v1::FactLink {
                name: "input".to_owned(),
                holds: false,
                says: "4 shards".to_owned(),
            }],
        }))
    }

    async fn list_batches(
        &self,
        _: Request<v1::ListBatchesRequest>,
    ) -> Answer<v1::ListBatchesResponse> {
        Ok(Response::new(v1::ListBatchesResponse { batches: self.batches.clone() }))
    }

    async fn stop_application(
        &self,
        _: Request<v1::StopApplicationRequest>,
    ) -> Answer<v1::StopApplicationResponse> {
        self.refuse()?;
        Ok(Response::new(v1::StopApplicationResponse { state: S::Stopping.into() }))
    }

    async fn kill_application(
        &self,
        _: Request<v1::KillApplicationRequest>,
    ) -> Answer<v1::KillApplicationResponse> {
        Ok(Response::new(v1::KillApplicationResponse { state: S::Killed.into() }))
    }

    async fn reset_application(
        &self,
        _: Request<v1::ResetApplicationRequest>,
    ) -> Answer<v1::ResetApplicationResponse> {
        Ok(Response::new(v1::ResetApplicationResponse { batch: 41 }))
    }

    async fn scale_application(
        &self,
        request: Request<v1::ScaleApplicationRequest>,
    ) -> Answer<v1::ScaleApplicationResponse> {
        self.refuse()?;
        let v1::ScaleApplicationRequest { name, executors: scaled_to } = request.into_inner();
        let application = v1::Application { name, scaled_to, ..self.application.clone() };
        Ok(Response::new(v1::ScaleApplicationResponse { application: Some(application) }))
    }

    async fn list_queues(
        &self,
        _: Request<v1::ListQueuesRequest>,
    ) -> Answer<v1::ListQueuesResponse> {
        let queue = v1::Queue { name: "etl".to_owned(), cap_bp: 5_000, ..Default::default() };
        Ok(Response::new(v1::ListQueuesResponse { queues: vec![queue] }))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Answer<v1::DrainNodeResponse> {
        self.refuse()?;
        let wanted = request.into_inner().node_id;
        let node = self.nodes.iter().find(|node| node.node_id == wanted).cloned();
        Ok(Response::new(v1::DrainNodeResponse { node }))
    }

    async fn undrain_node(
        &self,
        _: Request<v1::UndrainNodeRequest>,
    ) -> Answer<v1::UndrainNodeResponse> {
        self.refuse()?;
        Ok(Response::new(v1::UndrainNodeResponse {}))
    }

    async fn repair_application(
        &self,
        _: Request<v1::RepairApplicationRequest>,
    ) -> Answer<v1::RepairApplicationResponse> {
        Ok(Response::new(v1::RepairApplicationResponse { batch: 41 }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Answer<v1::CreateTokenResponse> {
        self.refuse()?;
        let info = v1::TokenInfo { name: request.into_inner().name, ..Default::default() };
        Ok(Response::new(v1::CreateTokenResponse { info: Some(info), token: "mr_made".to_owned() }))
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Answer<v1::ListTokensResponse> {
        Ok(Response::new(v1::ListTokensResponse::default()))
    }

    async fn revoke_token(
        &self,
        _: Request<v1::RevokeTokenRequest>,
    ) -> Answer<v1::RevokeTokenResponse> {
        Ok(Response::new(v1::RevokeTokenResponse::default()))
    }

    type ReadLogsStream = ReceiverStream<Result<v1::LogLines, Status>>;

    async fn read_logs(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Answer<Self::ReadLogsStream> {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let request = request.into_inner();
        for text in ["one", "two"].into_iter().filter(|text| text.contains(&request.grep)) {
            let line = v1::LogLine {
                time_ms: 1_000,
                level: v1::LogLevel::Info.into(),
                text: text.into(),
                message_at: 0,
                next_offset: 4,
            };
            let message = v1::LogLines {
                container_id: "wc-a1-driver".to_owned(),
                stream: v1::LogStream::Stderr.into(),
                lines: vec![line],
                ..Default::default()
            };
            sender.send(Ok(message)).await.unwrap();
        }
        assert_eq!(request.application, "wc");
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Runs a command against this master.
async fn against(fake: Fake, line: &str) -> Said {
    let (incoming, address) = rpc::bind("127.0.0.1:0").await.unwrap();
    let server = tokio::spawn(
        rpc::server().add_service(ClientServiceServer::new(fake)).serve_with_incoming(incoming),
    );
    let address = address.to_string();
    let mut arguments: Vec<_> = line.split_whitespace().collect();
    arguments.extend(["--master", &address]);
    let said = millrace(&arguments).await;
    server.abort();
    said
}

fn application(state: S) -> v1::Application {
    v1::Application {
        name: "wc".to_owned(),
        state: state.into(),
        submitted_ms: 1_000,
        changed_ms: 2_000,
        num_executors: 2,
        attempts: vec![v1::Attempt {
            number: 1,
            epoch: 1,
            container_id: "wc-a1-driver".to_owned(),
            node_id: "node-1".to_owned(),
            ..Default::default()
        }],
        report: Some(v1::DriverReport {
            batch: 7,
            num_shards: 3,
            task_cores_total: 4,
            task_cores_busy: 1,
            records_total: 700,
            rows_total: 70,
            receivers: vec![
                receiver("logs/0", &["shardId-000000000000", "shardId-000000000002"]),
                receiver("logs/1", &["shardId-000000000001"]),
            ],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn receiver(id: &str, shards: &[&str]) -> v1::ReceiverReport {
    v1::ReceiverReport {
        receiver_id: id.to_owned(),
        container_id: "wc-a1-e1".to_owned(),
        source: "logs".to_owned(),
        shards: shards.iter().map(|&shard| shard.to_owned()).collect(),
    }
}

fn failed(code: &str) -> v1::Application {
    v1::Application {
        failure: Some(v1::Failure {
            code: code.to_owned(),
            message: "stream app-logs does not exist".to_owned(),
            next_move: "make it".to_owned(),
            ..Default::default()
        }),
        ..application(S::Failed)
    }
}

#[tokio::test]
async fn a_master_that_is_restarted_is_waited_for() {
    let (silent, address) = nobody();
    let mut command = tokio::process::Command::new(program());
    command.args(["status", "wc", "--master", &address]).env_clear().kill_on_drop(true);
    let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut talk = BufReader::new(command.stderr.take().unwrap()).lines();
    let first = talk.next_line().await.unwrap().unwrap();
    assert!(first.contains(&address) && first.contains("waiting for it"), "{first}");
    // Only now there is one.
    let incoming = TcpIncoming::from(silent.listen(8).unwrap());
    let fake = Fake { application: application(S::Running), ..Fake::default() };
    let service = ClientServiceServer::new(fake);
    let server = tokio::spawn(rpc::server().add_service(service).serve_with_incoming(incoming));
    assert_eq!(talk.next_line().await.unwrap().as_deref(), Some("the master is back"));
    assert_eq!(talk.next_line().await.unwrap(), None);
    let said = command.wait_with_output().await.unwrap();
    let out = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success() && out.contains("running"), "{out}");
    server.abort();
}

#[tokio::test]
async fn applications_are_a_table() {
    let fake = Fake { application: application(S::Running), ..Fake::default() };
    let said = against(fake, "list").await;
    assert_eq!(
        said.done(),
        "NAME  STATE    ATTEMPT  EXECUTORS  BATCH   LAG  SUBMITTED\n\
         wc    running        1          2      7  0 ms  1970-01-01T00:00:01Z\n"
    );
}

#[tokio::test]
async fn nodes_are_a_table() {
    let node = v1::Node {
        node_id: "node-1".to_owned(),
        host: "127.0.0.1".to_owned(),
        state: v1::NodeState::Draining.into(),
        reason: "a-a1-e1 moves".to_owned(),
        offered: Some(v1::Resources { cores: 8, memory_bytes: 4 << 30 }),
        used: Some(v1::Resources { cores: 3, memory_bytes: 512 << 20 }),
        num_containers: 2,
        last_heartbeat_ms: 1_000,
        ..Default::default()
    };
    let said = against(Fake { nodes: vec![node], ..Fake::default() }, "nodes").await;
    assert_eq!(
        said.done(),
        "NODE    HOST       STATE     CORES       MEMORY  CONTAINERS  HEARTBEAT             LABELS  WHY\n\
         node-1  127.0.0.1  draining    3/8  512MiB/4GiB           2  1970-01-01T00:00:01Z  -       a-a1-e1 moves\n"
    );
}

#[tokio::test]
async fn an_unhealthy_node_says_why_and_since_when() {
    let node = v1::Node {
        node_id: "node-1".to_owned(),
        state: v1::NodeState::Unhealthy.into(),
        reason: "a-a1-e1 moves".to_owned(),
        unhealthy: "MR6008: the disk is full".to_owned(),
        unhealthy_since_ms: 2_000,
        ..Default::default()
    };
    let fake = || Fake { nodes: vec![node.clone()], ..Fake::default() };
    let said = against(fake(), "nodes").await;
    let why = "MR6008: the disk is full, since 1970-01-01T00:00:02Z; a-a1-e1 moves\n";
    assert!(said.done().ends_with(why), "{said:?}");
    let json = against(fake(), "nodes --json").await.json();
    assert_eq!(json[0]["state"], "unhealthy");
    assert_eq!(json[0]["unhealthy"], "MR6008: the disk is full");
    assert_eq!(json[0]["unhealthy_since_ms"], 2_000);
}

#[tokio::test]
async fn why_names_one_cause_and_what_mends_it() {
    let said = against(Fake::default(), "why wc").await;
    let shown = said.done();
    let first = "wc is slow: shard logs/7 is 60 s behind (hot_shard)\n! input  4 shards\n\
                 next: split the shard\n";
    assert!(shown.starts_with(first), "{shown}");
    assert!(shown.contains("also: the head waits (table_throttled, MR3009)"), "{shown}");
    let json = against(Fake::default(), "why wc --json").await.json();
    assert_eq!((&json["standing"], &json["name"]), (&"slow".into(), &"wc".into()));
    assert_eq!(json["cause"]["kind"], "hot_shard");
    assert_eq!(json["others"][0]["code"], "MR3009");
    assert_eq!(
        (&json["links"][0]["name"], &json["links"][0]["holds"]),
        (&"input".into(), &false.into())
    );
}

#[tokio::test]
async fn status_for_people_names_cores_receivers_and_totals() {
    let fake = Fake { application: application(S::Running), ..Fake::default() };
    let said = against(fake, "status wc").await;
    for part in [
        "running since 1970-01-01T00:00:02Z",
        "cores free for tasks: 3 of 4",
        "2 reading 3 shards",
        "700 records, 70 rows, 0 bad records",
        "shardId-000000000000 shardId-000000000002",
    ] {
        assert!(said.done().contains(part), "{part:?} is missing: {said:?}");
    }
}

#[tokio::test]
async fn status_for_programs_has_stable_keys() {
    let fake = Fake { application: application(S::Running), ..Fake::default() };
    let status = against(fake, "status wc --json").await.json();
    assert_eq!(status["state"], "running");
    assert_eq!(status["task_cores_total"], 4);
    assert_eq!(status["task_cores_busy"], 1);
    assert_eq!(status["task_cores_free"], 3);
    assert_eq!(status["batch"], 7);
    assert_eq!(status["receivers"][0]["num_shards"], 2);
    assert_eq!(status["receivers"][1]["shards"][0], "shardId-000000000001");
    let documented = include_str!("../../../docs/cli.md");
    for key in status.as_object().unwrap().keys() {
        assert!(documented.contains(&format!("`{key}`")), "docs/cli.md does not name {key}");
    }
}

#[tokio::test]
async fn an_application_that_never_fits_has_exit_code_3() {
    let refusal = Some((Code::DoesNotFit, "400 executors x 2 cores = 800, the cluster has 8"));
    let said = against(Fake { refusal, ..Fake::default() }, SUBMIT).await;
    assert!(said.refused(3, "MR2005").contains("800"), "{said:?}");
}

const SUBMIT: &str =
    concat!("submit ", env!("CARGO_MANIFEST_DIR"), "/../examples/word-count/app.toml");

#[tokio::test]
async fn warnings_are_talk_and_the_answer_is_data() {
    let warnings = vec!["start = earliest is ignored: the head holds positions".to_owned()];
    let said = against(Fake { warnings, ..Fake::default() }, SUBMIT).await;
    assert_eq!(said.done(), "word-count attempt 1 queued\n");
    assert!(said.err.starts_with("warning: start = earliest is ignored"), "{said:?}");
}

#[tokio::test]
async fn a_wait_sees_the_application_run() {
    let fake = Fake {
        application: application(S::Queued),
        later: Some((2, application(S::Running))),
        ..Fake::default()
    };
    let said = against(fake, &format!("{SUBMIT} --wait")).await;
    assert_eq!(said.done(), "word-count attempt 1 running\n");
}

#[tokio::test]
async fn a_wait_for_a_rejected_application_has_exit_code_4_and_its_failure() {
    let fake = Fake { application: failed("MR3002"), ..Fake::default() };
    let said = against(fake, &format!("{SUBMIT} --wait")).await;
    assert!(said.refused(4, "MR3002").contains("app-logs"), "{said:?}");
    assert_eq!(said.out, "");
}

#[tokio::test]
async fn a_stop_waits_for_the_end() {
    let fake = Fake {
        application: application(S::Stopping),
        later: Some((2, application(S::Stopped))),
        ..Fake::default()
    };
    let said = against(fake, "stop wc").await;
    assert_eq!(said.done(), "wc stopped after batch 7\n");
}

#[tokio::test]
async fn a_drain_at_its_deadline_has_exit_code_5() {
    let mut stopped = failed("MR4010");
    stopped.state = S::Stopped.into();
    let fake = Fake { application: stopped, ..Fake::default() };
    against(fake, "stop wc --drain --deadline 1s").await.refused(5, "MR4010");
}

#[tokio::test]
async fn batches_are_followed_to_the_end() {
    let batch = |number| v1::Batch {
        number,
        epoch: 1,
        cut_ms: 1_000,
        committed_ms: 1_200,
        published_ms: 1_300,
        num_records: 100,
        num_rows: 10,
        num_runs: 1,
        ..Default::default()
    };
    let fake = Fake {
        application: application(S::Running),
        later: Some((2, application(S::Stopped))),
        batches: vec![batch(2), batch(1)],
        ..Fake::default()
    };
    let said = against(fake.clone(), "batches wc --follow --json").await;
    let numbers: Vec<_> = said
        .done()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].clone())
        .collect();
    assert_eq!(numbers, [1, 2], "each once, oldest first");
    let said = against(fake, "batches wc").await;
    assert_eq!(said.done().lines().count(), 3, "{said:?}");
    assert!(said.out.contains("300 ms"), "from the cut to the files: {said:?}");
}

#[tokio::test]
async fn lines_of_logs_say_when_how_grave_and_whose() {
    let said = against(Fake::default(), "logs wc").await;
    let line = |whose: &str, text: &str| format!("1970-01-01T00:00:01.000Z INFO  {whose}{text}\n");
    let named = |text| line("wc-a1-driver | ", text);
    assert_eq!(said.done(), named("one") + &named("two"));
    let said = against(Fake::default(), "logs wc -f --container wc-a1-driver --grep w").await;
    assert_eq!(said.done(), line("", "two"));
}

#[tokio::test]
async fn an_application_is_scaled_and_left_to_itself_again() {
    let fake = Fake { application: application(S::Running), ..Fake::default() };
    let said = against(fake.clone(), "scale wc --executors 4").await;
    assert!(said.done().starts_with("wc: 4 executors are asked for; it has 2 now"), "{said:?}");
    let said = against(fake.clone(), "scale wc --auto --json").await;
    assert_eq!(said.json()["scaled_to"], serde_json::Value::Null);
    let said = against(fake, "queues --json").await;
    assert_eq!(said.json()[0]["cap_percent"], 50.0);
}

#[tokio::test]
async fn a_reset_with_yes_says_what_is_given_up() {
    let said = against(Fake::default(), "reset wc --to earliest --yes --json").await;
    assert_eq!(said.json()["batch"], 41);
}

#[tokio::test]
async fn the_masters_words_are_passed_on() {
    let refusal = Some((Code::UnknownApplication, "no application is called wc"));
    let said = against(Fake { refusal, ..Fake::default() }, "status wc").await;
    let line = said.refused(1, "MR2003");
    assert_eq!(line, "error[MR2003]: no application is called wc");
    assert!(said.err.ends_with("next: do something else\n"), "{said:?}");
}
