//! A TCP proxy that can refuse, delay, cut, swallow and narrow what goes through it: partitions and
//! bad networks without touching the machine's.
//!
//! Promises: bytes that go through are never changed; a change of the mode reaches open connections
//! too. Owned by the stage; dropping it closes the port. Never does: look into the bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Bytes that are carried at once: small, so that a narrow line is narrow from the first second.
const PIECE: usize = 8 * 1024;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As if the proxy were not there.
    Open,
    /// Every connection is closed, old and new.
    Refuse,
    /// Each piece comes later by a random time, and some connections are cut instead.
    Bad {
        /// At most this late.
        delay: Duration,
        /// This many of a thousand pieces cut their connection.
        cuts_per_mille: u32,
    },
    /// What the client sends is swallowed; what it is sent arrives.
    Deaf,
    /// At most this many bytes a second in each direction, over all connections.
    Narrow {
        /// Bytes a second.
        bytes_per_second: u32,
    },
}

/// A proxy in front of one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    listening: AbortHandle,
}

impl Proxy {
    /// Starts a proxy on a free port in front of `target`.
    ///
    /// # Panics
    /// When loopback has no free port.
    #[must_use]
    pub fn start(target: &str) -> Self {
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("a bound socket has an address");
        let listener = TcpListener::from_std(listener).expect("a runtime takes a socket");
        let (mode, modes) = watch::channel(Mode::Open);
        let listening = tokio::spawn(listen(listener, target.to_owned(), modes)).abort_handle();
        Self { address, mode, listening }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes the network.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// One direction of the line, shared by all connections: until when it is busy.
#[derive(Debug, Default)]
struct Lane(Mutex<Option<Instant>>);

impl Lane {
    /// Waits until bytes that take `time` have passed behind all that came before.
    async fn pass(&self, time: Duration) {
        let free = {
            let mut busy_until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let free = busy_until.unwrap_or_else(Instant::now).max(Instant::now()) + time;
            *busy_until = Some(free);
            free
        };
        tokio::time::sleep_until(free).await;
    }
}

/// The two directions of the line.
#[derive(Debug, Default)]
struct Lanes {
    up: Lane,
    down: Lane,
}

async fn listen(listener: TcpListener, target: String, modes: watch::Receiver<Mode>) {
    let lanes = Arc::new(Lanes::default());
    // Ends its connections with itself.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *modes.borrow() == Mode::Refuse {
            continue;
        }
        connections.spawn(carry(client, target.clone(), modes.clone(), Arc::clone(&lanes)));
    }
}

/// Carries one connection until either side ends it, or the mode does.
async fn carry(
    client: TcpStream,
    target: String,
    mut modes: watch::Receiver<Mode>,
    lanes: Arc<Lanes>,
) {
    let Ok(server) = TcpStream::connect(&target).await else { return };
    // Whoever wants delay sets it; the proxy's own buffers must add none.
    let nodelay = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    if nodelay.is_err() {
        return;
    }
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let (up, down) = (modes.clone(), modes.clone());
    tokio::select! {
        () = pump((from_client, to_server), up, &lanes.up, true) => {}
        () = pump((from_server, to_client), down, &lanes.down, false) => {}
        _ = modes.wait_for(|mode| *mode == Mode::Refuse) => {}
    }
}

async fn pump(
    (mut from, mut to): (OwnedReadHalf, OwnedWriteHalf),
    modes: watch::Receiver<Mode>,
    lane: &Lane,
    is_up: bool,
) {
    let mut piece = vec![0; PIECE];
    loop {
        let Ok(num @ 1..) = from.read(&mut piece).await else { return };
        let mode = *modes.borrow();
        match mode {
            Mode::Deaf if is_up => continue,
            Mode::Open | Mode::Deaf => {}
            Mode::Refuse => return,
            Mode::Bad { delay, cuts_per_mille } => {
                let (late, cut) = {
                    let mut rng = rand::rng();
                    (rng.random_range(0..=delay.as_millis() as u64), rng.random_range(0..1_000))
                };
                if cut < cuts_per_mille {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(late)).await;
            }
            Mode::Narrow { bytes_per_second } => {
                let time = num as f64 / f64::from(bytes_per_second);
                lane.pass(Duration::from_secs_f64(time)).await;
            }
        }
        if to.write_all(&piece[..num]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn said(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn what_goes_through_is_unchanged_until_it_is_refused() {
        let proxy = Proxy::start(&echo().await);
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut stream, b"a record").await.unwrap(), b"a record");
        proxy.set(Mode::Refuse);
        assert!(said(&mut stream, b"a record").await.is_err(), "an open connection is cut");
        let mut late = TcpStream::connect(proxy.address).await.unwrap();
        assert!(said(&mut late, b"a record").await.is_err(), "a new one is closed");
        proxy.set(Mode::Open);
        let mut again = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut again, b"a record").await.unwrap(), b"a record");
    }

    #[tokio::test]
    async fn a_narrow_line_takes_its_time_and_a_bad_one_cuts() {
        let proxy = Proxy::start(&echo().await);
        proxy.set(Mode::Narrow { bytes_per_second: 10_000 });
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let (text, began) = (vec![7; 1_000], Instant::now());
        assert_eq!(said(&mut stream, &text).await.unwrap(), text);
        assert!(began.elapsed() >= Duration::from_millis(200), "both ways: {:?}", began.elapsed());
        // A second connection does not make it wider.
        let (mut other, began) = (TcpStream::connect(proxy.address).await.unwrap(), Instant::now());
        let both = tokio::join!(said(&mut stream, &text), said(&mut other, &text));
        assert!(both.0.unwrap() == text && both.1.unwrap() == text);
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        proxy.set(Mode::Bad { delay: Duration::ZERO, cuts_per_mille: 1_000 });
        assert!(said(&mut stream, &text).await.is_err());
    }

    #[tokio::test]
    async fn a_deaf_line_carries_answers_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(&listener.local_addr().unwrap().to_string());
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        proxy.set(Mode::Deaf);
        client.write_all(b"lost").await.unwrap();
        server.write_all(b"heard").await.unwrap();
        let mut heard = [0; 5];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"heard");
        proxy.set(Mode::Open);
        client.write_all(b"again").await.unwrap();
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"again", "what was sent before is gone");
    }
}
