//! Which service a request is for, and what the fault rules make of it.
//!
//! A request belongs to Kinesis or DynamoDB if `X-Amz-Target` says so, to the control endpoint if
//! its path starts with `/-/` (no bucket can be named `-`), and else to S3. Without rules a request
//! passes straight to its service; holds no rule of any service itself.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use s3s::Body;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::control;
use crate::dynamodb::{self, DynamoDb};
use crate::faults::{Action, Call, Decision, FaultTable, Service};
use crate::kinesis::{self, Kinesis};
use crate::s3::{self, RequestLine, bucket_of_host, operation_name};
use crate::server::Config;

/// The largest body of a Kinesis or DynamoDB request: 10 MiB of records as base64, their keys, and
/// some room. DynamoDB itself takes at most 16 MiB.
const MAX_BODY: usize = 24 << 20;

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost, as a fault rule asks")]
pub(crate) struct AnswerLost;

/// The three services and the rules about them.
pub(crate) struct Services {
    pub(crate) kinesis: Kinesis,
    dynamodb: DynamoDb,
    s3: s3s::service::S3Service,
    faults: Mutex<FaultTable>,
    /// Whether there are any rules: spares every call the lock.
    armed: AtomicBool,
    /// Calls that a rule has put off.
    late: TaskTracker,
}

/// A request whose body is here, so that it can be carried out later, or twice.
#[derive(Clone)]
struct Job {
    service: Service,
    operation: String,
    head: Parts,
    body: Bytes,
}

enum Route {
    Control,
    Json(Service, String),
    S3,
    Unknown(String),
}

impl Services {
    /// Opens the state of all three under `dir`.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(crate) fn open(config: &Config, dir: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let kinesis = Kinesis::open(
            kinesis::Options {
                dir: dir.join("kinesis"),
                region: config.region.clone(),
                account_id: config.account_id.clone(),
                limited: config.limited,
                transition_ms: config.transition_ms,
            },
            clock.clone(),
        )?;
        Ok(Self {
            kinesis,
            dynamodb: DynamoDb::open(&dir.join("dynamodb"))?,
            s3: s3::open(&dir.join("s3"), &config.region, &config.credentials, clock)?,
            faults: Mutex::default(),
            armed: AtomicBool::new(false),
            late: TaskTracker::new(),
        })
    }

    /// Answers a request, or says that its answer is to be lost.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, AnswerLost> {
        let (head, body) = request.into_parts();
        match route(&head) {
            Route::S3 => self.answer_s3(head, body).await,
            Route::Json(service, operation) => match collect(body).await {
                Ok(body) => {
                    let decision = self.decide(service, &operation, &body);
                    self.carry_out(Job { service, operation, head, body }, decision).await
                }
                Err(refusal) => Ok(refusal),
            },
            Route::Control => match collect(body).await {
                Ok(body) => Ok(control::answer_to(&self, &head.method, head.uri.path(), &body)),
                Err(refusal) => Ok(refusal),
            },
            Route::Unknown(target) => {
                let message = format!("The emulator has no service {target}.");
                let body = dynamodb::refusal("UnknownOperationException", &message);
                Ok(answer(400, dynamodb::CONTENT_TYPE, body.into()))
            }
        }
    }

    /// Waits for calls that a rule has put off; new ones are still taken meanwhile.
    pub(crate) async fn finish_late_calls(&self) {
        self.late.close();
        self.late.wait().await;
    }

    /// Changes or reads the fault rules.
    pub(crate) fn with_faults<T>(&self, change: impl FnOnce(&mut FaultTable) -> T) -> T {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut faults);
        self.armed.store(!faults.rules().is_empty(), Ordering::Relaxed);
        result
    }

    fn decide(&self, service: Service, operation: &str, subject: &[u8]) -> Decision {
        if !self.armed.load(Ordering::Relaxed) {
            return Decision::default();
        }
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.decide(&Call { service, operation, subject })
    }

    async fn answer_s3(
        self: Arc<Self>,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, AnswerLost> {
        if !self.armed.load(Ordering::Relaxed) {
            return Ok(self.call_s3(Request::from_parts(head, body.into())).await);
        }
        let host = head.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let query = head.uri.query().unwrap_or_default();
        let operation = operation_name(&RequestLine {
            method: &head.method,
            path: head.uri.path(),
            query,
            bucket_in_host: bucket_of_host(host).is_some(),
            copies: head.headers.contains_key("x-amz-copy-source"),
        });
        let subject = format!("{host}{}?{query}", head.uri.path());
        let decision = self.decide(Service::S3, operation, subject.as_bytes());
        if decision.action.is_none() {
            wait(decision.delay_ms).await;
            return Ok(self.call_s3(Request::from_parts(head, body.into())).await);
        }
        let Ok(body) = body.collect().await else { return Err(AnswerLost) };
        let operation = operation.to_owned();
        let job = Job { service: Service::S3, operation, head, body: body.to_bytes() };
        self.carry_out(job, decision).await
    }

    async fn carry_out(
        self: Arc<Self>,
        job: Job,
        decision: Decision,
    ) -> Result<Response<Body>, AnswerLost> {
        wait(decision.delay_ms).await;
        match decision.action {
            None | Some(Action::Delay { .. }) => Ok(self.apply(job).await),
            Some(Action::Fail { status, code, message }) => {
                Ok(failure(&job, status, &code, &message))
            }
            Some(Action::Throttle) => Ok(throttled(&job)),
            Some(Action::LoseAnswer) => {
                self.apply(job).await;
                Err(AnswerLost)
            }
            Some(Action::ErrorAfterApply) => {
                let refusal = failure(&job, 500, "InternalFailure", "Failed by a fault rule.");
                self.apply(job).await;
                Ok(refusal)
            }
            Some(Action::ApplyLate { ms }) => {
                let services = self.clone();
                self.late.spawn(async move {
                    wait(ms).await;
                    services.apply(job).await;
                });
                Err(AnswerLost)
            }
            Some(Action::ApplyTwice) => {
                let first = self.apply(job.clone()).await;
                self.apply(job).await;
                Ok(first)
            }
            Some(Action::EmptyPage) if job.operation == "GetRecords" => {
                Ok(self.kinesis_answer(self.kinesis.empty_page(&job.body)))
            }
            Some(Action::StuckIterator) if job.operation == "GetShardIterator" => {
                Ok(self.kinesis_answer(self.kinesis.stuck_iterator(&job.body)))
            }
            Some(Action::EmptyPage | Action::StuckIterator) => Ok(self.apply(job).await),
        }
    }

    async fn apply(&self, job: Job) -> Response<Body> {
        match job.service {
            Service::Kinesis => self.kinesis_answer(self.kinesis.call(&job.operation, &job.body)),
            Service::Dynamodb => {
                let (status, body) = self.dynamodb.call(&job.operation, job.body).await;
                answer(status, dynamodb::CONTENT_TYPE, body.into())
            }
            Service::S3 => self.call_s3(Request::from_parts(job.head, job.body.into())).await,
        }
    }

    /// The answer of Kinesis, dated by its own time where that was moved on; else by the server.
    fn kinesis_answer(&self, (status, body): (u16, Vec<u8>)) -> Response<Body> {
        let mut answer = answer(status, kinesis::CONTENT_TYPE, body.into());
        let date = self.kinesis.moved_time_ms().and_then(http_date);
        if let Some(date) = date {
            answer.headers_mut().insert(header::DATE, date);
        }
        answer
    }

    async fn call_s3(&self, request: Request<Body>) -> Response<Body> {
        match self.s3.call(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(?error, "S3 could not answer");
                answer(500, "text/plain", Bytes::from_static(b"the emulator could not answer\n"))
            }
        }
    }
}

