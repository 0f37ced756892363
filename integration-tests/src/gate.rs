//! A port that lets connections through to another until it is shut: then it refuses new ones and
//! cuts those that are open.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// An open gate; dropping it shuts it.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Gate {
    /// Opens a gate to `target`, as `127.0.0.1:4566`.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn open(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let target = target.trim_start_matches("http://").to_owned();
        let task = tokio::spawn(async move {
            // Ends with this task, and with it every connection.
            let mut connections = JoinSet::new();
            while let Ok((inside, _)) = listener.accept().await {
                connections.spawn(carry(inside, target.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, task }
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shuts it: the port is rejected from now on.
    pub async fn shut(self) {
        self.task.abort();
        // An aborted task gives an error, which is what was asked for.
        let _ = self.task.await;
    }
}

async fn carry(mut inside: TcpStream, target: String) {
    if let Ok(mut outside) = TcpStream::connect(target).await {
        // However it ends, both sides are closed with it.
        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_open_gate_carries_and_a_shut_one_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Gate::open(&listener.local_addr().unwrap().to_string()).await;
        let address = gate.address;
        let mut outer = TcpStream::connect(address).await.unwrap();
        let (mut inner, _) = listener.accept().await.unwrap();
        inner.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        outer.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        gate.shut().await;
        assert_eq!(outer.read(&mut heard).await.unwrap_or(0), 0, "the connection is cut");
        assert!(TcpStream::connect(address).await.is_err(), "the port is rejected");
    }
}
