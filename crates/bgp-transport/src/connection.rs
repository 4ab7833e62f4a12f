//! One TCP connection. Owns its socket, what is to be written, and the tasks that wait for readiness.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bgp::ConnId;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::driver::Io;

/// How long a connection that is to be closed may take to write what is left and to hear the peer out.
const FAREWELL: Duration = Duration::from_secs(3);

/// A connection of the speaker, from the attempt to its end.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `None` while TCP is still connecting.
    stream: Option<Arc<TcpStream>>,
    task: Task,
    resume: Arc<Notify>,
    /// The beginning of a message whose rest has not come.
    pub(crate) partial: Vec<u8>,
    queue: VecDeque<Bytes>,
    /// How much of the first element is written.
    written: usize,
    waiting: bool,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// An attempt to connect, carried by `task`.
    pub(crate) fn connecting(task: AbortHandle) -> Self {
        Self {
            stream: None,
            task: Task(task),
            resume: Arc::default(),
            partial: Vec::new(),
            queue: VecDeque::new(),
            written: 0,
            waiting: false,
        }
    }

    /// An open connection; begins to wait for bytes.
    pub(crate) fn open(conn: ConnId, stream: TcpStream, events: mpsc::Sender<Io>) -> Self {
        let stream = Arc::new(stream);
        let resume = Arc::new(Notify::new());
        let (waiting, resumed) = (stream.clone(), resume.clone());
        let task = tokio::spawn(async move {
            loop {
                let _ = waiting.readable().await;
                if events.send(Io::Readable(conn)).await.is_err() {
                    return;
                }
                resumed.notified().await;
            }
        });
        Self { stream: Some(stream), resume, ..Self::connecting(task.abort_handle()) }
    }

    /// Reads what is there; 0 is the end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Some(stream) => stream.try_read(buffer),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits for bytes again.
    pub(crate) fn resume(&self) {
        self.resume.notify_one();
    }

    /// Queues bytes; [`Self::write`] carries them on.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.queue.push_back(bytes);
    }

    /// Writes as much as the kernel takes now. Gives back how many bytes that were.
    pub(crate) fn write(&mut self, conn: ConnId, events: &mpsc::Sender<Io>) -> io::Result<usize> {
        let Some(stream) = &self.stream else { return Ok(0) };
        let mut total = 0;
        while !self.queue.is_empty() {
            let mut slices: Vec<IoSlice<'_>> =
                self.queue.iter().take(64).map(|bytes| IoSlice::new(bytes)).collect();
            slices[0] = IoSlice::new(&self.queue[0][self.written..]);
            match stream.try_write_vectored(&slices) {
                Ok(mut n) => {
                    total += n;
                    while n > 0 {
                        let left = self.queue[0].len() - self.written;
                        if n < left {
                            self.written += n;
                            break;
                        }
                        n -= left;
                        self.written = 0;
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_writable(conn, events);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Notes that the wait for room is over.
    pub(crate) fn writable(&mut self) {
        self.waiting = false;
    }

    fn wait_writable(&mut self, conn: ConnId, events: &mpsc::Sender<Io>) {
        let Some(stream) = self.stream.clone().filter(|_| !self.waiting) else { return };
        self.waiting = true;
        let events = events.clone();
        tokio::spawn(async move {
            let _ = stream.writable().await;
            let _ = events.send(Io::Writable(conn)).await;
        });
    }

    /// Writes what is left, says goodbye, and hears the peer out, so that a last NOTIFICATION is not lost
    /// to a reset.
    pub(crate) fn close(mut self) {
        self.task.0.abort();
        let Some(stream) = self.stream.take() else { return };
        let queue = std::mem::take(&mut self.queue);
        let written = self.written;
        tokio::spawn(async move {
            let _ = tokio::time::timeout(FAREWELL, farewell(stream, queue, written)).await;
        });
    }
}

async fn farewell(stream: Arc<TcpStream>, queue: VecDeque<Bytes>, mut written: usize) -> io::Result<()> {
    // The reading task may hold its share until it notices that it was aborted.
    let mut stream = loop_until_sole(stream).await?;
    for bytes in queue {
        stream.write_all(&bytes[written..]).await?;
        written = 0;
    }
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn loop_until_sole(mut shared: Arc<TcpStream>) -> io::Result<TcpStream> {
    for _ in 0..64 {
        match Arc::try_unwrap(shared) {
            Ok(stream) => return Ok(stream),
            Err(still) => shared = still,
        }
        tokio::task::yield_now().await;
    }
    Err(io::ErrorKind::WouldBlock.into())
}
