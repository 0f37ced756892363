//! The operations on multipart uploads.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use uuid::Uuid;

use super::checksums::{Algorithm, Value, composite, hex, members_of, multipart_etag, set_member};
use super::content::{Expected, digest, receive};
use super::listings::Encoding;
use super::objects::{attributes_of, checksum_type, condition};
use super::pieces::Piece;
use super::store::{ObjectRecord, State};
use super::uploads::{
    Completed, MAX_PART_NUMBER, Named, Part as StoredPart, PartRecord, UploadRecord, choose,
    no_such_upload,
};
use super::{Backend, timestamp};

/// Parts or uploads in a page.
const MAX_PAGE: i32 = 1000;

impl Backend {
    pub(super) fn create_upload(
        &self,
        input: CreateMultipartUploadInput,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let named = input.checksum_algorithm.as_ref().map(|a| Algorithm::named(a.as_str()));
        let algorithm = named.transpose()?;
        let whole = match input.checksum_type.as_ref().map(ChecksumType::as_str) {
            Some(kind) => kind == ChecksumType::FULL_OBJECT,
            None => algorithm.is_none_or(Algorithm::is_full_object_by_default),
        };
        let sha = matches!(algorithm, Some(Algorithm::Sha1 | Algorithm::Sha256));
        if whole && sha {
            return Err(s3_error!(
                InvalidRequest,
                "The FULL_OBJECT checksum type cannot be used with the sha1 or sha256 algorithm."
            ));
        }
        let record = UploadRecord {
            upload_id: Uuid::new_v4().simple().to_string(),
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            initiated_ms: self.clock.now_ms(),
            attributes: attributes_of!(input),
            algorithm,
            composite: !whole,
        };
        let kind = if whole { ChecksumType::FULL_OBJECT } else { ChecksumType::COMPOSITE };
        let output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(record.upload_id.clone()),
            checksum_type: algorithm.map(|_| ChecksumType::from_static(kind)),
            checksum_algorithm: input.checksum_algorithm,
            ..Default::default()
        };
        self.store.create_upload(record)?;
        Ok(output)
    }

    pub(super) async fn put_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let trailers = request.trailing_headers.take();
        let input = request.input;
        if !(1..=MAX_PART_NUMBER).contains(&input.part_number) {
            return Err(s3_error!(
                InvalidArgument,
                "Part number must be an integer between 1 and 10000, inclusive"
            ));
        }
        let of_upload = {
            let state = self.store.lock();
            state.upload(&input.bucket, &input.key, &input.upload_id)?.record.algorithm
        };
        let sent = members_of!(input).only()?;
        let named = input.checksum_algorithm.as_ref().map(|a| Algorithm::named(a.as_str()));
        let announced = sent.as_ref().map(|c| c.algorithm).or(named.transpose()?);
        if let (Some(expected), Some(actual)) = (of_upload, announced)
            && expected != actual
        {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum \
                 Type: {}",
                expected.name().to_lowercase(),
                actual.name().to_lowercase()
            ));
        }
        let expected = Expected {
            length: input.content_length,
            md5: input.content_md5.clone(),
            checksum: sent,
            algorithm: announced.or(of_upload),
            trailers,
        };
        let (piece, digests) = receive(self.store.new_piece(), input.body, &expected).await?;
        let record = PartRecord {
            number: input.part_number,
            etag: hex(&digests.md5),
            checksum: digests.checksum.clone(),
            modified_ms: self.clock.now_ms(),
            piece: (piece.name(), piece.size()),
        };
        let e_tag = Some(ETag::Strong(record.etag.clone()));
        let part = StoredPart { record, piece };
        self.store.put_part(&input.bucket, &input.key, &input.upload_id, part)?;
        let mut output = UploadPartOutput { e_tag, ..Default::default() };
        set_member!(output, Some(&digests.checksum));
        Ok(S3Response::new(output))
    }

    pub(super) async fn complete_upload(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let condition = condition(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let (upload, parts) = {
            let state = self.store.lock();
            if let Some(done) = completed_before(&state, &input)? {
                return Ok(completed_output(done));
            }
            let upload = state.upload(&input.bucket, &input.key, &input.upload_id)?;
            let chosen = choose(upload, &named_parts(&input)?)?;
            (upload.record.clone(), chosen.into_iter().cloned().collect::<Vec<_>>())
        };
        let pieces: Vec<Piece> = parts.iter().map(|p| p.piece.clone()).collect();
        let checksum = whole_checksum(&upload, &parts, &pieces).await?;
        require_same_checksum(&input, checksum.as_ref())?;
        let etags: Vec<_> = parts.iter().map(|p| p.record.etag.clone()).collect();
        let record = ObjectRecord {
            bucket: upload.bucket,
            key: upload.key,
            version: 0,
            modified_ms: self.clock.now_ms(),
            etag: multipart_etag(&etags),
            checksum: checksum.clone(),
            attributes: upload.attributes,
            pieces: Vec::new(),
            upload_id: Some(upload.upload_id.clone()),
        };
        let done = Completed {
            upload_id: upload.upload_id,
            bucket: record.bucket.clone(),
            key: record.key.clone(),
            etag: record.etag.clone(),
            checksum,
            at_ms: record.modified_ms,
        };
        let mut state = self.store.lock();
        // Another call may have completed or aborted it meanwhile.
        if let Some(done) = completed_before(&state, &input)? {
            return Ok(completed_output(done));
        }
        state.upload(&input.bucket, &input.key, &input.upload_id)?;
        self.store.put_object(&mut state, record, pieces.clone(), &condition)?;
        let output = completed_output(&done);
        self.store.remember(&mut state, done)?;
        self.store.forget_upload(&mut state, &input.upload_id, &pieces)?;
        Ok(output)
    }

    pub(super) fn abort_upload(&self, input: &AbortMultipartUploadInput) -> S3Result<()> {
        let mut state = self.store.lock();
        state.upload(&input.bucket, &input.key, &input.upload_id)?;
        self.store.forget_upload(&mut state, &input.upload_id, &[])
    }

    pub(super) fn list_upload_parts(&self, input: ListPartsInput) -> S3Result<ListPartsOutput> {
        let state = self.store.lock();
        let upload = state.upload(&input.bucket, &input.key, &input.upload_id)?;
        let after = input.part_number_marker.unwrap_or(0);
        let max = input.max_parts.unwrap_or(MAX_PAGE).clamp(0, MAX_PAGE);
        let mut left = upload.parts.values().filter(|p| p.record.number > after);
        let page: Vec<&StoredPart> = left.by_ref().take(max as usize).collect();
        let shape = |part: &&StoredPart| {
            let mut shape = Part {
                part_number: Some(part.record.number),
                e_tag: Some(ETag::Strong(part.record.etag.clone())),
                last_modified: Some(timestamp(part.record.modified_ms)),
                size: Some(part.piece.size() as i64),
                ..Default::default()
            };
            set_member!(shape, Some(&part.record.checksum));
            shape
        };
        Ok(ListPartsOutput {
            parts: Some(page.iter().map(shape).collect()),
            is_truncated: Some(left.next().is_some()),
            next_part_number_marker: page.last().map(|p| p.record.number),
            part_number_marker: Some(after),
            max_parts: Some(max),
            bucket: Some(input.bucket.clone()),
            key: Some(input.key.clone()),
            upload_id: Some(input.upload_id.clone()),
            checksum_algorithm: upload
                .record
                .algorithm
                .map(|a| ChecksumAlgorithm::from_static(a.name())),
            ..Default::default()
        })
    }

    pub(super) fn list_uploads(
        &self,
        input: ListMultipartUploadsInput,
    ) -> S3Result<ListMultipartUploadsOutput> {
        let state = self.store.lock();
        state.bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = (input.key_marker.clone().unwrap_or_default(), input.upload_id_marker.clone());
        // With a key marker alone, all uploads of that key count as shown.
        let is_left = |record: &UploadRecord| match (&after.1, record.key.cmp(&after.0)) {
            (_, std::cmp::Ordering::Greater) => true,
            (Some(id), std::cmp::Ordering::Equal) => record.upload_id > *id,
            _ => after.0.is_empty(),
        };
        let mut left: Vec<&UploadRecord> = state
            .uploads
            .values()
            .map(|u| &u.record)
            .filter(|r| r.bucket == input.bucket && r.key.starts_with(&prefix) && is_left(r))
            .collect();
        left.sort_by(|a, b| (&a.key, &a.upload_id).cmp(&(&b.key, &b.upload_id)));
        let max = input.max_uploads.unwrap_or(MAX_PAGE).clamp(0, MAX_PAGE);
        let is_truncated = left.len() > max as usize;
        left.truncate(max as usize);
        let text = Encoding::of(input.encoding_type.as_ref());
        let shape = |record: &&UploadRecord| MultipartUpload {
            key: Some(text.write(&record.key)),
            upload_id: Some(record.upload_id.clone()),
            initiated: Some(timestamp(record.initiated_ms)),
            ..Default::default()
        };
        let last = left.last().filter(|_| is_truncated);
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: input.prefix.as_deref().map(|p| text.write(p)),
            is_truncated: Some(is_truncated),
            next_key_marker: last.map(|r| text.write(&r.key)),
            next_upload_id_marker: last.map(|r| r.upload_id.clone()),
            max_uploads: Some(max),
            uploads: Some(left.iter().map(shape).collect()),
            encoding_type: input.encoding_type.clone(),
            ..Default::default()
        })
    }
}

