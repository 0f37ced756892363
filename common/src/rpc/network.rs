//! Where connections come from: TCP, or what a simulation puts in its place on its own thread.
//!
//! Promises: outside a simulation every connection is a TCP socket with TCP_NODELAY, and one that is
//! taken is closed when its first bytes are of no protocol of the port. Never does: retry, or keep a
//! connection.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TcpIncoming};

use super::greeting::Speaks;
use super::strangers::{Greeted, Lines, Peer};

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + 'static> Io for T {}

/// One connection.
pub struct Connection {
    io: Pin<Box<dyn Io>>,
    peer: Peer,
}

impl Connection {
    /// Over this transport.
    pub fn new(io: impl Io) -> Self {
        Self { io: Box::pin(io), peer: Peer(None) }
    }

    /// Of somebody whose first bytes are looked at.
    fn taken(socket: TcpStream, speaks: Speaks, lines: Lines) -> Self {
        let peer = Peer(socket.peer_addr().ok());
        Self { io: Box::pin(Greeted::new(socket, peer, speaks, lines)), peer }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, slices)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

/// The connections that a listener takes.
pub struct Incoming(Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>);

impl Incoming {
    /// From this stream of connections.
    pub fn new(connections: impl Stream<Item = io::Result<Connection>> + Send + 'static) -> Self {
        Self(Box::pin(connections))
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// A network in place of TCP.
pub trait Network: Send + Sync + 'static {
    /// Listens on `host:port`; port 0 takes any free one.
    fn bind(&self, address: String) -> BoxFuture<'static, io::Result<(Incoming, SocketAddr)>>;

    /// Connects to `host:port`.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Connection>>;
}

thread_local! {
    static SIMULATED: RefCell<Option<Arc<dyn Network>>> = const { RefCell::new(None) };
}

/// Puts a network in place of TCP for everything that this thread binds and connects from now on;
/// none gives TCP back. For simulations, which run a whole cluster on one thread.
pub fn simulate(network: Option<Arc<dyn Network>>) {
    SIMULATED.with(|simulated| *simulated.borrow_mut() = network);
}

pub(super) fn simulated() -> Option<Arc<dyn Network>> {
    SIMULATED.with(|simulated| simulated.borrow().clone())
}

pub(super) async fn bind(address: &str, speaks: Speaks) -> io::Result<(Incoming, SocketAddr)> {
    if let Some(network) = simulated() {
        return network.bind(address.to_owned()).await;
    }
    let listener = tokio::net::TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    // The sockets are taken as they are, so the option must be set here: without it an exchange
    // waits for delayed acknowledgements (40 to 180 ms).
    let sockets = TcpIncoming::from(listener).with_nodelay(Some(true));
    let lines = Lines::new();
    let taken = move |socket| Connection::taken(socket, speaks, lines.clone());
    Ok((Incoming::new(sockets.map(move |socket| socket.map(&taken))), local))
}
