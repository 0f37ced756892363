//! The sink's writers: rows of a task to multipart uploads that nobody can see yet.
//!
//! Promises: a task without rows creates nothing; a file holds rows of one task and one directory;
//! encoding happens on the compute threads and uploading on the I/O runtime.
//! Owned by the task whose plan ends here. Never does: complete or abort an upload.

mod encode;
mod hive;
mod store;
mod upload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use futures::StreamExt;
use millrace_sql::fault::Fault;
use millrace_sql::plan::upload::Upload;
use millrace_sql::plan::{SinkResult, SinkSpec, SinkWriter};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::encode::Encoder;
use self::hive::Partitioner;
pub use self::store::{
    Created, MemoryStore, MemoryUpload, ObjectTarget, S3Store, StoreError, TOKEN, UploadStore,
};
pub use self::upload::{PART_BYTES, UploadWriter};

/// Parts that may wait for a file's uploader. One is under way meanwhile, so a file holds at most
/// three parts in memory.
const PARTS_WAITING_MAX: usize = 1;

/// Batches of rows that may wait between the partitions of a task and its encoder.
const BATCHES_WAITING_MAX: usize = 2;

/// Writes to S3, or to what stands for it.
#[derive(Debug)]
pub struct S3Sink {
    store: Arc<dyn UploadStore>,
    io: Handle,
}

impl S3Sink {
    /// A sink whose uploads run on `io`.
    #[must_use]
    pub fn new(store: Arc<dyn UploadStore>, io: Handle) -> Self {
        Self { store, io }
    }
}

#[async_trait]
impl SinkWriter for S3Sink {
    async fn write(
        &self,
        spec: Arc<SinkSpec>,
        task: usize,
        inputs: Vec<SendableRecordBatchStream>,
    ) -> Result<SinkResult> {
        let Some(schema) = inputs.first().map(|input| input.schema()) else {
            return Ok(SinkResult { task, ..SinkResult::default() });
        };
        let partitioner = Partitioner::new(&schema, &spec.partition_by).map_err(|column| {
            let detail = format!("the result has no column {column} to partition by");
            fault(false, "no-such-column", detail)
        })?;
        let file_schema = partitioner.file_schema(&schema)?;
        let mut files = Files { sink: self, spec, task, file_schema, open: BTreeMap::new() };
        let mut rows = merged(schema, inputs);
        while let Some(batch) = rows.next().await {
            for part in partitioner.split(&batch?)? {
                files.write(part.directory, &part.rows).await?;
            }
        }
        files.finish().await
    }
}

