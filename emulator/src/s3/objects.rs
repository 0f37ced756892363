//! The operations on buckets and objects.

use std::collections::HashMap;

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::checksums::{Algorithm, Value, hex, members_of, set_member};
use super::content::{Expected, receive, send};
use super::store::{
    Attributes, Bucket as StoredBucket, Condition, Object as StoredObject, ObjectRecord,
};
use super::{Backend, timestamp};

/// Takes the descriptive members out of a put or a new upload.
macro_rules! attributes_of {
    ($input:expr) => {
        $crate::s3::store::Attributes {
            metadata: $input.metadata.clone().unwrap_or_default().into_iter().collect(),
            content_type: $input.content_type.clone(),
            content_encoding: $input.content_encoding.clone().filter(|e| e != "aws-chunked"),
            content_disposition: $input.content_disposition.clone(),
            content_language: $input.content_language.clone(),
            cache_control: $input.cache_control.clone(),
        }
    };
}
pub(crate) use attributes_of;

/// Puts the descriptive members into an answer to Get or Head.
macro_rules! describe {
    ($output:expr, $object:expr, $with_checksum:expr) => {
        let attributes = &$object.record.attributes;
        $output.accept_ranges = Some("bytes".to_owned());
        $output.e_tag = Some(ETag::Strong($object.record.etag.clone()));
        $output.last_modified = Some(timestamp($object.record.modified_ms));
        $output.metadata = metadata_of(attributes);
        $output.content_type =
            attributes.content_type.clone().or_else(|| Some("binary/octet-stream".to_owned()));
        $output.content_encoding = attributes.content_encoding.clone();
        $output.content_disposition = attributes.content_disposition.clone();
        $output.content_language = attributes.content_language.clone();
        $output.cache_control = attributes.cache_control.clone();
        if $with_checksum {
            set_member!($output, &$object.record.checksum);
            $output.checksum_type = $object.record.checksum.as_ref().map(checksum_type);
        }
    };
}

/// The type of a checksum as the API names it.
pub(crate) fn checksum_type(value: &Value) -> ChecksumType {
    ChecksumType::from_static(if value.composite {
        ChecksumType::COMPOSITE
    } else {
        ChecksumType::FULL_OBJECT
    })
}

/// The condition that `If-None-Match` and `If-Match` of a write ask for.
pub(crate) fn condition(
    if_none_match: Option<&ETagCondition>,
    if_match: Option<&ETagCondition>,
) -> S3Result<Condition> {
    match (if_none_match, if_match) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::Absent),
        (None, Some(ETagCondition::ETag(etag))) => Ok(Condition::HasETag(etag.value().to_owned())),
        _ => Err(s3_error!(
            NotImplemented,
            "A write takes If-None-Match: * or If-Match with an ETag, not both"
        )),
    }
}

impl Backend {
    pub(super) fn create_bucket(&self, input: CreateBucketInput) -> S3Result<CreateBucketOutput> {
        let configured = input.create_bucket_configuration.and_then(|c| c.location_constraint);
        let region = configured.map_or_else(|| self.region.to_string(), |r| r.as_str().to_owned());
        let name = input.bucket;
        let created_ms = self.clock.now_ms();
        let bucket =
            StoredBucket { name: name.clone(), created_ms, region, objects: Default::default() };
        self.store.create_bucket(bucket)?;
        Ok(CreateBucketOutput { location: Some(format!("/{name}")) })
    }

    pub(super) fn head_bucket(&self, input: &HeadBucketInput) -> S3Result<HeadBucketOutput> {
        let state = self.store.lock();
        let bucket_region = Some(state.bucket(&input.bucket)?.region.clone());
        Ok(HeadBucketOutput { bucket_region, ..Default::default() })
    }

    pub(super) fn list_buckets(&self) -> ListBucketsOutput {
        let state = self.store.lock();
        let shape = |b: &StoredBucket| Bucket {
            bucket_region: Some(b.region.clone()),
            creation_date: Some(timestamp(b.created_ms)),
            name: Some(b.name.clone()),
        };
        let owner = Owner { display_name: Some("millrace".into()), id: Some("millrace".into()) };
        ListBucketsOutput {
            buckets: Some(state.buckets.values().map(shape).collect()),
            owner: Some(owner),
            ..Default::default()
        }
    }

    pub(super) fn bucket_location(&self, bucket: &str) -> S3Result<GetBucketLocationOutput> {
        let state = self.store.lock();
        let region = &state.bucket(bucket)?.region;
        // AWS answers with nothing for its oldest region.
        let named = (region != "us-east-1").then(|| BucketLocationConstraint::from(region.clone()));
        Ok(GetBucketLocationOutput { location_constraint: named })
    }

    pub(super) async fn put(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let trailers = request.trailing_headers.take();
        let input = request.input;
        self.store.lock().bucket(&input.bucket)?;
        let named = input.checksum_algorithm.as_ref().map(|a| Algorithm::named(a.as_str()));
        let expected = Expected {
            length: input.content_length,
            md5: input.content_md5.clone(),
            checksum: members_of!(input).only()?,
            algorithm: named.transpose()?,
            trailers,
        };
        let condition = condition(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let attributes = attributes_of!(input);
        let (piece, digests) = receive(self.store.new_piece(), input.body, &expected).await?;
        let record = ObjectRecord {
            bucket: input.bucket,
            key: input.key,
            version: 0,
            modified_ms: self.clock.now_ms(),
            etag: hex(&digests.md5),
            checksum: Some(digests.checksum.clone()),
            attributes,
            pieces: Vec::new(),
            upload_id: None,
        };
        let etag = record.etag.clone();
        let mut state = self.store.lock();
        self.store
            .put_object(&mut state, record, vec![piece.clone()], &condition)
            .inspect_err(|_| piece.doom())?;
        let mut output = PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() };
        set_member!(output, Some(&digests.checksum));
        output.checksum_type = Some(checksum_type(&digests.checksum));
        Ok(S3Response::new(output))
    }

