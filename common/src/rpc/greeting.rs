//! The first bytes of a connection: whether they are of a protocol that the port speaks.
//!
//! Promises: the verdict depends on the bytes alone, not on how they were cut on the way. Never
//! does: read, write, or wait.

use std::fmt;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Head of an HTTP/2 frame: three bytes of length, kind, flags, and the stream.
const FRAME_HEAD: usize = 9;
/// Largest frame before other settings are agreed on.
const FRAME_BYTES_MAX: u32 = 16_384;
const KIND_SETTINGS: u8 = 4;
/// Length of one setting.
const SETTING_BYTES: u32 = 6;
/// Methods of HTTP/1, each with the blank behind it.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
];
/// First byte and major version of a TLS handshake.
const TLS: &[u8] = &[0x16, 0x03];
/// Bytes that are enough to decide.
const ENOUGH: usize = PREFACE.len() + FRAME_HEAD;
/// First bytes that a person is shown.
const SHOWN: usize = 16;

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/2, for gRPC.
    Grpc,
    /// HTTP/2 and HTTP/1.
    GrpcAndHttp,
}

/// Who opened a connection, as far as its bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// That can not be told yet.
    Open,
    /// Somebody who speaks the protocol.
    Known,
    /// Somebody who does not.
    Stranger(Why),
}

/// Why a connection is a stranger's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A TLS handshake.
    Tls,
    /// HTTP/1 on a port for gRPC alone.
    Http,
    /// HTTP/2 in a version that there is not.
    Version,
    /// HTTP/2 whose first frame is not its settings: kind and length.
    Frame(u8, u32),
    /// None of these.
    Bytes,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls => f.write_str("it begins with a TLS handshake, and TLS is not spoken here"),
            Self::Http => f.write_str("it is HTTP/1, and only gRPC is spoken here"),
            Self::Version => f.write_str("it is of a version of HTTP that is not spoken here"),
            Self::Frame(kind, length) => write!(
                f,
                "its first HTTP/2 frame is of kind {kind} with {length} bytes, and not its settings"
            ),
            Self::Bytes => f.write_str("it begins with bytes of no protocol that is spoken here"),
        }
    }
}

/// The first bytes of one connection, as they come.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    speaks: Speaks,
    bytes: [u8; ENOUGH],
    length: usize,
}

impl Greeting {
    /// Nothing was heard yet on a port that speaks this.
    pub(super) fn new(speaks: Speaks) -> Self {
        Self { speaks, bytes: [0; ENOUGH], length: 0 }
    }

    /// More bytes; what they say together with those before.
    pub(super) fn hear(&mut self, more: &[u8]) -> Verdict {
        let taken = more.len().min(ENOUGH - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&more[..taken]);
        self.length += taken;
        judge(self.speaks, self.heard())
    }

    /// The first bytes for people.
    pub(super) fn shown(&self) -> String {
        let heard = self.heard();
        heard[..heard.len().min(SHOWN)].escape_ascii().to_string()
    }

