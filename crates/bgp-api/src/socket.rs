//! The socket of `ocicat bgp` and of the `gobgp` client. Owns which of a speaker's words belong to which language.

use std::future::Future;
use std::io;
use std::path::Path;

use http::{Request, Response};
use hyper::body::Incoming;
use operator_socket::{ControlSocket, Framed, Service};
use tonic::body::Body;

use crate::{Console, framed, gobgp};

/// Serves `ocicat bgp` and the `gobgp` client on `path`, for root only; takes the place of an older socket. Must be
/// called inside a tokio runtime.
///
/// # Errors
/// What the file system says.
pub fn control_socket(path: &Path, console: Console) -> io::Result<ControlSocket> {
    ControlSocket::bind(path, Speaker { gobgp: gobgp::Service::new(console.clone()), console })
}

/// A speaker's words in both languages.
#[derive(Clone)]
struct Speaker {
    console: Console,
    gobgp: gobgp::Service,
}

impl Service for Speaker {
    fn framed(self, client: Framed) -> impl Future<Output = io::Result<()>> + Send {
        framed::client(client, self.console)
    }

    fn grpc(self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
        gobgp::answer(self.gobgp, request)
    }
}
