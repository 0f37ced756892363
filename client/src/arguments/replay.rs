//! The arguments of `millrace replay`.

use clap::Args;
use millrace_common::application::S3Location;
use millrace_common::application::replay::Moment;
use millrace_common::error::Error;

use super::FileAndSettings;

/// `millrace replay FILE --from T1 --to T2 --path s3://...`.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) source: FileAndSettings,
    /// The first moment whose records are read: a time with its offset from UTC, as
    /// 2026-11-22T10:00:00Z, or how long ago, as -6h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = parse_moment)]
    pub(crate) from: Moment,
    /// The first moment whose records are not read any more, in the same forms; not in the future.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = parse_moment)]
    pub(crate) to: Moment,
    /// Where the results go, as s3://bucket/prefix/: an empty place beside the application's own.
    #[arg(long, value_name = "S3-PATH", value_parser = parse_place)]
    pub(crate) path: S3Location,
    /// Where bad records go, if the file has a place for those of the application.
    #[arg(long, value_name = "S3-PATH", value_parser = parse_place)]
    pub(crate) dead_letter_path: Option<S3Location>,
    /// Wait until all of the range is computed.
    #[arg(long)]
    pub(crate) wait: bool,
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    text.parse().map_err(|error: Error| format!("{}; {}", error.message(), error.next_move()))
}

fn parse_place(text: &str) -> Result<S3Location, String> {
    text.parse().map_err(|error: Error| format!("{}; {}", error.message(), error.next_move()))
}
