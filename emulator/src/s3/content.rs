//! Bytes on their way between the network and pieces.
//!
//! A body is written to a piece as it comes and is checked against everything the client said of
//! it; a body that does not fit leaves no piece behind.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use s3s::dto::StreamingBlob;
use s3s::{S3Result, TrailingHeaders, s3_error};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::checksums::{Algorithm, Digests, Hasher, Value};
use super::internal;
use super::pieces::{Piece, PieceFile};

/// Bytes that are read from a piece at a time.
const READ_BYTES: usize = 256 << 10;

/// What a client said of a body before sending it.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) length: Option<i64>,
    pub(crate) md5: Option<String>,
    pub(crate) checksum: Option<Value>,
    /// The algorithm announced, when the value comes after the body.
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) trailers: Option<TrailingHeaders>,
}

impl Expected {
    /// The algorithm to compute: the client's, or the one that S3 adds by itself.
    fn algorithm(&self) -> Algorithm {
        let sent = self.checksum.as_ref().map(|c| c.algorithm);
        sent.or(self.algorithm).unwrap_or(Algorithm::Crc64Nvme)
    }

    fn verify(&self, length: u64, digests: &Digests) -> S3Result<()> {
        if self.length.is_some_and(|l| u64::try_from(l) != Ok(length)) {
            return Err(s3_error!(
                IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header"
            ));
        }
        if let Some(md5) = &self.md5 {
            let sent = base64_simd::STANDARD.decode_to_vec(md5).ok().filter(|m| m.len() == 16);
            let Some(sent) = sent else {
                return Err(s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."));
            };
            if sent != digests.md5 {
                return Err(s3_error!(
                    BadDigest,
                    "The Content-MD5 you specified did not match what we received."
                ));
            }
        }
        let of_trailer = self.trailer(digests.checksum.algorithm);
        for sent in self.checksum.iter().map(|c| c.text.clone()).chain(of_trailer) {
            if sent != digests.checksum.text {
                return Err(s3_error!(
                    BadDigest,
                    "The {} you specified did not match the calculated checksum.",
                    digests.checksum.algorithm.name()
                ));
            }
        }
        Ok(())
    }

    fn trailer(&self, algorithm: Algorithm) -> Option<String> {
        let read = |headers: &http::HeaderMap| {
            headers.get(algorithm.header()).and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        self.trailers.as_ref()?.read(read).flatten()
    }
}

/// Writes a body to a new piece at `path`.
///
/// # Errors
/// When the body does not fit what the client said of it, or the disk refuses.
pub(crate) async fn receive(
    path: PathBuf,
    body: Option<StreamingBlob>,
    expected: &Expected,
) -> S3Result<(Piece, Digests)> {
    let mut file = File::create_new(&path).await.map_err(|e| internal("cannot make a file", &e))?;
    // Dropping the piece removes the file, unless it is pardoned below.
    let doomed = PieceFile::new(path.clone(), 0);
    doomed.doom();
    let mut hasher = Hasher::new(expected.algorithm());
    let mut length = 0;
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| s3_error!(IncompleteBody, "The body broke off: {e}"))?;
            hasher.update(&chunk);
            length += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(|e| internal("cannot write an object", &e))?;
        }
    }
    file.flush().await.map_err(|e| internal("cannot write an object", &e))?;
    let digests = hasher.finish();
    expected.verify(length, &digests)?;
    doomed.pardon();
    Ok((PieceFile::new(path, length), digests))
}

/// The bytes `range` of some pieces put one after the other.
pub(crate) fn send(pieces: Vec<Piece>, range: Range<u64>) -> StreamingBlob {
    StreamingBlob::wrap(stream(pieces, range))
}

/// Computes digests of pieces put one after the other.
///
/// # Errors
/// When a file cannot be read.
pub(crate) async fn digest(pieces: Vec<Piece>, algorithm: Algorithm) -> S3Result<Digests> {
    let size = pieces.iter().map(|p| p.size()).sum();
    let mut hasher = Hasher::new(algorithm);
    let mut bytes = Box::pin(stream(pieces, 0..size));
    while let Some(chunk) = bytes.next().await {
        hasher.update(&chunk.map_err(|e| internal("cannot read an object", &e))?);
    }
    Ok(hasher.finish())
}

/// The part of `range` that lies in a piece that starts at `start`, relative to the piece.
fn within(piece: &Piece, start: u64, range: &Range<u64>) -> Range<u64> {
    let from = range.start.clamp(start, start + piece.size()) - start;
    let to = range.end.clamp(start, start + piece.size()) - start;
    from..to
}

struct Reading {
    spans: std::vec::IntoIter<(Piece, Range<u64>)>,
    open: Option<(File, Piece, u64)>,
}

fn stream(
    pieces: Vec<Piece>,
    range: Range<u64>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync {
    let mut start = 0;
    let mut spans = Vec::new();
    for piece in pieces {
        let span = within(&piece, start, &range);
        start += piece.size();
        if !span.is_empty() {
            spans.push((piece, span));
        }
    }
    let reading = Reading { spans: spans.into_iter(), open: None };
    futures::stream::try_unfold(reading, |mut reading| async move {
        if reading.open.is_none() {
            let Some((piece, span)) = reading.spans.next() else {
                return Ok(None);
            };
            let mut file = File::open(piece.path()).await?;
            file.seek(SeekFrom::Start(span.start)).await?;
            reading.open = Some((file, piece, span.end - span.start));
        }
        let (mut file, piece, left) = reading.open.take().expect("opened above");
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
        let mut chunk = vec![0; want];
        file.read_exact(&mut chunk).await?;
        let left = left - want as u64;
        if left > 0 {
            reading.open = Some((file, piece, left));
        }
        Ok(Some((Bytes::from(chunk), reading)))
    })
}
