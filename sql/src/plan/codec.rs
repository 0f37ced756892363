//! Our own plan nodes on their way to an executor.
//!
//! Promises: what is decoded equals what was encoded. Never does: touch nodes of others.

use std::sync::Arc;

use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use serde::{Deserialize, Serialize};

use super::sink::{SinkExec, SinkSpec};
use crate::scan::{BlockScanExec, PartitionBlocks, ScanSpec};

/// Encodes the scan and the sink.
#[derive(Debug)]
pub(crate) struct NodeCodec;

#[derive(Serialize, Deserialize)]
enum Node {
    Scan { spec: ScanSpec, partitions: Vec<PartitionBlocks> },
    Sink { spec: SinkSpec },
}

impl PhysicalExtensionCodec for NodeCodec {
    fn try_decode(
        &self,
        buffer: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _context: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = serde_json::from_slice(buffer)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        match (node, inputs) {
            (Node::Scan { spec, partitions }, []) => {
                Ok(Arc::new(BlockScanExec::try_new(Arc::new(spec), partitions)?))
            }
            (Node::Sink { spec }, [input]) => {
                Ok(Arc::new(SinkExec::new(Arc::clone(input), Arc::new(spec))))
            }
            _ => internal_err!("a node has {} inputs", inputs.len()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buffer: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let node = if let Some(scan) = node.downcast_ref::<BlockScanExec>() {
            Node::Scan { spec: (**scan.spec()).clone(), partitions: scan.partitions().to_vec() }
        } else if let Some(sink) = node.downcast_ref::<SinkExec>() {
            Node::Sink { spec: (**sink.spec()).clone() }
        } else {
            return internal_err!("{} is not a node of Millrace", node.name());
        };
        serde_json::to_writer(buffer, &node)
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }
}