/// All partitions as one stream, each polled by a task of its own.
fn merged(
    schema: SchemaRef,
    mut inputs: Vec<SendableRecordBatchStream>,
) -> SendableRecordBatchStream {
    match inputs.pop() {
        Some(only) if inputs.is_empty() => return only,
        Some(last) => inputs.push(last),
        None => {}
    }
    let mut builder = RecordBatchReceiverStreamBuilder::new(schema, BATCHES_WAITING_MAX);
    for mut input in inputs {
        let rows = builder.tx();
        builder.spawn(async move {
            while let Some(batch) = input.next().await {
                if rows.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
    }
    builder.build()
}

/// The files of one task.
struct Files<'a> {
    sink: &'a S3Sink,
    spec: Arc<SinkSpec>,
    task: usize,
    file_schema: SchemaRef,
    open: BTreeMap<String, File>,
}

/// One file, its encoder here and its uploader on the I/O runtime.
struct File {
    encoder: Encoder,
    rows: u64,
    parts: mpsc::Sender<Message>,
    uploader: AbortOnDropHandle<Result<Uploaded, StoreError>>,
}

/// A file whose parts are stored.
struct Uploaded {
    upload: Upload,
    /// How long the store took for its parts.
    with_store: Duration,
}

enum Message {
    Part(Bytes),
    Last(Bytes, u64),
}

impl Files<'_> {
    async fn write(&mut self, directory: String, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if !self.open.contains_key(&directory) {
            let limit = self.spec.max_open_partitions.max(1);
            if self.open.len() >= limit {
                let detail = format!(
                    "a task of the batch has rows for more than {limit} partitions; raise \
                     max_open_partitions or partition by columns with fewer values"
                );
                return Err(fault(false, "too-many-partitions", detail));
            }
            let file = self.create(&directory)?;
            self.open.insert(directory.clone(), file);
        }
        let file = self.open.get_mut(&directory).expect("opened above");
        file.encoder.write(rows).map_err(encoding)?;
        file.rows += rows.num_rows() as u64;
        if file.encoder.num_waiting() >= PART_BYTES {
            let part = Bytes::from(file.encoder.take());
            if file.parts.send(Message::Part(part)).await.is_err() {
                return Err(self.failure(&directory).await);
            }
        }
        Ok(())
    }

    fn create(&self, directory: &str) -> Result<File> {
        let SinkSpec { format, compression, .. } = *self.spec;
        let schema = Arc::clone(&self.file_schema);
        let encoder = Encoder::new(format, compression, schema).map_err(encoding)?;
        let (parts, waiting) = mpsc::channel(PARTS_WAITING_MAX);
        let store = Arc::clone(&self.sink.store);
        let uploader = upload_all(store, self.target(directory), waiting);
        let uploader = AbortOnDropHandle::new(self.sink.io.spawn(uploader));
        Ok(File { encoder, rows: 0, parts, uploader })
    }

    fn target(&self, directory: &str) -> ObjectTarget {
        let SinkSpec { application, epoch, batch, run, prefix, .. } = &*self.spec;
        let extension = encode::extension(self.spec.format, self.spec.compression);
        let name = format!("{application}-e{epoch}-b{batch}-t{}-{run}.{extension}", self.task);
        let path = [prefix.as_str(), directory, &name];
        let path: Vec<_> = path.into_iter().filter(|piece| !piece.is_empty()).collect();
        ObjectTarget {
            bucket: self.spec.bucket.clone(),
            region: self.spec.region.clone(),
            key: path.join("/"),
            token: format!("{application}/{epoch}/{batch}/{run}"),
            content_type: encode::content_type(self.spec.format, self.spec.compression),
        }
    }

    /// Why the uploader of a file is gone.
    async fn failure(&mut self, directory: &str) -> DataFusionError {
        match self.open.remove(directory) {
            Some(file) => match file.uploader.await {
                Ok(Err(error)) => store_fault(error),
                Ok(Ok(_)) | Err(_) => {
                    fault(true, "internal", "an uploader ended before its file".to_owned())
                }
            },
            None => fault(true, "internal", "a file is gone".to_owned()),
        }
    }

    async fn finish(mut self) -> Result<SinkResult> {
        let mut result = SinkResult { task: self.task, ..SinkResult::default() };
        // All last parts are handed over before the first upload is waited for.
        let mut uploaders = Vec::with_capacity(self.open.len());
        for (_, file) in std::mem::take(&mut self.open) {
            let rest = Bytes::from(file.encoder.finish().map_err(encoding)?);
            // An uploader that is gone says why when it is waited for.
            let handed_over = file.parts.send(Message::Last(rest, file.rows)).await.is_ok();
            uploaders.push((handed_over, file.uploader));
        }
        for (handed_over, uploader) in uploaders {
            let Uploaded { upload, with_store } = uploader
                .await
                .map_err(|error| fault(true, "internal", format!("an uploader ended: {error}")))?
                .map_err(store_fault)?;
            if !handed_over {
                return Err(fault(true, "internal", "a file has no end".to_owned()));
            }
            result.rows += upload.rows;
            result.bytes += upload.bytes;
            let with_store_ms = u64::try_from(with_store.as_millis()).unwrap_or(u64::MAX);
            result.store_ms = result.store_ms.max(with_store_ms);
            result.uploads.push(upload);
        }
        Ok(result)
    }
}

/// Uploads the parts of one file as they come.
async fn upload_all(
    store: Arc<dyn UploadStore>,
    target: ObjectTarget,
    mut waiting: mpsc::Receiver<Message>,
) -> Result<Uploaded, StoreError> {
    let key = target.key.clone();
    let mut writer = UploadWriter::new(&*store, target);
    let mut with_store = Duration::ZERO;
    while let Some(message) = waiting.recv().await {
        let began = Instant::now();
        match message {
            Message::Part(part) => writer.push(part).await?,
            Message::Last(rest, rows) => {
                let upload = writer.finish(rest, rows).await?;
                with_store += began.elapsed();
                return Ok(Uploaded { upload, with_store });
            }
        }
        with_store += began.elapsed();
    }
    // The task is gone; nobody will read this.
    let detail = format!("the task of {key} ended early");
    Err(StoreError::retryable("cancelled", detail))
}

fn fault(retryable: bool, code: &str, detail: String) -> DataFusionError {
    let next_move = String::new();
    Fault::Sink { retryable, code: code.to_owned(), detail, next_move }.into_error()
}

fn store_fault(error: StoreError) -> DataFusionError {
    let StoreError { code, detail, retryable, next_move } = error;
    Fault::Sink { retryable, code, detail, next_move }.into_error()
}

fn encoding(error: encode::EncodeError) -> DataFusionError {
    fault(false, "encoding", error.to_string())
}
