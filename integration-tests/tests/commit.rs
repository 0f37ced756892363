//! The commit over the real wire protocols: DynamoDB's conditions and S3's multipart uploads, as
//! the SDK sees them, one driver after the other and two at once.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use millrace_common::clock::SystemClock;
use millrace_common::error::Code;
use millrace_common::id::ApplicationName;
use millrace_common::position::{Position, ShardKey};
use millrace_common::table;
use millrace_integration_tests::aws::{Aws, REGION};
use millrace_integration_tests::emulator;
use millrace_worker::driver::commit::{
    BatchCommit, CommitError, CommitOutcome, Committed, Committer, Count, LaunchFacts, Published,
    RecordCounts, S3Uploads, TOKEN_METADATA,
};
use millrace_worker::driver::head::{
    DynamoHeadStore, PendingPart, PendingUpload, Positions, ResetRequest, SourceStart, StartFrom,
};
use tokio_util::sync::CancellationToken;

const TABLE: &str = "heads";
const BUCKET: &str = "results";

struct Stage {
    aws: Aws,
    _directory: tempfile::TempDir,
    cancel: CancellationToken,
}

impl Stage {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let aws = emulator::start(directory.path()).await;
        table::create_if_missing(&aws.endpoint.dynamodb(), TABLE).await.unwrap();
        aws.endpoint.s3().create_bucket().bucket(BUCKET).send().await.unwrap();
        Self { aws, _directory: directory, cancel: CancellationToken::new() }
    }

    fn committer(&self, epoch: u64, change: impl FnOnce(&mut LaunchFacts)) -> Committer {
        let application: ApplicationName = "word-count".parse().unwrap();
        let heads = DynamoHeadStore::new(self.aws.endpoint.dynamodb(), TABLE, &application);
        let s3 = self.aws.endpoint.s3();
        let mut launch = LaunchFacts {
            application,
            cluster: "local".into(),
            epoch,
            owner: format!("process {epoch}"),
            head_expected: false,
        };
        change(&mut launch);
        let uploads = S3Uploads::with(move |_| s3.clone());
        Committer::new(Arc::new(heads), Arc::new(uploads), launch, SystemClock::shared())
    }

    async fn start(&self, epoch: u64) -> (Committer, Published) {
        let committer = self.committer(epoch, |_| {});
        let starts = BTreeMap::from([("logs".to_owned(), start_at(7))]);
        let acquired = committer.acquire(starts, &self.cancel).await.unwrap();
        let published = committer.recover(acquired, &self.cancel).await.unwrap();
        (committer, published)
    }

    /// What a task leaves behind: a multipart upload with one part.
    async fn upload(&self, key: &str, content: &'static [u8]) -> PendingUpload {
        let s3 = self.aws.endpoint.s3();
        let token = format!("token of {key}");
        let created = s3
            .create_multipart_upload()
            .bucket(BUCKET)
            .key(key)
            .metadata(TOKEN_METADATA, &token)
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .send()
            .await
            .unwrap();
        let upload_id = created.upload_id().unwrap().to_owned();
        let part = s3
            .upload_part()
            .bucket(BUCKET)
            .key(key)
            .upload_id(&upload_id)
            .part_number(1)
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .body(ByteStream::from_static(content))
            .send()
            .await
            .unwrap();
        let part = PendingPart {
            number: 1,
            etag: part.e_tag().unwrap().to_owned(),
            crc32c: part.checksum_crc32_c().unwrap_or_default().to_owned(),
        };
        PendingUpload {
            bucket: BUCKET.into(),
            region: REGION.into(),
            key: key.into(),
            upload_id,
            parts: vec![part],
            rows: 1,
            bytes: content.len() as u64,
            token,
            created_ms: 0,
        }
    }

    async fn object(&self, key: &str) -> Option<Vec<u8>> {
        let object = self.aws.endpoint.s3().get_object().bucket(BUCKET).key(key).send().await;
        Some(object.ok()?.body.collect().await.unwrap().to_vec())
    }
}

fn start_at(fixed_ms: i64) -> SourceStart {
    let from = StartFrom::Latest { open_shards: ["shardId-000000000000".to_owned()].into() };
    SourceStart { stream_arn: "arn".into(), stream_created_ms: 1, fixed_ms, from }
}

