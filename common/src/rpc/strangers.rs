//! Connections and calls that are not of the protocol: turned away, and told in one line each.
//!
//! Promises: a stranger costs its connection and one line, of which a flood writes few
//! ([`LINES_MAX`]); nothing that it claims about lengths is believed. Never does: look at a
//! connection after its greeting, or at a call that a service of ours has refused by itself.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::greeting::{Greeting, Speaks, Verdict};
use crate::error;

/// How long a count of lines lasts.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines within [`WINDOW`]: enough to see who it is, too few to fill a disk.
const LINES_MAX: u32 = 20;

/// How long a connection may take to greet: whoever opens one and says nothing holds a place in the
/// table of open files.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection; nobody in a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub(super) Option<SocketAddr>);

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("somebody"),
        }
    }
}

/// How many lines may still be written.
#[derive(Debug, Default)]
struct Allowance {
    since: Duration,
    num_lines: u32,
    num_held_back: u64,
}

impl Allowance {
    /// Asks for one line; with it comes how many were held back before it.
    fn take(&mut self, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.since) >= WINDOW {
            (self.since, self.num_lines) = (now, 0);
        }
        if self.num_lines >= LINES_MAX {
            self.num_held_back += 1;
            return None;
        }
        self.num_lines += 1;
        Some(std::mem::take(&mut self.num_held_back))
    }
}

/// The lines about strangers of one server.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    started: Instant,
    allowance: Arc<Mutex<Allowance>>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), allowance: Arc::default() }
    }

    fn take(&self) -> Option<u64> {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.take(self.started.elapsed())
    }
}

/// A connection whose first bytes are looked at.
#[derive(Debug)]
pub(super) struct Greeted<T> {
    io: T,
    peer: Peer,
    greeting: Option<Greeting>,
    /// Ends with the greeting.
    deadline: Option<Pin<Box<Sleep>>>,
    lines: Lines,
}

impl<T> Greeted<T> {
    pub(super) fn new(io: T, peer: Peer, speaks: Speaks, lines: Lines) -> Self {
        let deadline = Some(Box::pin(sleep(GREETING_DEADLINE)));
        Self { io, peer, greeting: Some(Greeting::new(speaks)), deadline, lines }
    }

    fn hear(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(greeting) = &mut self.greeting else { return Ok(()) };
        match greeting.hear(bytes) {
            Verdict::Open => Ok(()),
            Verdict::Known => {
                self.greeting = None;
                self.deadline = None;
                Ok(())
            }
            Verdict::Stranger(why) => {
                if let Some(held_back) = self.lines.take() {
                    let (peer, first) = (self.peer, greeting.shown());
                    let code = error::Code::Protocol.as_str();
                    tracing::warn!(
                        %peer, %first, held_back, "{code}: a connection is closed: {why}"
                    );
                }
                self.greeting = None;
                Err(io::Error::new(io::ErrorKind::InvalidData, why.to_string()))
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(cx, buffer) else {
            let Some(deadline) = &mut this.deadline else { return Poll::Pending };
            ready!(deadline.as_mut().poll(cx));
            tracing::debug!(peer = %this.peer, "a connection is closed: it did not greet");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        read?;
        Poll::Ready(this.hear(&buffer.filled()[before..]))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }
}

/// Tells of calls that never reached a service: a method that there is not, a message that is longer
/// than it may be or that can not be read.
#[derive(Clone, Debug)]
pub struct Unheard {
    lines: Lines,
}

impl Unheard {
    pub(super) fn new() -> Self {
        Self { lines: Lines::new() }
    }
}

impl<S> Layer<S> for Unheard {
    type Service = UnheardBy<S>;

    fn layer(&self, inner: S) -> UnheardBy<S> {
        UnheardBy { inner, lines: self.lines.clone() }
    }
}

/// A service behind [`Unheard`].
#[derive(Clone, Debug)]
pub struct UnheardBy<S> {
    inner: S,
    lines: Lines,
}

impl<S, B, R> Service<Request<B>> for UnheardBy<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer(None));
        let method = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        let lines = self.lines.clone();
        Box::pin(async move {
            let answer = answer.await?;
            if let Some(why) = unheard(&answer)
                && let Some(held_back) = lines.take()
            {
                let code = error::Code::Protocol.as_str();
                tracing::warn!(%peer, method, held_back, "{code}: a call is refused: {why}");
            }
            Ok(answer)
        })
    }
}

/// What is wrong with a call, when the protocol's own layer has refused it: our services put a
/// failure beside the status, and tell of it themselves.
fn unheard<R>(answer: &Response<R>) -> Option<String> {
    let status = Status::from_header_map(answer.headers())?;
    if status.metadata().contains_key(error::FAILURE_KEY) {
        return None;
    }
    match status.code() {
        Code::Unimplemented => {
            Some("there is no such method: the caller speaks another version".to_owned())
        }
        Code::OutOfRange | Code::Internal => Some(status.message().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_few_lines_and_says_how_many_it_would_have_been() {
        let mut allowance = Allowance::default();
        let at = Duration::from_secs;
        let told = (0..100).filter(|_| allowance.take(at(1)).is_some()).count();
        assert_eq!(told, LINES_MAX as usize);
        assert_eq!(allowance.take(at(9)), None);
        assert_eq!(allowance.take(at(11)), Some(81));
        assert_eq!(allowance.take(at(11)), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_greet_is_closed() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let greeted = |io| Greeted::new(io, Peer(None), Speaks::Grpc, Lines::new());
        let started = tokio::time::Instant::now();
        for said in [&b""[..], &PREFACE[..5], PREFACE] {
            let (mut near, far) = duplex(1_024);
            near.write_all(said).await.unwrap();
            let mut all = Vec::new();
            let error = greeted(far).read_to_end(&mut all).await.unwrap_err();
            assert_eq!((error.kind(), all.len()), (io::ErrorKind::TimedOut, said.len()));
        }
        assert!(started.elapsed() >= 3 * GREETING_DEADLINE);
        // Who has greeted may be silent for as long as the protocol allows.
        let (mut near, far) = duplex(1_024);
        near.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
        let (mut far, mut buffer) = (greeted(far), [0; 64]);
        let length = far.read(&mut buffer).await.unwrap();
        assert_eq!(length, PREFACE.len() + SETTINGS.len());
        let silent = tokio::time::timeout(10 * GREETING_DEADLINE, far.read(&mut buffer)).await;
        assert!(silent.is_err(), "{silent:?}");
    }

    #[test]
    fn refusals_of_our_own_are_not_told_again() {
        let answer = |status: Status| status.into_http::<()>();
        let long = Status::out_of_range("found 1073741824 bytes");
        assert_eq!(unheard(&answer(long)).unwrap(), "found 1073741824 bytes");
        assert!(unheard(&answer(Status::unimplemented(""))).unwrap().contains("another version"));
        assert_eq!(unheard(&answer(Status::unavailable("the driver ends"))), None);
        assert_eq!(unheard(&answer(error::Error::internal("a defect").to_status())), None);
        assert_eq!(unheard(&Response::new(())), None);
    }
}