    pub(super) fn get(&self, input: &GetObjectInput) -> S3Result<S3Response<GetObjectOutput>> {
        let object = self.store.lock().object(&input.bucket, &input.key)?.clone();
        require_conditions(&object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let size = object.size();
        let range = match (&input.range, input.part_number) {
            (Some(range), _) => Some(range.check(size).map_err(|_| {
                s3_error!(InvalidRange, "The requested range is not satisfiable: size {size}")
            })?),
            (None, Some(number)) => Some(part_range(&object, number)?),
            (None, None) => None,
        };
        let mut output = GetObjectOutput::default();
        let wanted = input.checksum_mode.as_ref().is_some_and(|m| m.as_str() == "ENABLED");
        describe!(output, object, wanted && range.is_none());
        let span = range.clone().unwrap_or(0..size);
        output.content_length = Some((span.end - span.start) as i64);
        if let Some(range) = &range {
            let last = range.end.saturating_sub(1);
            output.content_range = Some(format!("bytes {}-{last}/{size}", range.start));
        }
        if input.part_number.is_some() {
            output.parts_count = i32::try_from(object.pieces.len()).ok();
        }
        output.body = Some(send(object.pieces.clone(), span));
        let mut response = S3Response::new(output);
        if range.is_some() {
            response.status = Some(http::StatusCode::PARTIAL_CONTENT);
        }
        Ok(response)
    }

    pub(super) fn head(&self, input: &HeadObjectInput) -> S3Result<HeadObjectOutput> {
        let state = self.store.lock();
        let object = state.object(&input.bucket, &input.key)?;
        require_conditions(object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let mut output = HeadObjectOutput::default();
        let wanted = input.checksum_mode.as_ref().is_some_and(|m| m.as_str() == "ENABLED");
        describe!(output, object, wanted);
        output.content_length = Some(object.size() as i64);
        Ok(output)
    }

    pub(super) async fn copy(&self, input: CopyObjectInput) -> S3Result<CopyObjectOutput> {
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented, "Copy from an access point is not supported"));
        };
        let source = self.store.lock().object(bucket, key)?.clone();
        let body = Some(send(source.pieces.clone(), 0..source.size()));
        let wanted = input.checksum_algorithm.as_ref().map(|a| Algorithm::named(a.as_str()));
        let kept = source.record.checksum.as_ref().map(|c| c.algorithm);
        let algorithm = wanted.transpose()?.or(kept);
        let expected = Expected { algorithm, ..Default::default() };
        let (piece, digests) = receive(self.store.new_piece(), body, &expected).await?;
        let replaces = input.metadata_directive.as_ref().is_some_and(|d| d.as_str() == "REPLACE");
        let attributes =
            if replaces { attributes_of!(input) } else { source.record.attributes.clone() };
        let record = ObjectRecord {
            bucket: input.bucket,
            key: input.key,
            version: 0,
            modified_ms: self.clock.now_ms(),
            etag: hex(&digests.md5),
            checksum: Some(digests.checksum.clone()),
            attributes,
            pieces: Vec::new(),
            upload_id: None,
        };
        let mut result = CopyObjectResult {
            e_tag: Some(ETag::Strong(record.etag.clone())),
            last_modified: Some(timestamp(record.modified_ms)),
            ..Default::default()
        };
        set_member!(result, Some(&digests.checksum));
        let mut state = self.store.lock();
        self.store
            .put_object(&mut state, record, vec![piece.clone()], &Condition::Always)
            .inspect_err(|_| piece.doom())?;
        Ok(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    pub(super) fn delete_many(&self, input: DeleteObjectsInput) -> S3Result<DeleteObjectsOutput> {
        self.store.lock().bucket(&input.bucket)?;
        let quiet = input.delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            match self.store.delete_object(&input.bucket, &object.key) {
                Ok(()) if quiet => {}
                Ok(()) => {
                    deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
                }
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: None,
                }),
            }
        }
        let errors = (!errors.is_empty()).then_some(errors);
        Ok(DeleteObjectsOutput { deleted: Some(deleted), errors, request_charged: None })
    }
}

fn metadata_of(attributes: &Attributes) -> Option<HashMap<String, String>> {
    let pairs = attributes.metadata.iter().map(|(k, v)| (k.clone(), v.clone()));
    (!attributes.metadata.is_empty()).then(|| pairs.collect())
}

fn require_conditions(
    object: &StoredObject,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let fits = |c: &ETagCondition| match c {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.record.etag,
    };
    if if_match.is_some_and(|c| !fits(c)) {
        return Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold"
        ));
    }
    if if_none_match.is_some_and(fits) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

fn part_range(object: &StoredObject, number: i32) -> S3Result<std::ops::Range<u64>> {
    let n = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
    let Some(piece) = n.and_then(|n| object.pieces.get(n)) else {
        return Err(s3_error!(InvalidRange, "The requested partnumber is not satisfiable"));
    };
    let start = object.pieces[..n.unwrap_or(0)].iter().map(|p| p.size()).sum();
    Ok(start..start + piece.size())
}
