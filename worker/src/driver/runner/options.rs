//! What a runner is made for: an application's sources, query and sink.
//!
//! Promises: plain values. Never does: check them; the query is checked when it is prepared.

use millrace_common::access::Token;
use millrace_common::application::{self, ApplicationSpec, S3Location};
use millrace_sql::Parameters;
use millrace_sql::plan::{Compression, SinkFormat};
use millrace_sql::schema::SourceDef;
use tokio::runtime::Handle;

use crate::driver::start::BucketRegions;

/// Where the results of an application go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkSettings {
    /// Bucket of the results.
    pub bucket: String,
    /// Prefix of the results, without a slash at either end; may be empty.
    pub prefix: String,
    /// Region of the bucket; empty for the process's own.
    pub region: String,
    /// File format.
    pub format: SinkFormat,
    /// Compression of the text formats.
    pub compression: Compression,
    /// Columns that become directories.
    pub partition_by: Vec<String>,
    /// How many files a task may have open at once.
    pub max_open_partitions: usize,
    /// Files per batch and directory at most; 0 for as many as the plan has last tasks.
    pub files_per_batch: usize,
    /// Bucket and prefix of the dead letters; none when no source has any.
    pub dead_letters: Option<(String, String)>,
    /// Region of the bucket of the dead letters; empty for the process's own.
    pub dead_letter_region: String,
}

/// What a runner is made for.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// The application's name.
    pub application: String,
    /// Its sources.
    pub sources: Vec<SourceDef>,
    /// Its query.
    pub sql: String,
    /// What the query's `$name`s stand for.
    pub params: Parameters,
    /// Where its results go.
    pub sink: SinkSettings,
    /// The runtime of connections.
    pub io: Handle,
    /// What executors are shown.
    pub token: Option<Token>,
}

impl RunnerOptions {
    /// As the application says. The region of its bucket is recorded with every upload.
    #[must_use]
    pub fn from_spec(
        spec: &ApplicationSpec,
        regions: &BucketRegions,
        params: Parameters,
        io: Handle,
        token: Option<Token>,
    ) -> Self {
        let sink = &spec.sink;
        let place = |location: &S3Location| {
            (location.bucket.clone(), location.prefix.trim_end_matches('/').to_owned())
        };
        let (bucket, prefix) = place(&sink.path);
        let dead = sink.dead_letter_path.as_ref();
        let settings = SinkSettings {
            region: regions.of(&bucket).to_owned(),
            dead_letter_region: dead
                .map(|place| regions.of(&place.bucket).to_owned())
                .unwrap_or_default(),
            bucket,
            prefix,
            format: match sink.format {
                application::SinkFormat::Json => SinkFormat::Json,
                application::SinkFormat::Csv => SinkFormat::Csv,
                application::SinkFormat::Parquet => SinkFormat::Parquet,
            },
            compression: match sink.compression {
                application::Compression::None => Compression::None,
                application::Compression::Gzip => Compression::Gzip,
                application::Compression::Zstd => Compression::Zstd,
            },
            partition_by: sink.partition_by.clone(),
            max_open_partitions: usize::try_from(sink.max_open_partitions).unwrap_or(usize::MAX),
            files_per_batch: usize::try_from(sink.files_per_batch).unwrap_or(usize::MAX),
            dead_letters: dead.map(place),
        };
        Self {
            application: spec.name.as_str().to_owned(),
            sources: SourceDef::all(spec),
            sql: spec.query.sql.clone(),
            params,
            sink: settings,
            io,
            token,
        }
    }
}
