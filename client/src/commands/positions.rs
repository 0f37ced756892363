//! `millrace positions APP`: up to where each shard of an application is committed.
//!
//! Promises: what one consistent read of the head says, shard by shard, so that another consumer can
//! go on exactly there once the application has stopped. Never does: change anything, or ask Kinesis.

use millrace_common::head::Head;
use serde::Serialize;

use super::subject::Subject;
use crate::arguments::Global;
use crate::ended::Outcome;
use crate::output::{Align, Output, table};
use crate::times::show_time;

/// The positions as `--json` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct PositionsView {
    application: String,
    /// The last committed batch; its records are the last ones up to the positions.
    batch: u64,
    epoch: u64,
    shards: Vec<ShardView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ShardView {
    source: String,
    stream_arn: String,
    /// Two streams that had one name after another differ in this.
    stream_created_ms: i64,
    shard_id: String,
    /// The last record that is committed; none when nothing of the shard is.
    sequence_number: Option<String>,
    /// The shard held nothing behind that record up to then, by Kinesis' clock.
    empty_until_ms: Option<i64>,
    /// The shard has ended, and all of it is committed.
    ended: bool,
    /// Ranges that were lost and gone over by `on_data_loss`.
    num_gaps: u64,
}

pub(super) async fn run(global: &Global, output: &Output, name: &str) -> Outcome {
    let subject = Subject::find(global, output, name).await?;
    let head = subject.head().await?;
    let view = view(name, head.as_ref());
    output.result(&view, || {
        if view.shards.is_empty() {
            output.say(&format!("{name} has committed no positions yet"));
            return String::new();
        }
        show(&view)
    })
}

fn view(name: &str, head: Option<&Head>) -> PositionsView {
    let shards = head.into_iter().flat_map(|head| {
        head.positions.iter().map(|(shard, position)| ShardView {
            source: shard.source.clone(),
            stream_arn: shard.stream_arn.clone(),
            stream_created_ms: shard.stream_created_ms,
            shard_id: shard.shard_id.clone(),
            sequence_number: position.sequence_number.map(|number| number.to_string()),
            empty_until_ms: Some(position.empty_until_ms).filter(|ms| *ms > 0),
            ended: position.ended,
            num_gaps: head.gaps.get(shard).map_or(0, |gaps| gaps.count),
        })
    });
    PositionsView {
        application: name.to_owned(),
        batch: head.map_or(0, |head| head.batch),
        epoch: head.map_or(0, |head| head.epoch),
        shards: shards.collect(),
    }
}

fn show(view: &PositionsView) -> String {
    const COLUMNS: [(&str, Align); 6] = [
        ("SOURCE", Align::Left),
        ("SHARD", Align::Left),
        ("COMMITTED UP TO", Align::Left),
        ("EMPTY UNTIL", Align::Left),
        ("ENDED", Align::Left),
        ("GAPS", Align::Right),
    ];
    let dash = || "-".to_owned();
    let row = |shard: &ShardView| {
        vec![
            shard.source.clone(),
            shard.shard_id.clone(),
            shard.sequence_number.clone().unwrap_or_else(dash),
            shard.empty_until_ms.map_or_else(dash, show_time),
            if shard.ended { "yes".to_owned() } else { "no".to_owned() },
            shard.num_gaps.to_string(),
        ]
    };
    let PositionsView { batch, epoch, .. } = view;
    format!("{}\nbatch {batch}, epoch {epoch}", table(&COLUMNS, view.shards.iter().map(row)))
}