    fn heard(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Compares as far as both go.
fn begins_alike(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

fn judge(speaks: Speaks, heard: &[u8]) -> Verdict {
    if heard.is_empty() {
        return Verdict::Open;
    }
    if begins_alike(heard, PREFACE) {
        return heard.get(PREFACE.len()..).map_or(Verdict::Open, judge_frame);
    }
    if let Some(method) = METHODS.iter().find(|method| begins_alike(heard, method)) {
        return match speaks {
            _ if heard.len() < method.len() => Verdict::Open,
            Speaks::Grpc => Verdict::Stranger(Why::Http),
            Speaks::GrpcAndHttp => Verdict::Known,
        };
    }
    if begins_alike(heard, TLS) {
        let is_whole = heard.len() >= TLS.len();
        return if is_whole { Verdict::Stranger(Why::Tls) } else { Verdict::Open };
    }
    let is_http = heard.starts_with(b"PRI * HTTP/");
    Verdict::Stranger(if is_http { Why::Version } else { Why::Bytes })
}

/// The frame behind the preface must be the client's settings.
fn judge_frame(frame: &[u8]) -> Verdict {
    let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *frame else { return Verdict::Open };
    let length = u32::from_be_bytes([0, l0, l1, l2]);
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    let is_settings = kind == KIND_SETTINGS && flags == 0 && stream == 0;
    if is_settings && length <= FRAME_BYTES_MAX && length.is_multiple_of(SETTING_BYTES) {
        return Verdict::Known;
    }
    Verdict::Stranger(Why::Frame(kind, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(speaks: Speaks, bytes: &[u8]) -> Verdict {
        Greeting::new(speaks).hear(bytes)
    }

    fn preface_and(frame: &[u8]) -> Vec<u8> {
        [PREFACE, frame].concat()
    }

    #[test]
    fn the_protocols_that_are_spoken_are_known() {
        let settings = preface_and(&[0, 0, 12, 4, 0, 0, 0, 0, 0]);
        assert_eq!(of(Speaks::Grpc, &settings), Verdict::Known);
        assert_eq!(of(Speaks::GrpcAndHttp, &settings), Verdict::Known);
        let get = b"GET /healthz HTTP/1.1\r\n";
        assert_eq!(of(Speaks::GrpcAndHttp, get), Verdict::Known);
        assert_eq!(of(Speaks::Grpc, get), Verdict::Stranger(Why::Http));
    }

    #[test]
    fn strangers_are_told_apart() {
        let cases: [(&[u8], Why); 5] = [
            (&[0x16, 0x03, 0x01, 0x02], Why::Tls),
            (b"PRI * HTTP/3.0\r\n", Why::Version),
            (&[0x40, 0, 0, 0], Why::Bytes),
            (b"SSH-2.0-OpenSSH", Why::Bytes),
            (b"get / HTTP/1.1", Why::Bytes),
        ];
        for (bytes, why) in cases {
            for speaks in [Speaks::Grpc, Speaks::GrpcAndHttp] {
                assert_eq!(of(speaks, bytes), Verdict::Stranger(why), "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn the_first_frame_must_be_settings() {
        for (frame, kind, length) in [
            ([0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0], 4, 0xff_ffff),
            ([0, 0, 6, 0, 0, 0, 0, 0, 1], 0, 6),
            ([0, 0, 5, 4, 0, 0, 0, 0, 0], 4, 5),
            ([0, 0, 0, 4, 1, 0, 0, 0, 0], 4, 0),
            ([0, 0, 6, 4, 0, 0, 0, 0, 1], 4, 6),
        ] {
            let why = Why::Frame(kind, length);
            assert_eq!(of(Speaks::Grpc, &preface_and(&frame)), Verdict::Stranger(why));
        }
    }

    #[test]
    fn the_first_bytes_are_shown_as_text() {
        let mut greeting = Greeting::new(Speaks::Grpc);
        assert_eq!(greeting.hear(b"@\0\0\n and much more of it"), Verdict::Stranger(Why::Bytes));
        assert_eq!(greeting.shown(), r"@\x00\x00\n and much mo");
    }

    fn anything() -> impl Strategy<Value = Vec<u8>> {
        let garbage = proptest::collection::vec(any::<u8>(), 0..80);
        let methods = proptest::sample::select(METHODS.to_vec()).prop_map(<[u8]>::to_vec);
        let frames = proptest::collection::vec(0_u8..8, 9).prop_map(|frame| preface_and(&frame));
        let begins = prop_oneof![methods, frames, Just(PREFACE.to_vec()), Just(TLS.to_vec())];
        prop_oneof![
            garbage.clone(),
            (begins, 0_usize..40, garbage).prop_map(|(mut bytes, kept, rest)| {
                bytes.truncate(kept);
                [bytes, rest].concat()
            }),
        ]
    }

    proptest! {
        /// Byte by byte the verdict is the same, and once it has fallen it stays.
        #[test]
        fn it_does_not_matter_how_bytes_are_cut(bytes in anything(), http in any::<bool>()) {
            let speaks = if http { Speaks::GrpcAndHttp } else { Speaks::Grpc };
            let whole = of(speaks, &bytes);
            let mut greeting = Greeting::new(speaks);
            let mut fallen = Verdict::Open;
            for byte in &bytes {
                if fallen == Verdict::Open {
                    fallen = greeting.hear(&[*byte]);
                }
            }
            prop_assert_eq!(fallen, whole);
        }
    }
}
