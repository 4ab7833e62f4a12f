//! One TCP connection. Owns its socket, what is to be written, and the beginning of a message whose rest has
//! not come.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};

use bytes::{Buf, Bytes};

/// Slices that are written by one system call.
const SLICES: usize = 64;

/// A connection of the speaker, from the attempt to its end.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// TCP is still connecting.
    pub(crate) connecting: bool,
    /// The kernel had no room the last time: its word is waited for.
    pub(crate) blocked: bool,
    /// It is in the list of connections with something to write.
    pub(crate) dirty: bool,
    /// Nothing was ever read from it.
    pub(crate) silent: bool,
    /// Never more than one message.
    partial: Vec<u8>,
    queue: VecDeque<Bytes>,
}

impl Connection {
    /// Takes a socket that does not block.
    pub(crate) fn new(stream: TcpStream, connecting: bool) -> Self {
        Self {
            stream,
            connecting,
            blocked: connecting,
            dirty: false,
            silent: true,
            partial: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads once what is there, behind the beginning of a message that came before. Gives back how many bytes
    /// of `buffer` are to be parsed and how many of them are new; none new is the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        let kept = self.partial.len();
        let n = (&self.stream).read(&mut buffer[kept..])?;
        if n > 0 {
            buffer[..kept].copy_from_slice(&self.partial);
            self.silent = false;
        }
        Ok((kept + n, n))
    }

    /// Keeps the bytes that no whole message was made of.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            // Thousands of idle connections hold no memory.
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// Queues bytes; [`Self::write`] carries them on.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
    }

    /// Whether something is queued.
    pub(crate) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Writes as much as the kernel takes now, at most about `limit` bytes. Gives back how many that were;
    /// [`Self::blocked`] says whether it was for lack of room.
    pub(crate) fn write(&mut self, limit: usize) -> io::Result<usize> {
        let mut total = 0;
        while !self.queue.is_empty() && total < limit {
            match self.write_once() {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    total += n;
                    self.written(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn write_once(&self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        (&self.stream).write_vectored(&slices[..count])
    }

    fn written(&mut self, mut n: usize) {
        while let Some(first) = self.queue.front_mut().filter(|_| n > 0) {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.queue.pop_front();
        }
        if self.queue.is_empty() && self.queue.capacity() > SLICES {
            self.queue = VecDeque::new();
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}
