//! An application as commands see it that look beyond the master: its specification, its head in
//! DynamoDB and its open uploads in S3, all with the user's own credentials.
//!
//! Promises: heads are read consistently; listings are complete. Never does: change anything.

use jiff::Timestamp;
use millrace_client::Client;
use millrace_common::application::{ApplicationSpec, S3Location};
use millrace_common::aws::{Clients, explain, kind};
use millrace_common::error::{Code, Error, Result};
use millrace_common::head::{self, Head, RunOrder, run_of_key};
use millrace_common::id::ApplicationName;
use millrace_common::retry::{self, Backoff};
use millrace_proto::v1;

use super::buckets::s3_of;
use super::{aws, master};
use crate::arguments::Global;
use crate::ended::Outcome;
use crate::output::Output;

/// The specification of an application, as the master has it.
pub(super) async fn specification(client: &Client, name: &str) -> Result<v1::ApplicationSpec> {
    let (application, _) = client.application(name).await?;
    application.spec.ok_or_else(|| {
        Error::new(
            Code::Protocol,
            format!("the master gives no specification of {name}"),
            "see whether client and master are of one version",
        )
    })
}

/// Tries of a call that may be sent again.
pub(super) const TRIES: u32 = 5;

/// An application that the master knows.
pub(super) struct Subject {
    pub(super) name: ApplicationName,
    pub(super) client: Client,
    pub(super) spec: ApplicationSpec,
    pub(super) aws: Clients,
    table: String,
}

/// An upload that was begun by a run of the application and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenUpload {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) upload_id: String,
    pub(super) run: RunOrder,
    /// When it was begun, Unix time in milliseconds, by S3's clock.
    pub(super) created_ms: Option<i64>,
}

impl Subject {
    /// Asks the master for the application and makes the clients that it says.
    pub(super) async fn find(global: &Global, output: &Output, name: &str) -> Outcome<Self> {
        let name: ApplicationName = name.parse()?;
        let client = master(global).await?;
        let spec = ApplicationSpec::from_proto(&specification(&client, name.as_str()).await?)?;
        let table = client.cluster().await?.table;
        let aws = aws(output, &spec.aws).await?;
        Ok(Self { name, client, spec, aws, table })
    }

    /// The head as it is now; none before the first start.
    pub(super) async fn head(&self) -> Result<Option<Head>> {
        head::read(&self.aws.dynamodb, &self.table, &self.name).await
    }

    /// Everything that runs of this application have open below its prefixes.
    pub(super) async fn open_uploads(&self) -> Result<Vec<OpenUpload>> {
        let mut found = Vec::new();
        let sink = &self.spec.sink;
        for place in std::iter::once(&sink.path).chain(&sink.dead_letter_path) {
            found.extend(self.open_uploads_below(place).await?);
        }
        Ok(found)
    }

    async fn open_uploads_below(&self, place: &S3Location) -> Result<Vec<OpenUpload>> {
        let mut found = Vec::new();
        let s3 = s3_of(&self.aws, &place.bucket).await;
        let (mut key_marker, mut id_marker) = (None::<String>, None::<String>);
        loop {
            let page = retry::call(
                Backoff::CALL,
                TRIES,
                |error| kind(error).is_transient(),
                || {
                    s3.list_multipart_uploads()
                        .bucket(&place.bucket)
                        .prefix(&place.prefix)
                        .set_key_marker(key_marker.clone())
                        .set_upload_id_marker(id_marker.clone())
                        .send()
                },
            )
            .await
            .map_err(|error| {
                let resource = format!("bucket {}", place.bucket);
                explain("s3", "ListMultipartUploads", &resource, &error)
            })?;
            found.extend(page.uploads().iter().filter_map(|upload| self.mine(place, upload)));
            if !page.is_truncated().unwrap_or(false) {
                return Ok(found);
            }
            key_marker = page.next_key_marker;
            id_marker = page.next_upload_id_marker;
        }
    }

    fn mine(
        &self,
        place: &S3Location,
        upload: &aws_sdk_s3::types::MultipartUpload,
    ) -> Option<OpenUpload> {
        let key = upload.key()?;
        Some(OpenUpload {
            bucket: place.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.upload_id()?.to_owned(),
            run: run_of_key(&self.name, key)?,
            created_ms: upload
                .initiated()
                .and_then(|time| Timestamp::from_second(time.secs()).ok())
                .map(Timestamp::as_millisecond),
        })
    }
}
