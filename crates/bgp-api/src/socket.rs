//! Unix sockets for the operator. Owns the file, who may open it, and how many clients there are at a time.

use std::fs;
use std::future::Future;
use std::io::{self, Cursor};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, join};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::{Console, framed, gobgp};

/// Clients at a time; others wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take to say which language it speaks.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that is served until this is dropped; the file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    task: AbortHandle,
    keep_file: bool,
}

impl ControlSocket {
    /// Serves `ocicat bgp` and the `gobgp` client on `path`, for root only; takes the place of an older socket. Must be called inside
    /// a tokio runtime.
    ///
    /// # Errors
    /// What the file system says.
    pub fn bind(path: &Path, console: Console) -> io::Result<Self> {
        let service = gobgp::Service::new(console.clone());
        serve(path, move |stream| client(stream, console.clone(), service.clone()))
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
async fn client(mut stream: UnixStream, console: Console, service: gobgp::Service) -> io::Result<()> {
    let mut head = [0; 4];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await??;
    let is_http = head == *b"PRI ";
    let (reader, writer) = stream.into_split();
    let reader = Cursor::new(head).chain(reader);
    if is_http {
        gobgp::client(reader, writer, service).await
    } else {
        framed::client(join(reader, writer), console).await
    }
}

/// Listens on `path`, readable and writable by the owner only, and lets `client` serve who comes.
pub(crate) fn serve<F>(
    path: &Path,
    client: impl Fn(UnixStream) -> F + Send + 'static,
) -> io::Result<ControlSocket>
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
    Ok(ControlSocket { path: path.to_owned(), task, keep_file: false })
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
