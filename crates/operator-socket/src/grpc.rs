//! gRPC over HTTP/2: a call with one answer or with many, and a refusal. Owns framing and limits; which call a
//! request is, the program says.
//!
//! tonic frames the messages and writes the status; hyper, which the workspace has anyway, speaks HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, join};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::Service;
use crate::authority::Mended;

/// Longest request in octets.
const MAX_REQUEST: usize = 256 * 1024;
/// Calls of one client at a time.
const MAX_CALLS: u32 = 16;
/// A client that answers no ping for so long is gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers of a call that has many.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves one client, of whom `head` is already read, until it goes.
pub(crate) async fn client(head: [u8; 4], stream: UnixStream, service: impl Service) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let reader = Mended::new(Cursor::new(head).chain(reader));
    let handler = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.grpc(request).await) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PATIENCE))
        .keep_alive_timeout(PATIENCE)
        .max_concurrent_streams(MAX_CALLS)
        .serve_connection(TokioIo::new(join(reader, writer)), handler)
        .await
        .map_err(io::Error::other)
}

/// A call that is not answered here, in words.
pub fn refuse(message: String) -> Response<Body> {
    Status::new(Code::Unimplemented, message).into_http()
}

/// Answers a call that has one answer.
pub async fn unary<Q, A, F, W>(request: Request<Incoming>, work: W) -> Response<Body>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Send + 'static,
    F: Future<Output = Result<A, Status>> + Send,
    W: FnOnce(Q) -> F,
{
    let codec = ProstCodec::<A, Q>::default();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
    grpc.unary(Once(Some(work)), request).await
}

/// Answers a call that has many answers.
pub async fn streaming<Q, A, F, W>(request: Request<Incoming>, work: W) -> Response<Body>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Send + 'static,
    F: Future<Output = Result<Answers<A>, Status>> + Send,
    W: FnOnce(Q) -> F,
{
    let codec = ProstCodec::<A, Q>::default();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
    grpc.server_streaming(Many(Some(work)), request).await
}

/// A call with one answer, as tonic wants it.
struct Once<W>(Option<W>);

/// A call with many answers.
struct Many<W>(Option<W>);

fn called_twice() -> Status {
    Status::internal("a call is answered once")
}

impl<Q, A, F, W> UnaryService<Q> for Once<W>
where
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send,
    W: FnOnce(Q) -> F,
{
    type Response = A;
    type Future = Flat<F>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        Flat(self.0.take().map(|work| Box::pin(work(request.into_inner()))))
    }
}

impl<Q, A, F, W> ServerStreamingService<Q> for Many<W>
where
    A: Send + 'static,
    F: Future<Output = Result<Answers<A>, Status>> + Send,
    W: FnOnce(Q) -> F,
{
    type Response = A;
    type ResponseStream = Answers<A>;
    type Future = Flat<F>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        Flat(self.0.take().map(|work| Box::pin(work(request.into_inner()))))
    }
}

/// The answer in tonic's envelope.
struct Flat<F>(Option<Pin<Box<F>>>);

impl<T, F: Future<Output = Result<T, Status>>> Future for Flat<F> {
    type Output = Result<tonic::Response<T>, Status>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        match &mut self.0 {
            Some(work) => work.as_mut().poll(context).map_ok(tonic::Response::new),
            None => std::task::Poll::Ready(Err(called_twice())),
        }
    }
}
