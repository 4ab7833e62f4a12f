//! The socket itself. Owns the file, who may open it, and how many clients there are at a time.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tonic::body::Body;

use crate::{Framed, grpc};

/// Clients at a time; others wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take to say which language it speaks.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a program answers, in both languages.
pub trait Service: Clone + Send + Sync + 'static {
    /// Serves a client of `ocicat`'s language until it goes.
    fn framed(self, client: Framed) -> impl Future<Output = io::Result<()>> + Send;

    /// Answers one call of gRPC.
    fn grpc(self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// A socket that is served until this is dropped; the file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    task: AbortHandle,
    keep_file: bool,
}

impl ControlSocket {
    /// Serves both languages on `path`, for root only; takes the place of an older socket. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// What the file system says.
    pub fn bind(path: &Path, service: impl Service) -> io::Result<Self> {
        Self::serve(path, move |stream| client(stream, service.clone()))
    }

    /// Lets `client` serve who comes, in whatever language. The rest is as with [`ControlSocket::bind`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn serve<F>(path: &Path, client: impl Fn(UnixStream) -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(name);
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        fs::rename(&temporary, path)?;
        let task = tokio::spawn(accept(listener, client)).abort_handle();
        Ok(Self { path: path.to_owned(), task, keep_file: false })
    }

    /// Leaves the file in place when this is dropped: the next run sees that there was one before it.
    pub fn keep_file(&mut self) {
        self.keep_file = true;
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        if !self.keep_file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Finds out which of the two languages a client speaks: HTTP/2 begins with `PRI `, which as the length of a
/// frame would be far above [`proto::MAX_FRAME`].
async fn client(mut stream: UnixStream, service: impl Service) -> io::Result<()> {
    let mut head = [0; 4];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await??;
    if head == *b"PRI " {
        grpc::client(head, stream, service).await
    } else {
        service.framed(Framed::new(head, stream)).await
    }
}

async fn accept<F>(listener: UnixListener, client: impl Fn(UnixStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    while let Ok(permit) = clients.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let served = client(stream);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "control client");
            }
            drop(permit);
        });
    }
}
