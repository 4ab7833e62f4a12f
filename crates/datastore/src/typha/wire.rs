//! Framed messages of an asynchronous stream.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Octets that came and are no whole message yet.
#[derive(Debug)]
pub struct Incoming {
    buffer: BytesMut,
    longest: usize,
}

impl Incoming {
    /// Takes messages of at most `longest` octets.
    pub fn new(longest: usize) -> Self {
        Self { buffer: BytesMut::new(), longest }
    }

    /// The next message; `None` at the end of the stream. Nothing is lost when the call is given up.
    ///
    /// # Errors
    /// When the stream breaks, ends within a message, or a message is too long or not well-formed.
    pub async fn next<M: Message + Default>(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<M>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    fn take<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some(header) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > self.longest {
            return Err(io::Error::other(format!("a message of {length} octets is too long")));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let message: Bytes = self.buffer.split_to(length).freeze();
        M::decode(message).map(Some).map_err(io::Error::other)
    }
}
