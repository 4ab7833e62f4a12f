//! The unix socket of the CNI plugin: root only, one framed request and one framed reply a connection.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use proto::node::{Reply, Request};
use proto::{decode_frame, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// No request is longer, bytes; [`proto::MAX_FRAME`] is for larger messages than these.
const MAX_REQUEST: usize = 64 << 10;
/// Calls that are served at once; others wait in the kernel's queue.
const MAX_CALLS: usize = 256;
/// How long a client may take to send its request or take its reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the socket, readable by root alone, in place of one that an earlier run left.
///
/// It is bound under another name and renamed, so that it is never there with wider permissions, and clients
/// of the former socket get an answer or an error but never silence.
pub fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", temporary.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)
        .with_context(|| format!("open socket {}; a path has at most 107 bytes", temporary.display()))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("put socket in place at {}", path.display()))?;
    Ok(listener)
}

/// Answers every request with what `answer` says, which is told when the connection came; never returns.
pub async fn serve<F>(listener: UnixListener, answer: impl Fn(Request, Instant) -> F + Send + Sync + 'static)
where
    F: Future<Output = Reply> + Send,
{
    let answer = Arc::new(answer);
    let permits = Arc::new(Semaphore::new(MAX_CALLS));
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    if let Err(error) = call(stream, &*answer).await {
                        tracing::debug!(error = %format!("{error:#}"), "CNI connection");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a CNI call");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn call<F: Future<Output = Reply>>(
    mut stream: UnixStream,
    answer: &impl Fn(Request, Instant) -> F,
) -> Result<()> {
    let came = Instant::now();
    let request = timeout(PATIENCE, read(&mut stream)).await.context("the client sends no request")??;
    let reply = answer(request, came).await;
    let bytes = encode_frame(&reply);
    timeout(PATIENCE, stream.write_all(&bytes)).await.context("the client takes no reply")??;
    Ok(())
}

async fn read(stream: &mut UnixStream) -> Result<Request> {
    let mut buffer = Vec::with_capacity(512);
    loop {
        if let Some((request, _)) = decode_frame::<Request>(&buffer)? {
            return Ok(request);
        }
        if buffer.len() > MAX_REQUEST {
            bail!("the request is longer than {MAX_REQUEST} bytes");
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            bail!("the connection ended within the request");
        }
    }
}
