//! Probes. Owns a tiny HTTP/1 responder for `/liveness` and `/readiness`; what they say is the owner's.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Longest request head.
const MAX_REQUEST: usize = 4096;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at a time.
const MAX_CLIENTS: usize = 16;

/// What `/readiness` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    /// Why not.
    pub(crate) reasons: Vec<String>,
}

/// The state that probes see, shared with the responder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<Readiness>>);

impl Health {
    pub(crate) fn set(&self, readiness: Readiness) {
        *self.0.lock().expect("nobody panics while holding it") = readiness;
    }

    fn get(&self) -> Readiness {
        self.0.lock().expect("nobody panics while holding it").clone()
    }

    /// Answers probes on `address` from now on.
    pub(crate) async fn listen(&self, address: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let health = self.clone();
        tokio::spawn(async move {
            let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
            while let Ok(permit) = clients.clone().acquire_owned().await {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let health = health.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, health.serve(stream)).await;
                    drop(permit);
                });
            }
        });
        Ok(())
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < MAX_REQUEST {
            let mut part = [0; 512];
            match stream.read(&mut part).await? {
                0 => return Ok(()),
                n => head.extend_from_slice(&part[..n]),
            }
        }
        let (status, body) = self.respond(&head);
        let length = body.len();
        let response = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await
    }

    fn respond(&self, head: &[u8]) -> (&'static str, String) {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match (method, path.split('?').next().unwrap_or("")) {
            ("GET" | "HEAD", "/liveness") => ("200 OK", "{\"alive\":true}".to_owned()),
            ("GET" | "HEAD", "/readiness") => {
                let readiness = self.get();
                let status = if readiness.ready { "200 OK" } else { "503 Service Unavailable" };
                (status, serde_json::to_string(&readiness).unwrap_or_default())
            }
            ("GET" | "HEAD", _) => ("404 Not Found", "{}".to_owned()),
            _ => ("405 Method Not Allowed", "{}".to_owned()),
        }
    }
}
