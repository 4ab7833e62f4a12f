//! Length-prefixed protobuf messages.

use std::io::{self, Read, Write};

use prost::Message;

/// Largest message that either side accepts, in bytes.
pub const MAX_FRAME: usize = 16 << 20;

/// Why a frame could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("message of {0} bytes is longer than the limit of {MAX_FRAME}")]
    TooLong(usize),
    #[error("the message is not what was expected: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The bytes of one message with its length in front.
pub fn encode_frame(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode(&mut bytes).expect("a Vec grows as needed");
    bytes
}

/// Takes one message from the front of `buffer` and says how many bytes it used; `None` while incomplete.
pub fn decode_frame<M: Message + Default>(buffer: &[u8]) -> Result<Option<(M, usize)>, FrameError> {
    let Some((header, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    match rest.get(..length) {
        Some(body) => Ok(Some((M::decode(body)?, 4 + length))),
        None => Ok(None),
    }
}

/// Writes one message to a blocking stream.
pub fn write_frame(stream: &mut impl Write, message: &impl Message) -> io::Result<()> {
    stream.write_all(&encode_frame(message))?;
    stream.flush()
}

/// Reads one message from a blocking stream.
pub fn read_frame<M: Message + Default>(stream: &mut impl Read) -> Result<M, FrameError> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    // Grows with what really arrives: a length alone must not allocate.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(M::decode(body.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Request, request};

    #[test]
    fn a_frame_survives_the_stream() {
        let request = Request { call: Some(request::Call::Status(request::Status {})) };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &request).unwrap();

        assert_eq!(read_frame::<Request>(&mut bytes.as_slice()).unwrap(), request);
        assert_eq!(decode_frame::<Request>(&bytes).unwrap(), Some((request, bytes.len())));
        assert_eq!(decode_frame::<Request>(&bytes[..bytes.len() - 1]).unwrap(), None);
    }

    #[test]
    fn a_huge_length_is_refused_before_anything_is_allocated() {
        let bytes = [0xff; 8];

        assert!(matches!(read_frame::<Request>(&mut bytes.as_slice()), Err(FrameError::TooLong(_))));
        assert!(matches!(decode_frame::<Request>(&bytes), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        let bytes = [0, 0, 0, 9, 1, 2];

        assert!(matches!(read_frame::<Request>(&mut bytes.as_slice()), Err(FrameError::Io(_))));
    }
}
