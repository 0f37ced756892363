//! gRPC between Millrace's processes: listeners that set TCP_NODELAY, channels with deadlines.

mod caller;
mod greeting;
mod guard;
mod network;
mod strangers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::layer::util::{Identity, Stack};

pub use self::caller::Caller;
pub use self::guard::{Guard, Guarded};
pub use self::network::{Connection, Incoming, Io, Network, simulate};
pub use self::strangers::{Peer, Unheard, UnheardBy};

use self::greeting::Speaks;
use crate::error::{Code, Error};

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an idle connection is probed.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a probe may go unanswered before the connection counts as dead.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a unary call between Millrace's processes may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message: announcements and plans stay far below; above is a defect or an attack.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Listens for gRPC on `host:port` (port 0: any free one); gives the listener and the address it got.
///
/// # Errors
/// [`Code::PortInUse`] when another process listens there, [`Code::InvalidValue`] for an address
/// that can not be listened on.
pub async fn bind(address: &str) -> Result<(Incoming, SocketAddr), Error> {
    listen(address, Speaks::Grpc).await
}

/// [`bind`] for a port that also speaks HTTP/1.
///
/// # Errors
/// As [`bind`].
pub async fn bind_with_http(address: &str) -> Result<(Incoming, SocketAddr), Error> {
    listen(address, Speaks::GrpcAndHttp).await
}

async fn listen(address: &str, speaks: Speaks) -> Result<(Incoming, SocketAddr), Error> {
    network::bind(address, speaks).await.map_err(|error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            Error::new(
                Code::PortInUse,
                format!("{address} is in use by another process"),
                "end that process, or choose another port with --listen (port 0 takes any free one)",
            )
        } else {
            Error::new(
                Code::InvalidValue,
                format!("can not listen on {address}: {error}"),
                "give a host of this machine and a port, as 127.0.0.1:7070",
            )
        }
    })
}

/// True when only processes of this host can reach what listens on `host:port`; of a simulated
/// network everybody is.
///
/// # Errors
/// [`Code::InvalidValue`] when the host is not known.
pub async fn is_loopback(address: &str) -> Result<bool, Error> {
    if network::simulated().is_some() {
        return Ok(true);
    }
    let found = tokio::net::lookup_host(address).await.map_err(|error| {
        Error::new(
            Code::InvalidValue,
            format!("can not listen on {address}: {error}"),
            "give a host of this machine and a port, as 127.0.0.1:7070",
        )
    })?;
    Ok(found.into_iter().all(|address| address.ip().is_loopback()))
}

/// An endpoint with Millrace's deadlines. `address` is `host:port` or an `http://` URL.
///
/// # Errors
/// [`Code::InvalidValue`] when it is neither.
pub fn endpoint(address: &str) -> Result<Endpoint, Error> {
    if address.starts_with("https://") {
        // Never in plain text where somebody asked for more.
        return Err(Error::new(
            Code::InvalidValue,
            format!("{address:?}: Millrace's own port speaks plain HTTP/2, and so do its programs"),
            "write host:port, in a network of your own or through a tunnel",
        ));
    }
    let url =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url).map_err(|error| {
        Error::new(
            Code::InvalidValue,
            format!("{address:?} is not an address"),
            "write host:port, as 127.0.0.1:7070",
        )
        .caused_by(error)
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// A channel that connects when it is first used and again after each loss.
///
/// # Errors
/// As [`endpoint`].
pub fn connect_lazy(address: &str) -> Result<Channel, Error> {
    let endpoint = endpoint(address)?;
    Ok(match network::simulated() {
        Some(network) => endpoint.connect_with_connector_lazy(connector(network)),
        None => endpoint.connect_lazy(),
    })
}

/// Why there is no connection. Not an [`Error`] of its own: the caller knows whom it wanted to
/// reach and what to do next, and says so.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is none.
    #[error(transparent)]
    Address(#[from] Error),
    /// Nobody answers there, or nobody who speaks gRPC.
    #[error("{}", deepest(.0))]
    Transport(tonic::transport::Error),
}

/// The innermost cause: the transport's own words around it only say that there was an error.
fn deepest(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A channel that is connected.
///
/// # Errors
/// As [`endpoint`], and when nobody can be reached there.
pub async fn connect(address: &str) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(address)?;
    match network::simulated() {
        Some(network) => endpoint.connect_with_connector(connector(network)).await,
        None => endpoint.connect().await,
    }
    .map_err(ConnectError::Transport)
}

fn connector(
    network: Arc<dyn Network>,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<Connection>,
    Error = std::io::Error,
    Future = impl Future<Output = std::io::Result<TokioIo<Connection>>> + Send,
> + Send
+ 'static {
    tower::service_fn(move |uri: Uri| {
        let address = uri.authority().map(ToString::to_string).unwrap_or_default();
        let connecting = network.connect(address);
        async move { connecting.await.map(TokioIo::new) }
    })
}

/// A tonic server with Millrace's keep-alive, which tells of calls that reach no service.
#[must_use]
pub fn server() -> tonic::transport::Server<Stack<Unheard, Identity>> {
    tonic::transport::Server::builder()
        .layer(Unheard::new())
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .tcp_nodelay(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let (_incoming, address) = bind("127.0.0.1:0").await.unwrap();
        let error = bind(&address.to_string()).await.err().unwrap();
        assert_eq!(error.code(), Code::PortInUse);
        assert!(error.message().contains(&address.port().to_string()));
    }

    #[tokio::test]
    async fn a_refused_connection_tells_its_cause_once_and_blames_nobody() {
        let (incoming, address) = bind("127.0.0.1:0").await.unwrap();
        drop(incoming);
        let error = connect(&address.to_string()).await.err().unwrap();
        let outer = Error::new(Code::MasterUnreachable, "the master is away", "start it")
            .caused_by(error)
            .to_string();
        assert_eq!(
            outer,
            "MR2001: the master is away: Connection refused (os error 111) (next: start it)"
        );
    }

    #[test]
    fn addresses_are_taken_with_and_without_scheme() {
        assert_eq!(endpoint("127.0.0.1:7070").unwrap().uri().to_string(), "http://127.0.0.1:7070/");
        assert!(endpoint("http://h:1").is_ok());
        assert!(endpoint("not an address").is_err());
    }
}
