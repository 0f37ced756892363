//! DynamoDB: the calls of the wire, carried out by an engine on a thread of its own.
//!
//! Promise: calls are carried out one after another, so a condition and its write are one step; an
//! answered write survives the death of this process. The engine stands behind [`Engine`], so that
//! it can be replaced; which one it is shows only in `dynoxide`.

mod dynoxide;

use std::io;
use std::path::Path;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// The content type of requests and answers.
pub(crate) const CONTENT_TYPE: &str = "application/x-amz-json-1.0";

/// Calls that wait for the engine. SQLite carries out thousands a second, so that a full queue is
/// far less than a second of work; beyond it callers wait.
const QUEUE: usize = 256;

/// What carries out the calls.
pub(crate) trait Engine: Send + 'static {
    /// Carries out one operation on its JSON body and returns the HTTP status and the JSON answer.
    fn call(&mut self, operation: &str, body: &str) -> (u16, String);
}

struct Call {
    operation: String,
    body: Bytes,
    answer: oneshot::Sender<(u16, String)>,
}

/// A handle to the engine's thread; the thread ends when the handle is dropped.
pub(crate) struct DynamoDb {
    calls: Option<mpsc::Sender<Call>>,
    thread: Option<JoinHandle<()>>,
}

impl DynamoDb {
    /// Opens the tables in `dir`.
    ///
    /// # Errors
    /// When the database cannot be opened or no thread can be started.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let engine = dynoxide::Dynoxide::open(&dir.join("tables.sqlite"))?;
        Self::start(engine)
    }

    fn start(mut engine: impl Engine) -> io::Result<Self> {
        let (calls, mut inbox) = mpsc::channel::<Call>(QUEUE);
        let thread = std::thread::Builder::new().name("dynamodb".into()).spawn(move || {
            while let Some(call) = inbox.blocking_recv() {
                let answer = match std::str::from_utf8(&call.body) {
                    Ok(body) => engine.call(&call.operation, body),
                    Err(_) => (400, refusal("SerializationException", "The body is not UTF-8.")),
                };
                // The caller may have hung up; what it asked for is done all the same.
                call.answer.send(answer).ok();
            }
        })?;
        Ok(Self { calls: Some(calls), thread: Some(thread) })
    }

    /// Carries out one call: the HTTP status and the JSON body.
    pub(crate) async fn call(&self, operation: &str, body: Bytes) -> (u16, String) {
        let gone = || (500, refusal("InternalServerError", "The DynamoDB engine has stopped."));
        let (answer, answered) = oneshot::channel();
        let call = Call { operation: operation.to_owned(), body, answer };
        let Some(calls) = &self.calls else {
            return gone();
        };
        if calls.send(call).await.is_err() {
            return gone();
        }
        answered.await.unwrap_or_else(|_| gone())
    }
}

impl Drop for DynamoDb {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the DynamoDB engine panicked; its last calls were not answered");
        }
    }
}

/// The body of an error that does not come from the engine.
pub(crate) fn refusal(kind: &str, message: &str) -> String {
    serde_json::json!({
        "__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"),
        "message": message,
    })
    .to_string()
}
