//! The places in S3: the region of each bucket, and the right to upload below each prefix.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ServerSideEncryption;
use millrace_common::application::S3Location;
use millrace_common::aws::rights::{self, Role};
use millrace_common::aws::{Kind, error_code, kind, region_of};
use uuid::Uuid;

use super::{Finding, Trial, Verdict, send};

const PUT: &str = "s3:PutObject";
const ABORT: &str = "s3:AbortMultipartUpload";
const PARTS: &str = "s3:ListMultipartUploadParts";

impl Trial<'_> {
    /// Tries an upload below every path of the sink.
    pub(super) async fn places(&mut self) {
        for place in std::iter::once(&self.spec.sink.path).chain(&self.spec.sink.dead_letter_path) {
            let Some(region) = self.bucket(place).await else { continue };
            let client = self.clients.s3_in(&region);
            self.upload(&client, place).await;
        }
    }

    /// The region of a bucket that is there; who may not look at it is not told, and told nothing.
    async fn bucket(&mut self, place: &S3Location) -> Option<String> {
        let here = self.clients.region().to_owned();
        let subject = format!("bucket {}", place.bucket);
        let s3 = self.clients.s3.clone();
        let error = match send(|| s3.head_bucket().bucket(&place.bucket).send()).await {
            Ok(answer) => {
                return Some(self.judge_region(&subject, answer.bucket_region, here));
            }
            Err(error) => error,
        };
        let found = region_of(&error).map(ToOwned::to_owned);
        match kind(&error) {
            // HeadBucket asks for s3:ListBucket, which an application need not have.
            Kind::Forbidden | Kind::Region if found.is_some() => {
                Some(self.judge_region(&subject, found, here))
            }
            Kind::Forbidden => Some(here),
            _ => {
                self.judge::<(), _>(&subject, "s3:ListBucket", Err(error));
                None
            }
        }
    }

    /// Uploads go to the bucket's own region, wherever the streams are.
    fn judge_region(&mut self, subject: &str, found: Option<String>, here: String) -> String {
        let Some(region) = found.filter(|region| !region.is_empty()) else { return here };
        let (verdict, detail) = if region == here {
            (Verdict::Ok, region.clone())
        } else {
            let paid = "traffic between the two is paid for";
            (Verdict::Warning, format!("{region}; the application runs in {here}, and {paid}"))
        };
        self.add(subject, "region", verdict, detail);
        region
    }

    /// Tries to list the parts of an upload: an application need not, and is surer if it may.
    async fn parts(&mut self, s3: &Client, subject: &str, (bucket, key, id): (&str, &str, &str)) {
        let list = || s3.list_parts().bucket(bucket).key(key).upload_id(id).send();
        let Err(error) = send(list).await else { return };
        if kind(&error) != Kind::Forbidden {
            return;
        }
        let right = rights::of(Role::Optional).find(|right| right.action == PARTS);
        let why = right.map_or("", |right| right.why);
        let detail = format!("denied; the application works without it, and with it can {why}");
        let mut finding = Finding::new(subject, PARTS, Verdict::Optional, detail);
        finding.add = right.map(|right| rights::statement_for(right, &self.arns).to_string());
        self.findings.push(finding);
    }

    /// Creates an upload and aborts it; where the bucket encrypts by a key of its own, a part shows
    /// the rights on the key.
    async fn upload(&mut self, s3: &Client, place: &S3Location) {
        let subject = place.to_string();
        let key = format!("{}millrace-preflight-{}", place.prefix, Uuid::new_v4());
        let (bucket, key) = (place.bucket.as_str(), key.as_str());
        let answer = send(|| s3.create_multipart_upload().bucket(bucket).key(key).send()).await;
        let Some(created) = self.judge(&subject, PUT, answer) else { return };
        let id = created.upload_id.unwrap_or_default();
        let by_key = |encryption: &ServerSideEncryption| {
            matches!(encryption, ServerSideEncryption::AwsKms | ServerSideEncryption::AwsKmsDsse)
        };
        if created.server_side_encryption.as_ref().is_some_and(by_key) {
            let part = send(|| {
                let call = s3.upload_part().bucket(bucket).key(key).upload_id(&id).part_number(1);
                call.body(ByteStream::from_static(b"preflight")).send()
            });
            if let Err(error) = part.await {
                self.judge::<(), _>(&format!("key of {subject}"), PUT, Err(error));
            }
        }
        self.parts(s3, &subject, (bucket, key, &id)).await;
        let abort = || s3.abort_multipart_upload().bucket(bucket).key(key).upload_id(&id).send();
        match send(abort).await {
            Ok(_) => {}
            Err(error) if error_code(&error) == Some("NoSuchUpload") => {}
            Err(error) => {
                let why = match kind(&error) {
                    Kind::Forbidden => "is not allowed, and no application needs it".to_owned(),
                    _ => format!("failed: {}", error_code(&error).unwrap_or("no answer")),
                };
                let detail = format!(
                    "upload {id} of s3://{bucket}/{key} stays open until the bucket's lifecycle \
                     rule ends it: {ABORT} {why}"
                );
                self.add(&subject, "left open", Verdict::Warning, detail);
            }
        }
    }
}
