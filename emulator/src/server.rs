//! The one listener: starts an emulator, takes its connections, and stops cleanly.
//!
//! Owns the connections; knows nothing of what they carry. It stands on hyper rather than on a
//! framework, because a fault rule must be able to close a connection without an answer.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::Body;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::dispatch::{AnswerLost, Services};
use crate::files::write_atomic;

/// How long a stop waits for requests that are being answered.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// How long to wait after a connection could not be taken, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What an emulator is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Directory that keeps the state; a temporary one if there is none.
    pub data_dir: Option<PathBuf>,
    /// Whether the rate limits of the real services hold.
    pub limited: bool,
    /// Region that ARNs and bucket locations name.
    pub region: String,
    /// Account that ARNs name.
    pub account_id: String,
    /// Access keys and their secrets that S3 accepts.
    pub credentials: Vec<(String, String)>,
    /// How long a stream stays CREATING or UPDATING, in milliseconds.
    pub transition_ms: u64,
    /// File that gets the address, as `127.0.0.1:4566`, once it is open.
    pub port_file: Option<PathBuf>,
}

impl Default for Config {
    /// A free port on 127.0.0.1, nothing kept, limits on, `us-east-1`, credentials `test:test`.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir: None,
            limited: true,
            region: "us-east-1".to_owned(),
            account_id: "000000000000".to_owned(),
            credentials: vec![("test".to_owned(), "test".to_owned())],
            transition_ms: 0,
            port_file: None,
        }
    }
}

/// Why an emulator did not start, and what to do: two lines, as the other programs say it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(
        "error[MR6001]: cannot listen on {addr}: {source}\nnext: end the process that has the \
         address, or choose another with --listen (port 0 takes a free one)"
    )]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The state cannot be read or written.
    #[error(
        "error[MR6002]: cannot use the data directory {dir}: {source}\nnext: check its rights, or \
         name another with --data-dir",
        dir = dir.display()
    )]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The port file cannot be written.
    #[error(
        "error[MR6002]: cannot write the port file {path}: {source}\nnext: check the rights of its \
         directory, or name another with --port-file",
        path = path.display()
    )]
    PortFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Starts emulators.
#[derive(Debug)]
pub struct Emulator;

/// A running emulator. It stops when this is dropped; [`Handle::stop`] waits for the end.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
    /// Keeps the temporary state until the end.
    _temporary: Option<TempDir>,
}

impl Emulator {
    /// Opens the state, listens and serves until the handle is stopped or dropped.
    ///
    /// # Errors
    /// When the address or the data directory cannot be used.
    pub async fn start(config: Config) -> Result<Handle, StartError> {
        Self::start_with_clock(config, Arc::new(SystemClock::default())).await
    }

    /// Like [`Emulator::start`], on a clock that a test turns.
    ///
    /// # Errors
    /// As [`Emulator::start`].
    pub async fn start_with_clock(
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Handle, StartError> {
        let listen_error = |source| StartError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let addr = listener.local_addr().map_err(listen_error)?;
        let (dir, temporary) = state_dir(&config)?;
        let services = Services::open(&config, &dir, clock)
            .map_err(|source| StartError::DataDir { dir: dir.clone(), source })?;
        if let Some(path) = &config.port_file {
            write_atomic(path, format!("{addr}\n").as_bytes())
                .map_err(|source| StartError::PortFile { path: path.clone(), source })?;
        }
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Arc::new(services), stop.clone()));
        Ok(Handle { addr, stop, served: Some(served), _temporary: temporary })
    }
}

impl Handle {
    /// The address that is served.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The endpoint URL for SDKs.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops taking requests, lets those in hand end (2 s at most) and closes the state.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take()
            && let Err(error) = served.await
        {
            tracing::error!(%error, "the listener ended badly");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn state_dir(config: &Config) -> Result<(PathBuf, Option<TempDir>), StartError> {
    match &config.data_dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .map_err(|source| StartError::DataDir { dir: dir.clone(), source })?;
            Ok((dir.clone(), None))
        }
        None => {
            let temporary = tempfile::Builder::new().prefix("millrace-emulator-").tempdir();
            let temporary = temporary
                .map_err(|source| StartError::DataDir { dir: std::env::temp_dir(), source })?;
            Ok((temporary.path().to_owned(), Some(temporary)))
        }
    }
}

/// Takes connections until told to stop, then lets the requests in hand end.
async fn serve(listener: TcpListener, services: Arc<Services>, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, peer)) => {
                let connection = connection(stream, services.clone());
                let watched = graceful.watch(connection);
                // Owned by `graceful`, which waits for it below; it ends with its client or the stop.
                tokio::spawn(async move {
                    match watched.await {
                        Err(error) if error.is_parse() => {
                            tracing::warn!(%peer, %error, "a connection is closed: it is no HTTP/1.1");
                        }
                        Err(error) => tracing::debug!(%error, "a connection ended early"),
                        Ok(()) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let finish = async {
        graceful.shutdown().await;
        services.finish_late_calls().await;
    };
    if tokio::time::timeout(STOP_DEADLINE, finish).await.is_err() {
        tracing::warn!("stopped with requests still in hand");
    }
}

/// Serves one connection.
fn connection(
    stream: TcpStream,
    services: Arc<Services>,
) -> hyper::server::conn::http1::Connection<
    TokioIo<TcpStream>,
    impl hyper::service::HttpService<Incoming, ResBody = Body, Error = AnswerLost, Future: Send>,
> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY refused");
    }
    let service = hyper::service::service_fn(move |request| {
        let services = services.clone();
        services.answer(request)
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
}