fn positions(number: u64) -> Positions {
    let key = ShardKey {
        source: "logs".into(),
        stream_arn: "arn".into(),
        stream_created_ms: 1,
        shard_id: "shardId-000000000000".into(),
    };
    let sequence_number = Some(number.to_string().parse().unwrap());
    Positions::from([(key, Position { sequence_number, ..Position::default() })])
}

fn batch(number: u64, uploads: Vec<PendingUpload>) -> BatchCommit {
    BatchCommit {
        positions: positions(number),
        gaps: BTreeMap::new(),
        uploads,
        state_ptr: None,
        spec_hash: "spec".into(),
        dropped_sources: BTreeSet::new(),
        records: RecordCounts { planned: 1, read: 1 },
        run_age: Duration::ZERO,
    }
}

async fn commit(
    stage: &Stage,
    committer: &Committer,
    published: Published,
    batch: BatchCommit,
) -> Result<Committed, CommitError> {
    match committer.commit(published, batch, &stage.cancel).await? {
        CommitOutcome::Committed(committed) => Ok(committed),
        CommitOutcome::RunTooOld(_) => panic!("the run is young"),
    }
}

fn code_of<T: std::fmt::Debug>(result: Result<T, CommitError>) -> Code {
    result.unwrap_err().explain(&"word-count".parse().unwrap()).code()
}

#[tokio::test]
async fn a_batch_becomes_visible_after_its_commit_and_once() {
    let stage = Stage::new().await;
    let (committer, published) = stage.start(1).await;
    assert_eq!(published.start_of("logs"), Some(&start_at(7)));
    let uploads = vec![stage.upload("out/a.json", b"a").await];
    let committed = commit(&stage, &committer, published, batch(5, uploads)).await.unwrap();
    assert_eq!(stage.object("out/a.json").await, None);
    let published = committer.publish(committed, &stage.cancel).await.unwrap();
    assert_eq!(stage.object("out/a.json").await.as_deref(), Some(&b"a"[..]));
    assert_eq!(published.next_batch(), 2);
    let seen = committer.peek(&stage.cancel).await.unwrap().unwrap();
    assert_eq!((seen.batch, &seen.positions), (1, &positions(5)));
}

#[tokio::test]
async fn the_next_driver_completes_what_the_last_one_committed() {
    let stage = Stage::new().await;
    let (committer, published) = stage.start(1).await;
    let uploads =
        vec![stage.upload("out/a.json", b"a").await, stage.upload("out/b.json", b"b").await];
    let zombie = commit(&stage, &committer, published, batch(5, uploads)).await.unwrap();
    let (next, published) = stage.start(2).await;
    assert_eq!(published.positions(), &positions(5));
    assert_eq!(stage.object("out/b.json").await.as_deref(), Some(&b"b"[..]));
    // A third start meets uploads that S3 may no longer know: their objects carry our token.
    stage.start(3).await;
    // The first driver goes on: its completes change nothing, its next commit fails.
    let published_by_zombie = committer.publish(zombie, &stage.cancel).await.unwrap();
    for (driver, proof) in [(&committer, published_by_zombie), (&next, published)] {
        let fenced = commit(&stage, driver, proof, batch(9, Vec::new())).await.unwrap_err();
        assert!(matches!(fenced, CommitError::Fenced { found: 3, .. }), "{fenced:?}");
    }
    assert_eq!(stage.object("out/a.json").await.as_deref(), Some(&b"a"[..]));
}

#[tokio::test]
async fn an_upload_that_was_aborted_is_a_loss_and_says_so() {
    let stage = Stage::new().await;
    let (committer, published) = stage.start(1).await;
    let upload = stage.upload("out/a.json", b"a").await;
    let committed = commit(&stage, &committer, published, batch(5, vec![upload.clone()])).await;
    let s3 = stage.aws.endpoint.s3();
    let abort = s3.abort_multipart_upload().bucket(BUCKET).key(&upload.key);
    abort.upload_id(&upload.upload_id).send().await.unwrap();
    let ended = committer.publish(committed.unwrap(), &stage.cancel).await;
    assert_eq!(code_of(ended), Code::UploadLost);
}

