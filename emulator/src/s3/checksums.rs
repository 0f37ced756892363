//! The checksums of S3: which one a client sent, and whether it fits.
//!
//! One pass over the bytes yields the MD5 (the ETag) and whatever else is asked for.

use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::Checksum;
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// An algorithm of S3's additional checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    /// All of them, in the order in which S3 lists them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// The name as `x-amz-checksum-algorithm` and XML carry it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header that carries a value.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The algorithm of that name.
    pub(crate) fn named(name: &str) -> S3Result<Self> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported: {name}")
        })
    }

    /// True if the checksum of a whole can be had from the checksums of its parts.
    pub(crate) fn is_full_object_by_default(self) -> bool {
        self == Self::Crc64Nvme
    }
}

/// A checksum with its algorithm, as base64 text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Value {
    pub(crate) algorithm: Algorithm,
    pub(crate) text: String,
    /// True for a checksum of the parts' checksums, with the number of parts at its end.
    #[serde(default)]
    pub(crate) composite: bool,
}

impl Value {
    pub(crate) fn new(algorithm: Algorithm, text: String) -> Self {
        Self { algorithm, text, composite: false }
    }
}

/// The five checksum members that many shapes of the API have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members {
    pub(crate) crc32: Option<String>,
    pub(crate) crc32c: Option<String>,
    pub(crate) crc64nvme: Option<String>,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
}

/// Takes the checksum members out of an input, a part or any other shape that has them.
macro_rules! members_of {
    ($shape:expr) => {
        $crate::s3::checksums::Members {
            crc32: $shape.checksum_crc32.clone(),
            crc32c: $shape.checksum_crc32c.clone(),
            crc64nvme: $shape.checksum_crc64nvme.clone(),
            sha1: $shape.checksum_sha1.clone(),
            sha256: $shape.checksum_sha256.clone(),
        }
    };
}

/// Puts a checksum into the member of a shape that its algorithm names.
macro_rules! set_member {
    ($shape:expr, $value:expr) => {
        if let Some(value) = $value {
            use $crate::s3::checksums::Algorithm;
            let text = Some(value.text.clone());
            match value.algorithm {
                Algorithm::Crc32 => $shape.checksum_crc32 = text,
                Algorithm::Crc32c => $shape.checksum_crc32c = text,
                Algorithm::Crc64Nvme => $shape.checksum_crc64nvme = text,
                Algorithm::Sha1 => $shape.checksum_sha1 = text,
                Algorithm::Sha256 => $shape.checksum_sha256 = text,
            }
        }
    };
}

pub(crate) use {members_of, set_member};

impl Members {
    /// The one checksum that is given, if any; more than one is refused, as S3 does.
    pub(crate) fn only(self) -> S3Result<Option<Value>> {
        let all = [
            (Algorithm::Crc32, self.crc32),
            (Algorithm::Crc32c, self.crc32c),
            (Algorithm::Crc64Nvme, self.crc64nvme),
            (Algorithm::Sha1, self.sha1),
            (Algorithm::Sha256, self.sha256),
        ];
        let mut given = all.into_iter().filter_map(|(algorithm, text)| Some((algorithm, text?)));
        let first = given.next().map(|(algorithm, text)| Value::new(algorithm, text));
        if given.next().is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
            ));
        }
        Ok(first)
    }
}

/// Computes the MD5 and one more checksum over bytes that come piece by piece.
pub(crate) struct Hasher {
    md5: Md5,
    other: ChecksumHasher,
    algorithm: Algorithm,
}

/// What a [`Hasher`] found.
#[derive(Debug, Clone)]
pub(crate) struct Digests {
    pub(crate) md5: [u8; 16],
    pub(crate) checksum: Value,
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let mut other = ChecksumHasher::default();
        match algorithm {
            Algorithm::Crc32 => other.crc32 = Some(Crc32::new()),
            Algorithm::Crc32c => other.crc32c = Some(Crc32c::new()),
            Algorithm::Crc64Nvme => other.crc64nvme = Some(Crc64Nvme::new()),
            Algorithm::Sha1 => other.sha1 = Some(Sha1::new()),
            Algorithm::Sha256 => other.sha256 = Some(Sha256::new()),
        }
        Self { md5: Md5::new(), other, algorithm }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.other.update(bytes);
    }

    pub(crate) fn finish(self) -> Digests {
        let checksum: Checksum = self.other.finalize();
        let text = match self.algorithm {
            Algorithm::Crc32 => checksum.checksum_crc32,
            Algorithm::Crc32c => checksum.checksum_crc32c,
            Algorithm::Crc64Nvme => checksum.checksum_crc64nvme,
            Algorithm::Sha1 => checksum.checksum_sha1,
            Algorithm::Sha256 => checksum.checksum_sha256,
        };
        let text = text.expect("the hasher was made with this algorithm");
        Digests { md5: self.md5.finalize(), checksum: Value::new(self.algorithm, text) }
    }
}

/// The checksum over the raw checksums of parts, as S3 forms it for COMPOSITE.
pub(crate) fn composite(algorithm: Algorithm, parts: &[Value]) -> S3Result<Value> {
    let mut hasher = Hasher::new(algorithm);
    for part in parts {
        let raw = base64_simd::STANDARD.decode_to_vec(&part.text);
        hasher.update(&raw.map_err(|_| s3_error!(InvalidPart, "A part has no valid checksum."))?);
    }
    let text = format!("{}-{}", hasher.finish().checksum.text, parts.len());
    Ok(Value { algorithm, text, composite: true })
}

/// Lower-case hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The ETag of an object that was completed from parts with these MD5s.
pub(crate) fn multipart_etag(parts: &[String]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        let raw = (0..part.len() / 2)
            .filter_map(|n| u8::from_str_radix(part.get(2 * n..2 * n + 2)?, 16).ok());
        md5.update(&raw.collect::<Vec<_>>());
    }
    format!("{}-{}", hex(&md5.finalize()), parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let sum = |algorithm| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"1234");
            hasher.update(b"56789");
            hasher.finish()
        };
        assert_eq!(sum(Algorithm::Crc32).checksum.text, "y/Q5Jg==");
        assert_eq!(sum(Algorithm::Crc32c).checksum.text, "4waSgw==");
        assert_eq!(sum(Algorithm::Crc64Nvme).checksum.text, "rosUhgp5mIg=");
        assert_eq!(hex(&sum(Algorithm::Crc32).md5), "25f9e794323b453885f5181f1b624d0b");
    }

    #[test]
    fn the_etag_of_an_upload_is_the_md5_of_its_parts_md5s() {
        let part = "25f9e794323b453885f5181f1b624d0b".to_owned();
        let raw: Vec<u8> = (0..16)
            .map(|n| u8::from_str_radix(&part[2 * n..2 * n + 2], 16).expect("hex"))
            .collect();
        let expected = hex(&Md5::checksum(&raw));
        assert_eq!(multipart_etag(&[part]), format!("{expected}-1"));
    }

    #[test]
    fn two_checksums_are_refused() {
        let two = Members { crc32: Some("a".into()), sha1: Some("b".into()), ..Members::default() };
        assert!(two.only().is_err());
        assert_eq!(Members::default().only().expect("none"), None);
    }
}