fn named_parts(input: &CompleteMultipartUploadInput) -> S3Result<Vec<Named>> {
    let parts = input.multipart_upload.as_ref().and_then(|m| m.parts.as_deref());
    let named = |part: &CompletedPart| {
        let malformed = || s3_error!(MalformedXML, "A part needs a PartNumber and an ETag");
        Ok(Named {
            number: part.part_number.ok_or_else(malformed)?,
            etag: part.e_tag.as_ref().ok_or_else(malformed)?.value().to_owned(),
            checksum: members_of!(part).only()?,
        })
    };
    parts.unwrap_or_default().iter().map(named).collect()
}

/// The answer that the upload got when it was completed before.
fn completed_before<'s>(
    state: &'s State,
    input: &CompleteMultipartUploadInput,
) -> S3Result<Option<&'s Completed>> {
    match state.completed.get(&input.upload_id) {
        None => Ok(None),
        Some(done) if done.bucket == input.bucket && done.key == input.key => Ok(Some(done)),
        Some(_) => Err(no_such_upload()),
    }
}

fn completed_output(done: &Completed) -> CompleteMultipartUploadOutput {
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(done.bucket.clone()),
        key: Some(done.key.clone()),
        e_tag: Some(ETag::Strong(done.etag.clone())),
        location: Some(format!("/{}/{}", done.bucket, done.key)),
        ..Default::default()
    };
    set_member!(output, &done.checksum);
    output.checksum_type = done.checksum.as_ref().map(checksum_type);
    output
}

async fn whole_checksum(
    upload: &UploadRecord,
    parts: &[StoredPart],
    pieces: &[Piece],
) -> S3Result<Option<Value>> {
    let Some(algorithm) = upload.algorithm else {
        return Ok(None);
    };
    if upload.composite {
        let of_parts: Vec<_> = parts.iter().map(|p| p.record.checksum.clone()).collect();
        return composite(algorithm, &of_parts).map(Some);
    }
    Ok(Some(digest(pieces.to_vec(), algorithm).await?.checksum))
}

fn require_same_checksum(
    input: &CompleteMultipartUploadInput,
    checksum: Option<&Value>,
) -> S3Result<()> {
    let Some(sent) = members_of!(input).only()? else {
        return Ok(());
    };
    let same = checksum.is_some_and(|c| {
        let without_count = c.text.split_once('-').map_or(c.text.as_str(), |(text, _)| text);
        c.algorithm == sent.algorithm && (c.text == sent.text || without_count == sent.text)
    });
    if same {
        return Ok(());
    }
    Err(s3_error!(
        BadDigest,
        "The {} you specified did not match the calculated checksum.",
        sent.algorithm.name()
    ))
}
