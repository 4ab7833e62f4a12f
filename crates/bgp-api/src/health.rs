//! Probes and figures. Owns a tiny HTTP/1 responder for `/liveness` (or `/healthz`), `/readiness` (or
//! `/readyz`) and `/metrics`; what the
//! probes say is the owner's.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::{Console, Metrics};

/// Longest request head.
const MAX_REQUEST: usize = 4096;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at a time.
const MAX_CLIENTS: usize = 16;

/// What `/readiness` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// It can do its work.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// The state that probes see, shared with the responder.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Readiness>>);

impl Health {
    /// Says what `/readiness` answers from now on.
    pub fn set(&self, readiness: Readiness) {
        *self.0.lock().expect("nobody panics while holding it") = readiness;
    }

    fn get(&self) -> Readiness {
        self.0.lock().expect("nobody panics while holding it").clone()
    }

    /// Answers on `address` from now on; gives back where, for a port of 0.
    ///
    /// # Errors
    /// What the system says when it cannot listen there.
    pub async fn listen(
        &self,
        address: SocketAddr,
        console: Console,
        metrics: Metrics,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let health = self.clone();
        tokio::spawn(async move {
            let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
            while let Ok(permit) = clients.clone().acquire_owned().await {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (health, console, metrics) = (health.clone(), console.clone(), metrics.clone());
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, health.serve(stream, console, metrics)).await;
                    drop(permit);
                });
            }
        });
        Ok(address)
    }

    async fn serve(&self, mut stream: TcpStream, console: Console, metrics: Metrics) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < MAX_REQUEST {
            let mut part = [0; 512];
            match stream.read(&mut part).await? {
                0 => return Ok(()),
                n => head.extend_from_slice(&part[..n]),
            }
        }
        let asked = Asked::parse(&head);
        let (status, kind, body) = match asked {
            Asked::Metrics => match console.ask(move |subject| metrics.render(subject)).await {
                Ok(text) => ("200 OK", METRICS_TYPE, text),
                Err(_) => ("503 Service Unavailable", METRICS_TYPE, String::new()),
            },
            other => self.respond(other),
        };
        let length = body.len();
        let response = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await
    }

    fn respond(&self, asked: Asked) -> (&'static str, &'static str, String) {
        let (status, body) = match asked {
            Asked::Liveness => ("200 OK", "{\"alive\":true}".to_owned()),
            Asked::Readiness => {
                let readiness = self.get();
                let status = if readiness.ready { "200 OK" } else { "503 Service Unavailable" };
                (status, serde_json::to_string(&readiness).unwrap_or_default())
            }
            Asked::Metrics | Asked::Unknown => ("404 Not Found", "{}".to_owned()),
            Asked::OtherMethod => ("405 Method Not Allowed", "{}".to_owned()),
        };
        (status, "application/json", body)
    }
}

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Liveness,
    Readiness,
    Metrics,
    Unknown,
    OtherMethod,
}

impl Asked {
    fn parse(head: &[u8]) -> Self {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match (method, path.split('?').next().unwrap_or("")) {
            ("GET" | "HEAD", "/liveness" | "/healthz") => Self::Liveness,
            ("GET" | "HEAD", "/readiness" | "/readyz") => Self::Readiness,
            ("GET" | "HEAD", "/metrics") => Self::Metrics,
            ("GET" | "HEAD", _) => Self::Unknown,
            _ => Self::OtherMethod,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Owner, Subject, console};

    #[tokio::test]
    async fn figures_and_probes_are_answered_on_one_port() {
        let (console, mut calls) = console();
        let health = Health::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = health.listen(any, console, Metrics::default()).await.unwrap();
        tokio::spawn(async move {
            loop {
                let owner = Owner::default();
                calls.next().await.run(Subject { speaker: None, owner, now: std::time::Instant::now() });
            }
        });

        let metrics = get(address, "/metrics").await;
        let unready = get(address, "/readiness").await;
        health.set(Readiness { ready: true, reasons: Vec::new() });
        let ready = get(address, "/readiness?verbose").await;

        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("bgp_problems 0"), "{metrics}");
        assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}
