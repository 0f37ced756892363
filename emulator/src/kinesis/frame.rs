//! How one record lies in memory and on disk: a frame with a length, a checksum and its content.
//!
//! `length u32 | crc32c u32 | index u64 | arrival_ms u64 | key_length u16 | key | data`, little
//! endian; length counts what follows the checksum, the checksum covers it. A frame that a crash
//! cut short, or whose checksum does not fit, is never taken for a record.

/// Bytes before the checked content: length and checksum.
const HEAD: usize = 8;
/// Bytes of the content before key and data.
const FIXED: usize = 18;
/// No frame is longer: 10 MiB of data, 256 characters of key and some room.
const MAX_CONTENT: usize = 11 << 20;

/// A view of one record in a buffer of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) index: u64,
    pub(crate) arrival_ms: u64,
    pub(crate) key: &'a str,
    pub(crate) data: &'a [u8],
}

impl Frame<'_> {
    /// The size that the limits of Kinesis count: key and data.
    pub(crate) fn counted_bytes(&self) -> u64 {
        (self.key.len() + self.data.len()) as u64
    }
}

/// Appends a record to `out`.
pub(crate) fn write_frame(out: &mut Vec<u8>, frame: &Frame<'_>) {
    let key_len = u16::try_from(frame.key.len()).expect("keys are at most 256 characters");
    let content_len = FIXED + frame.key.len() + frame.data.len();
    let content_len = u32::try_from(content_len).expect("records are at most 10 MiB");
    let start = out.len();
    out.reserve(HEAD + content_len as usize);
    out.extend_from_slice(&content_len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&frame.index.to_le_bytes());
    out.extend_from_slice(&frame.arrival_ms.to_le_bytes());
    out.extend_from_slice(&key_len.to_le_bytes());
    out.extend_from_slice(frame.key.as_bytes());
    out.extend_from_slice(frame.data);
    let crc = crc32c::crc32c(&out[start + HEAD..]);
    out[start + 4..start + HEAD].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the frame at `at` without looking at its checksum: for buffers that were checked before.
/// Returns the frame and the place after it, or nothing if no whole frame is there.
pub(crate) fn read_frame(buffer: &[u8], at: usize) -> Option<(Frame<'_>, usize)> {
    let content = content_at(buffer, at)?;
    let key_len = usize::from(u16::from_le_bytes(content[16..FIXED].try_into().ok()?));
    let key = content.get(FIXED..FIXED + key_len)?;
    let frame = Frame {
        index: u64::from_le_bytes(content[..8].try_into().ok()?),
        arrival_ms: u64::from_le_bytes(content[8..16].try_into().ok()?),
        key: std::str::from_utf8(key).ok()?,
        data: &content[FIXED + key_len..],
    };
    Some((frame, at + HEAD + content.len()))
}

/// Like [`read_frame`], for bytes that come from a disk.
pub(crate) fn read_checked_frame(buffer: &[u8], at: usize) -> Option<(Frame<'_>, usize)> {
    let content = content_at(buffer, at)?;
    let stored = u32::from_le_bytes(buffer[at + 4..at + HEAD].try_into().ok()?);
    if crc32c::crc32c(content) != stored {
        return None;
    }
    read_frame(buffer, at)
}

fn content_at(buffer: &[u8], at: usize) -> Option<&[u8]> {
    let head = buffer.get(at..at + HEAD)?;
    let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    if !(FIXED..=MAX_CONTENT).contains(&len) {
        return None;
    }
    buffer.get(at + HEAD..at + HEAD + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_round_trip_and_no_cut_or_flipped_frame_is_read(
            index in any::<u64>(),
            arrival_ms in any::<u64>(),
            key in ".{0,40}",
            data in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let frame = Frame { index, arrival_ms, key: &key, data: &data };
            let mut buffer = vec![7; 3];
            write_frame(&mut buffer, &frame);
            prop_assert_eq!(read_checked_frame(&buffer, 3), Some((frame, buffer.len())));
            prop_assert_eq!(read_frame(&buffer, 3), Some((frame, buffer.len())));
            let cut = 3 + cut.index(buffer.len() - 3);
            prop_assert_eq!(read_checked_frame(&buffer[..cut], 3), None);
            let flip = 3 + flip.index(buffer.len() - 3);
            buffer[flip] ^= 0x10;
            prop_assert_eq!(read_checked_frame(&buffer, 3), None);
        }
    }
}
