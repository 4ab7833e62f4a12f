//! The language of `ocicat`: protobuf messages with their length in front. Owns limits of size and of patience.

use std::io::{self, Cursor};
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Chain, Join, join};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest request.
const MAX_REQUEST: usize = 64 * 1024;
/// How long a client may be silent or slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that speaks in frames.
#[derive(Debug)]
pub struct Framed {
    stream: Join<Chain<Cursor<[u8; 4]>, OwnedReadHalf>, OwnedWriteHalf>,
    buffer: Vec<u8>,
}

impl Framed {
    /// A client of whom `head` is already read.
    pub(crate) fn new(head: [u8; 4], stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { stream: join(Cursor::new(head).chain(reader), writer), buffer: Vec::new() }
    }

    /// The next request; `None` when the client has gone.
    ///
    /// # Errors
    /// When it is silent for too long, sends too much, or something else.
    pub async fn request<Q: Message + Default>(&mut self) -> io::Result<Option<Q>> {
        loop {
            match proto::decode_frame::<Q>(&self.buffer) {
                Ok(Some((request, used))) => {
                    self.buffer.drain(..used);
                    return Ok(Some(request));
                }
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            let mut part = [0; 1024];
            let n = tokio::time::timeout(PATIENCE, self.stream.read(&mut part)).await??;
            if n == 0 {
                return Ok(None);
            }
            self.buffer.extend_from_slice(&part[..n]);
            if self.buffer.len() > MAX_REQUEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "request is too long"));
            }
        }
    }

    /// Sends one answer.
    ///
    /// # Errors
    /// When the client has gone or does not take it in time.
    pub async fn send(&mut self, answer: &impl Message) -> io::Result<()> {
        let bytes = proto::encode_frame(answer);
        tokio::time::timeout(PATIENCE, self.stream.write_all(&bytes)).await?
    }

    /// Waits until the client goes; one that sends something while it is being answered counts as gone. May be
    /// dropped at any time.
    pub async fn gone(&mut self) {
        let mut part = [0; 64];
        let _ = self.stream.read(&mut part).await;
    }
}