#[tokio::test]
async fn heads_are_refused_to_those_who_may_not_have_them() {
    let stage = Stage::new().await;
    let expecting = stage.committer(1, |launch| launch.head_expected = true);
    let refused = expecting.acquire(BTreeMap::new(), &stage.cancel).await;
    assert_eq!(code_of(refused), Code::HeadMissing);
    stage.start(4).await;
    let older = stage.committer(4, |launch| launch.owner = "another".into());
    let refused = older.acquire(BTreeMap::new(), &stage.cancel).await;
    assert!(matches!(refused, Err(CommitError::EpochTooLow { seen: 4 })), "{refused:?}");
    let foreign = stage.committer(9, |launch| launch.cluster = "other".into());
    let refused = foreign.acquire(BTreeMap::new(), &stage.cancel).await;
    assert_eq!(code_of(refused), Code::HeadForeign);
    let no_table = DynamoHeadStore::new(
        stage.aws.endpoint.dynamodb(),
        "no-such-table",
        &"word-count".parse().unwrap(),
    );
    let s3 = stage.aws.endpoint.s3();
    let lost = Committer::new(
        Arc::new(no_table),
        Arc::new(S3Uploads::with(move |_| s3.clone())),
        LaunchFacts {
            application: "word-count".parse().unwrap(),
            cluster: "local".into(),
            epoch: 1,
            owner: "process".into(),
            head_expected: false,
        },
        SystemClock::shared(),
    );
    assert_eq!(code_of(lost.peek(&stage.cancel).await), Code::TableMissing);
}

#[tokio::test]
async fn a_large_head_goes_through_chunks_and_back() {
    let stage = Stage::new().await;
    let (committer, published) = stage.start(1).await;
    let mut noise = 1u64;
    let state: String = (0..500_000)
        .map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + u8::try_from((noise >> 33) % 90).unwrap())
        })
        .collect();
    let large = BatchCommit { state_ptr: Some(state.clone()), ..batch(5, Vec::new()) };
    let committed = commit(&stage, &committer, published, large).await.unwrap();
    committer.publish(committed, &stage.cancel).await.unwrap();
    let (committer, published) = stage.start(2).await;
    assert_eq!(published.head().state_ptr.as_ref(), Some(&state));
    let committed = commit(&stage, &committer, published, batch(6, Vec::new())).await.unwrap();
    committer.publish(committed, &stage.cancel).await.unwrap();
    let items = stage.aws.endpoint.dynamodb().scan().table_name(TABLE).send().await.unwrap();
    assert_eq!(items.count(), 1, "the chunks of the head before are gone");
}

#[tokio::test]
async fn a_wish_to_reset_is_granted_once() {
    let stage = Stage::new().await;
    let (committer, published) = stage.start(1).await;
    let committed = commit(&stage, &committer, published, batch(5, Vec::new())).await.unwrap();
    committer.publish(committed, &stage.cancel).await.unwrap();
    // As the master leaves it: StartPosition { timestamp_ms: 1000 }.
    let wish = aws_sdk_dynamodb::primitives::Blob::new([0x18, 0xe8, 0x07]);
    let update = stage.aws.endpoint.dynamodb().update_item().table_name(TABLE);
    update
        .key(table::PK, text(&table::application_pk(&"word-count".parse().unwrap())))
        .key(table::SK, text(table::HEAD_SK))
        .update_expression("SET #reset = :wish")
        .expression_attribute_names("#reset", table::HEAD_RESET)
        .expression_attribute_values(":wish", aws_sdk_dynamodb::types::AttributeValue::B(wish))
        .send()
        .await
        .unwrap();
    let (committer, published) = stage.start(2).await;
    assert_eq!(published.reset_request(), Some(ResetRequest::Timestamp(1_000)));
    let starts = BTreeMap::from([("logs".to_owned(), start_at(1_000))]);
    committer.reset(published, starts, &stage.cancel).await.unwrap();
    let (_, published) = stage.start(3).await;
    assert_eq!((published.reset_request(), published.next_batch()), (None, 3));
    assert_eq!(published.start_of("logs"), Some(&start_at(1_000)));
    assert!(published.positions().is_empty());
    assert_eq!(committer.status().get(Count::Commits), 1);
}

fn text(value: &str) -> aws_sdk_dynamodb::types::AttributeValue {
    aws_sdk_dynamodb::types::AttributeValue::S(value.to_owned())
}
