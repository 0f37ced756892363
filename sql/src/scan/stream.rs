//! One partition of a scan at work.
//!
//! Promises: blocks one after the other; each block is reported when its last record is decoded, or
//! when the stream is dropped before that, with the number it got to.
//! Never does: hold more than one block.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::{Result, internal_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;

use super::block::{BlockId, RawBlock};
use super::decode::{self, RecordDecoder};
use super::exec::ScanSpec;
use super::metadata;
use super::runtime::{BlockRead, RejectedRecord, ScanRuntime};
use crate::fault::Fault;
use crate::schema::{BadRecordPolicy, MetadataColumn};

/// All that reading a partition takes.
pub(super) struct Reader {
    pub(super) spec: Arc<ScanSpec>,
    pub(super) schema: SchemaRef,
    pub(super) blocks: Vec<BlockId>,
    pub(super) runtime: Arc<ScanRuntime>,
    /// Records decoded per batch of rows.
    pub(super) rows_max: usize,
}

/// Where a column of the output comes from.
enum Origin {
    /// Place among the decoder's columns.
    Decoded(usize),
    Metadata(MetadataColumn),
}

pub(super) fn read(reader: Reader) -> Result<SendableRecordBatchStream> {
    let schema = Arc::clone(&reader.schema);
    let state = State::new(reader)?;
    let batches = stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|batch| (batch, state)))
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
}

struct State {
    reader: Reader,
    origins: Vec<Origin>,
    decoder: Box<dyn RecordDecoder>,
    waiting: std::vec::IntoIter<BlockId>,
    current: Option<Progress>,
}

/// A block that is being read. Dropping it reports it.
struct Progress {
    block: Arc<RawBlock>,
    at: usize,
    num_bad: u64,
    scan: u32,
    runtime: Arc<ScanRuntime>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.runtime.observer.block_read(BlockRead {
            scan: self.scan,
            block: self.block.id.clone(),
            num_read: self.at as u64,
            num_bad: self.num_bad,
        });
    }
}

impl State {
    fn new(mut reader: Reader) -> Result<Self> {
        let spec = &reader.spec;
        let declared = spec.source.declared_fields().map_err(super::exec::ScanError::from)?;
        let decoded: Vec<usize> =
            spec.needed.iter().copied().filter(|column| *column < declared.len()).collect();
        let fields: Vec<FieldRef> =
            decoded.iter().map(|column| Arc::new(declared[*column].clone())).collect();
        let origin = |column: &usize| match decoded.iter().position(|other| other == column) {
            Some(place) => Ok(Origin::Decoded(place)),
            None if *column >= declared.len() => {
                Ok(Origin::Metadata(spec.metadata[*column - declared.len()]))
            }
            None => internal_err!("column {column} of {} is not decoded", spec.source.name),
        };
        let origins = spec.projection.iter().map(origin).collect::<Result<_>>()?;
        let decoder = decode::decoder(&spec.source, &fields);
        let waiting = std::mem::take(&mut reader.blocks).into_iter();
        Ok(Self { reader, origins, decoder, waiting, current: None })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let mut progress = match self.current.take() {
                Some(progress) => progress,
                None => match self.waiting.next() {
                    Some(id) => self.open(&id).await?,
                    None => return Ok(None),
                },
            };
            let rows = self.decode(&mut progress)?;
            if progress.at < progress.block.num_records() {
                self.current = Some(progress);
            }
            if rows.num_rows() > 0 {
                return Ok(Some(rows));
            }
        }
    }

    async fn open(&self, id: &BlockId) -> Result<Progress> {
        let lost = |detail: String| {
            let block = id.to_string();
            Fault::BlockLost { block, detail }.into_error()
        };
        let block =
            self.reader.runtime.blocks.get(id).await.map_err(|error| lost(error.to_string()))?;
        block.check().map_err(|error| lost(error.to_string()))?;
        Ok(Progress {
            block,
            at: 0,
            num_bad: 0,
            scan: self.reader.spec.scan,
            runtime: Arc::clone(&self.reader.runtime),
        })
    }

    /// Decodes the next records of the block into one batch, which may be empty.
    fn decode(&mut self, progress: &mut Progress) -> Result<RecordBatch> {
        let block = Arc::clone(&progress.block);
        let end = block.num_records().min(progress.at + self.reader.rows_max);
        let mut kept = Vec::with_capacity(end - progress.at);
        while progress.at < end {
            let at = progress.at;
            match self.decoder.push(block.data.value(at)) {
                Ok(()) => kept.push(at as u64),
                Err(bad) => {
                    self.reject(&block, at, bad.to_string())?;
                    progress.num_bad += 1;
                }
            }
            progress.at += 1;
        }
        let kept = UInt64Array::from(kept);
        let decoded = self.decoder.finish();
        let columns = self.origins.iter().map(|origin| match origin {
            Origin::Decoded(column) => Ok(Arc::clone(&decoded[*column])),
            Origin::Metadata(column) => {
                metadata::build(*column, &block, &kept, self.reader.spec.batch)
            }
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(kept.values().len()));
        let schema = Arc::clone(&self.reader.schema);
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    /// Fails, or leaves the record out.
    fn reject(&self, block: &Arc<RawBlock>, at: usize, reason: String) -> Result<()> {
        let source = &self.reader.spec.source;
        match source.on_bad_record {
            BadRecordPolicy::Fail => Err(Fault::BadRecord {
                source: source.name.clone(),
                shard: block.shard.to_string(),
                sequence_number: metadata::sequence_number(block, at as u64),
                detail: reason,
            }
            .into_error()),
            BadRecordPolicy::Skip => Ok(()),
            BadRecordPolicy::DeadLetter => {
                self.reader.runtime.observer.record_rejected(RejectedRecord {
                    scan: self.reader.spec.scan,
                    source: Arc::clone(&block.source),
                    block: Arc::clone(block),
                    at,
                    reason,
                });
                Ok(())
            }
        }
    }
}
