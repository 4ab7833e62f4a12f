//! The smallest HTTP/1.1 server that probes and scrapes need: one request and one reply a connection. Never knows
//! what is asked.
//!
//! Whatever arrives, it costs at most [`MAX_REQUEST`] bytes and [`PATIENCE`] of one of [`MAX_CONNECTIONS`].

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest request head that is read, bytes.
const MAX_REQUEST: usize = 8 << 10;
/// Connections that are served at once; others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: Status,
    pub content_type: &'static str,
    pub body: String,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    ServiceUnavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::ServiceUnavailable => "503 Service Unavailable",
        }
    }
}

impl Response {
    /// Plain text.
    pub fn text(status: Status, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// Every figure of a registry as Prometheus reads them.
    pub fn metrics(registry: &Registry) -> Self {
        let mut body = String::new();
        match encode(&mut body, registry) {
            Ok(()) => Self {
                status: Status::Ok,
                content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body,
            },
            Err(error) => Self::text(Status::ServiceUnavailable, error.to_string()),
        }
    }

    fn bytes(&self, with_body: bool) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.status.line(),
            self.content_type,
            self.body.len()
        );
        let mut bytes = head.into_bytes();
        if with_body {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// Answers the path of every GET with what `route` says; never returns.
pub async fn serve(listener: TcpListener, route: impl Fn(&str) -> Response + Send + Sync + 'static) {
    let route = Arc::new(route);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let route = route.clone();
                tokio::spawn(async move {
                    let _ = timeout(PATIENCE, answer(stream, &*route)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a probe");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, route: &(impl Fn(&str) -> Response + ?Sized)) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !is_complete(&head) && head.len() < MAX_REQUEST {
        let mut chunk = [0; 512];
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..length]);
    }
    let (response, with_body) = respond(&head, route);
    stream.write_all(&response.bytes(with_body)).await?;
    stream.shutdown().await
}

fn is_complete(head: &[u8]) -> bool {
    head.windows(4).any(|window| window == b"\r\n\r\n") || head.windows(2).any(|window| window == b"\n\n")
}

/// The response, and whether its body is to be sent.
fn respond(head: &[u8], route: &(impl Fn(&str) -> Response + ?Sized)) -> (Response, bool) {
    let bad = |text: &str| (Response::text(Status::BadRequest, text), true);
    if !is_complete(head) {
        return bad("the request has no end, or is too long\n");
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return bad("the request is not text\n") };
    let mut words = line.trim_end().split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version)) if version.starts_with("HTTP/1") => {
            let path = target.split('?').next().unwrap_or(target);
            match method {
                "GET" => (route(path), true),
                "HEAD" => (route(path), false),
                _ => (Response::text(Status::MethodNotAllowed, "only GET and HEAD are understood\n"), true),
            }
        }
        _ => bad("this is not HTTP/1\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_get_is_answered_and_the_connection_closed() {
        let reply = ask(b"GET /liveness?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;

        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\n/liveness"), "{reply}");
    }

    #[tokio::test]
    async fn nonsense_gets_a_short_no() {
        let long = [b"GET /".as_slice(), &vec![b'a'; MAX_REQUEST * 2]].concat();
        let cases: [(&[u8], &str); 5] = [
            (b"POST / HTTP/1.1\r\n\r\n", "405"),
            (b"\xff\xfe\r\n\r\n", "400"),
            (b"hello\r\n\r\n", "400"),
            (b"GET /\r\n\r\n", "400"),
            (&long, "400"),
        ];
        for (request, status) in cases {
            let (response, _) = respond(request, &|path: &str| Response::text(Status::Ok, path));

            assert!(response.status.line().starts_with(status), "{response:?}");
        }
    }

    #[tokio::test]
    async fn head_has_no_body() {
        let reply = ask(b"HEAD /x HTTP/1.0\n\n").await;

        assert!(reply.contains("Content-Length: 2") && reply.ends_with("\r\n\r\n"), "{reply}");
    }

    async fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, |path| Response::text(Status::Ok, path)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        server.abort();
        reply
    }
}
