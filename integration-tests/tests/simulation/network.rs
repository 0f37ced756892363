//! The simulated network under Millrace's gRPC, and the simulated time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_common::clock::Clock;
use millrace_common::rpc::{Connection, Incoming, Network};
use turmoil::net::{TcpListener, TcpStream};

/// Unix time at which every simulation begins, in milliseconds.
pub(crate) const EPOCH_MS: i64 = 1_800_000_000_000;

/// Connections of whatever host they are made on.
pub(crate) struct Turmoil;

impl Network for Turmoil {
    fn bind(&self, address: String) -> BoxFuture<'static, io::Result<(Incoming, SocketAddr)>> {
        Box::pin(async move {
            let (_, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port: u16 = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            let local = listener.local_addr()?;
            let incoming = futures::stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await;
                Some((accepted.map(|(stream, _)| Connection::new(stream)), listener))
            });
            Ok((Incoming::new(incoming), local))
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Connection>> {
        Box::pin(async move { Ok(Connection::new(TcpStream::connect(address).await?)) })
    }
}

/// The time of the simulation, the same on every host.
#[derive(Debug)]
pub(crate) struct SimulatedClock;

impl Clock for SimulatedClock {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.monotonic().as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_default()
    }
}
