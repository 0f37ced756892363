//! Shard iterators and page tokens: opaque text that a client hands back to us.
//!
//! A token carries all that is needed to go on, so the emulator remembers nothing about readers and
//! iterators survive a restart. A token that was altered is refused by its checksum.

use super::error::{ErrorKind, KinesisError, KinesisResult};
use super::listing::ListShardsQuery;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a shard iterator lives.
pub(crate) const ITERATOR_LIFE_MS: u64 = 300_000;
/// How long a page token of ListShards lives.
pub(crate) const PAGE_TOKEN_LIFE_MS: u64 = 300_000;

/// The place of a reader in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardIterator {
    pub(crate) stream: String,
    /// Tells streams of the same name apart.
    pub(crate) stream_created_ms: u64,
    pub(crate) shard: u32,
    /// The index of the next record to read; what was trimmed below it is skipped.
    pub(crate) next_index: u64,
    pub(crate) issued_ms: u64,
    /// How often all iterators had been made to expire when this one was issued.
    pub(crate) expiries: u64,
    /// True when it gives nothing, for ever, as the real service's do at a trimmed record.
    #[serde(default)]
    pub(crate) is_stuck: bool,
}

impl ShardIterator {
    pub(crate) fn to_token(&self) -> String {
        seal(self)
    }

    /// Reads a token that a client brings at `now_ms`.
    pub(crate) fn from_token(token: &str, now_ms: u64, expiries: u64) -> KinesisResult<Self> {
        let iterator: Self = unseal(token)
            .ok_or_else(|| KinesisError::invalid_argument("Invalid ShardIterator."))?;
        let age_ms = now_ms.saturating_sub(iterator.issued_ms);
        if age_ms > ITERATOR_LIFE_MS || iterator.expiries != expiries {
            return Err(KinesisError::new(
                ErrorKind::ExpiredIterator,
                format!(
                    "Iterator expired. The iterator was created at time {} while right now it is \
                     {} which is further in the future than the tolerated delay of \
                     {ITERATOR_LIFE_MS} milliseconds.",
                    time_text(iterator.issued_ms),
                    time_text(now_ms)
                ),
            ));
        }
        Ok(iterator)
    }
}

/// Where a listing of shards goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PageToken {
    pub(crate) stream: String,
    pub(crate) stream_created_ms: u64,
    pub(crate) query: ListShardsQuery,
    pub(crate) issued_ms: u64,
}

impl PageToken {
    pub(crate) fn to_token(&self) -> String {
        seal(self)
    }

    /// Reads a token that a client brings at `now_ms`.
    pub(crate) fn from_token(token: &str, now_ms: u64) -> KinesisResult<Self> {
        let page: Self =
            unseal(token).ok_or_else(|| KinesisError::invalid_argument("Invalid NextToken."))?;
        if now_ms.saturating_sub(page.issued_ms) > PAGE_TOKEN_LIFE_MS {
            return Err(KinesisError::new(
                ErrorKind::ExpiredNextToken,
                "The pagination token has expired; list the shards again from the start.",
            ));
        }
        Ok(page)
    }
}

fn time_text(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string())
}

fn seal<T: Serialize>(value: &T) -> String {
    let body = serde_json::to_vec(value).expect("a token has only text and numbers");
    let mut sealed = crc32c::crc32c(&body).to_le_bytes().to_vec();
    sealed.extend_from_slice(&body);
    base64_simd::URL_SAFE_NO_PAD.encode_to_string(sealed)
}

fn unseal<T: DeserializeOwned>(token: &str) -> Option<T> {
    let sealed = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(token).ok()?;
    let (crc, body) = sealed.split_at_checked(4)?;
    if crc32c::crc32c(body).to_le_bytes() != *crc {
        return None;
    }
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iterator() -> ShardIterator {
        ShardIterator {
            stream: "logs".into(),
            stream_created_ms: 12,
            shard: 3,
            next_index: 44,
            issued_ms: 1000,
            expiries: 2,
            is_stuck: false,
        }
    }

    #[test]
    fn an_iterator_lives_five_minutes() {
        let token = iterator().to_token();
        let last = 1000 + ITERATOR_LIFE_MS;
        assert_eq!(ShardIterator::from_token(&token, last, 2), Ok(iterator()));
        let error = ShardIterator::from_token(&token, last + 1, 2).expect_err("too old");
        assert_eq!(error.kind, ErrorKind::ExpiredIterator);
        let error = ShardIterator::from_token(&token, last, 3).expect_err("made to expire");
        assert_eq!(error.kind, ErrorKind::ExpiredIterator);
    }

    #[test]
    fn an_altered_iterator_is_refused() {
        let token = iterator().to_token();
        let altered = format!("{}A", &token[..token.len() - 1]);
        let all = [altered.as_str(), "", "AAAA", "not base 64!"];
        for token in all.into_iter().filter(|t| *t != iterator().to_token()) {
            let error = ShardIterator::from_token(token, 1000, 2).expect_err("altered");
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
        }
    }
}
