//! `millrace batches APP`: what was committed, batch by batch.
//!
//! Promises: with `--follow` each batch is printed once, when its files are visible or a newer
//! batch is committed, until the application ends.

use millrace_client::Client;
use millrace_client::client::BATCHES_MAX;
use millrace_client::view::{BatchView, has_ended};
use millrace_proto::v1;

use super::master;
use super::wait::{Away, POLL};
use crate::arguments::{Batches, Global};
use crate::ended::Outcome;
use crate::output::{Align, Output, table};
use crate::times::{show_span, show_time};

pub(super) async fn run(global: &Global, output: &Output, command: &Batches) -> Outcome {
    let client = master(global).await?;
    let name = &command.named.name;
    let batches = client.batches(name, command.limit).await?;
    if command.follow {
        return follow(&client, output, name, &batches).await;
    }
    let views: Vec<_> = batches.iter().map(BatchView::new).collect();
    output.result(&views, || {
        if views.is_empty() {
            output.say(&format!("{name} has not committed a batch yet"));
            return String::new();
        }
        show(&views)
    })
}

async fn follow(client: &Client, output: &Output, name: &str, first: &[v1::Batch]) -> Outcome {
    let mut printed = Printed::default();
    if !output.json() {
        output.text(&follow_line(&HEADER.map(ToOwned::to_owned)))?;
    }
    print(output, printed.take(first, false))?;
    let mut away = Away::default();
    loop {
        // The state is asked for before the batches, so that the last batch is not missed.
        let ended = match away.notice(client.application(name).await, output)? {
            Some((application, _)) => has_ended(application.state()),
            None => false,
        };
        if let Some(batches) = away.notice(client.batches(name, BATCHES_MAX).await, output)? {
            print(output, printed.take(&batches, ended))?;
            if ended {
                return Ok(());
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn print(output: &Output, views: Vec<BatchView>) -> Outcome {
    for view in views {
        if output.json() {
            output.json_line(&view)?;
        } else {
            output.text(&follow_line(&cells(&view)))?;
        }
    }
    Ok(())
}

/// Which batches were printed already.
#[derive(Debug, Default)]
struct Printed {
    up_to: Option<u64>,
}

impl Printed {
    /// The batches to print now, of `batches` in order; the newest only once it is published,
    /// unless the application has `ended`.
    fn take(&mut self, batches: &[v1::Batch], ended: bool) -> Vec<BatchView> {
        let newest = batches.last().map(|batch| batch.number);
        let ready: Vec<_> = batches
            .iter()
            .filter(|batch| self.up_to.is_none_or(|up_to| batch.number > up_to))
            .filter(|batch| ended || batch.published_ms > 0 || Some(batch.number) != newest)
            .map(BatchView::new)
            .collect();
        self.up_to = ready.last().map(|batch| batch.number).or(self.up_to);
        ready
    }
}

const HEADER: [&str; 8] =
    ["BATCH", "COMMITTED", "TOOK", "RECORDS", "BYTES", "ROWS", "FILES", "RUNS"];

fn cells(view: &BatchView) -> [String; 8] {
    let took = match (view.cut_ms, view.published_ms.or(view.committed_ms)) {
        (Some(cut), Some(end)) => {
            u64::try_from(end - cut).map_or_else(|_| "-".to_owned(), show_span)
        }
        _ => "-".to_owned(),
    };
    // What its own driver alone knew.
    let by_its_own = |number: u64| match view.recovered {
        true => "-".to_owned(),
        false => number.to_string(),
    };
    let unknown = if view.recovered { "(recovered)" } else { "-" };
    [
        view.number.to_string(),
        view.committed_ms.map_or_else(|| unknown.to_owned(), show_time),
        took,
        view.num_records.to_string(),
        by_its_own(view.num_bytes),
        view.num_rows.to_string(),
        view.num_files.to_string(),
        by_its_own(u64::from(view.num_runs)),
    ]
}

fn show(views: &[BatchView]) -> String {
    let columns =
        HEADER.map(|title| (title, if title == "COMMITTED" { Align::Left } else { Align::Right }));
    table(&columns, views.iter().map(|view| cells(view).to_vec()))
}

/// A line of fixed widths: rows that come one by one can not be measured beforehand.
fn follow_line(cells: &[String; 8]) -> String {
    let [batch, committed, took, records, bytes, rows, files, runs] = cells;
    format!(
        "{batch:>8}  {committed:20}  {took:>8}  {records:>9}  {bytes:>11}  {rows:>9}  {files:>5}  \
         {runs:>4}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64, published: bool) -> v1::Batch {
        v1::Batch { number, published_ms: i64::from(published), ..Default::default() }
    }

    const NONE: [u64; 0] = [];

    fn numbers(views: &[BatchView]) -> Vec<u64> {
        views.iter().map(|view| view.number).collect()
    }

    #[test]
    fn each_batch_is_printed_once_and_the_newest_when_published() {
        let mut printed = Printed::default();
        assert_eq!(numbers(&printed.take(&[batch(1, true), batch(2, false)], false)), [1]);
        assert_eq!(numbers(&printed.take(&[batch(1, true), batch(2, false)], false)), NONE);
        assert_eq!(numbers(&printed.take(&[batch(2, false), batch(3, true)], false)), [2, 3]);
        assert_eq!(numbers(&printed.take(&[batch(3, true), batch(4, false)], true)), [4]);
        assert_eq!(numbers(&printed.take(&[batch(3, true), batch(4, false)], true)), NONE);
    }

    #[test]
    fn a_recovered_batch_is_marked_and_shows_no_zeros_for_what_is_not_known() {
        let recovered = v1::Batch { recovered: true, num_records: 7, ..batch(3, true) };
        let cells = cells(&BatchView::new(&recovered));
        assert_eq!(cells, ["3", "(recovered)", "-", "7", "-", "0", "0", "-"]);
    }

    #[test]
    fn nothing_committed_prints_nothing() {
        assert_eq!(numbers(&Printed::default().take(&[], true)), NONE);
    }
}