fn route(head: &Parts) -> Route {
    let target = head.headers.get("x-amz-target").and_then(|v| v.to_str().ok());
    match target.and_then(|t| t.split_once('.')) {
        Some(("Kinesis_20131202", operation)) => Route::Json(Service::Kinesis, operation.into()),
        Some(("DynamoDB_20120810", operation)) => Route::Json(Service::Dynamodb, operation.into()),
        Some((other, _)) => Route::Unknown(other.into()),
        None if head.uri.path().starts_with("/-/") => {
            let host = head.headers.get(header::HOST).and_then(|h| h.to_str().ok());
            // In a virtual-hosted request the path is a key, and a key may start with "-/".
            if host.and_then(bucket_of_host).is_some() { Route::S3 } else { Route::Control }
        }
        None => Route::S3,
    }
}

/// The whole body. One that says that it is too long is refused before any of it is read.
async fn collect(body: Incoming) -> Result<Bytes, Response<Body>> {
    let refusal = |what: &str| {
        tracing::warn!("a request is refused: {what}");
        let body = dynamodb::refusal("SerializationException", what);
        answer(413, dynamodb::CONTENT_TYPE, body.into())
    };
    let claimed = body.size_hint().lower();
    if usize::try_from(claimed).map_or(true, |claimed| claimed > MAX_BODY) {
        return Err(refusal(&format!("its body has {claimed} bytes of at most {MAX_BODY}")));
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(refusal(&error.to_string())),
    }
}

fn http_date(ms: u64) -> Option<HeaderValue> {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time);
    HeaderValue::try_from(text.ok()?).ok()
}

async fn wait(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// The error that a service answers a caller with who is too fast.
fn throttled(job: &Job) -> Response<Body> {
    let message = "Throttled by a fault rule.";
    match job.service {
        Service::S3 => failure(job, 503, "SlowDown", message),
        _ => failure(job, 400, "ProvisionedThroughputExceededException", message),
    }
}

/// An error in the form of the job's service.
fn failure(job: &Job, status: u16, code: &str, message: &str) -> Response<Body> {
    match job.service {
        Service::S3 => {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}\
                 </Message></Error>",
                xml_text(code),
                xml_text(message)
            );
            answer(status, "application/xml", body.into())
        }
        Service::Dynamodb => {
            answer(status, dynamodb::CONTENT_TYPE, dynamodb::refusal(code, message).into())
        }
        Service::Kinesis => {
            let body = serde_json::json!({ "__type": code, "message": message }).to_string();
            answer(status, kinesis::CONTENT_TYPE, body.into())
        }
    }
}

fn xml_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An answer with the id that the SDKs show in their errors.
pub(crate) fn answer(status: u16, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let id = uuid::Uuid::new_v4().to_string();
    headers.insert("x-amzn-requestid", HeaderValue::try_from(id).expect("a UUID is ASCII"));
    answer
}
