//! gRPC over HTTP/2 on a unix socket: which call a request is, and its status when it is none of ours.
//!
//! tonic frames the messages and writes the status; hyper, which the workspace has anyway, speaks HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::gobgp as api;
use tokio::io::{AsyncRead, AsyncWrite, join};
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::authority::Mended;
use super::{Answers, Service};

/// Longest request in octets.
const MAX_REQUEST: usize = 256 * 1024;
/// Calls of one client at a time.
const MAX_CALLS: u32 = 16;
/// A client that answers no ping for so long is gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves one client until it goes.
pub(crate) async fn client<R, W>(reader: R, writer: W, service: Service) -> io::Result<()>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let handler = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(answer(service, request).await) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PATIENCE))
        .keep_alive_timeout(PATIENCE)
        .max_concurrent_streams(MAX_CALLS)
        .serve_connection(TokioIo::new(join(Mended::new(reader), writer)), handler)
        .await
        .map_err(io::Error::other)
}

async fn answer(service: Service, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let Some(call) = path.strip_prefix(api::SERVICE) else {
        return refuse(format!("this speaker has {} only, not {path}", api::SERVICE.trim_matches('/')));
    };
    match call {
        "GetBgp" => unary(request, |r| service.get_bgp(r)).await,
        "ListPeer" => streaming(request, |r| service.list_peer(r)).await,
        "ResetPeer" => unary(request, |r| service.reset_peer(r)).await,
        "EnablePeer" => unary(request, |r| service.enable_peer(r)).await,
        "DisablePeer" | "ShutdownPeer" => unary(request, |r| service.disable_peer(r)).await,
        "ListPath" => streaming(request, |r| service.list_path(r)).await,
        "GetTable" => unary(request, |r| service.get_table(r)).await,
        "AddPath" => unary(request, |r| service.add_path(r)).await,
        "DeletePath" => unary(request, |r| service.delete_path(r)).await,
        "AddPeer" | "DeletePeer" | "UpdatePeer" | "StartBgp" | "StopBgp" => refuse(format!(
            "{call}: peers and settings of this speaker come from the cluster or from its file, not from here"
        )),
        _ => refuse(format!("{call} is not answered by this speaker")),
    }
}

fn refuse(message: String) -> Response<Body> {
    Status::new(Code::Unimplemented, message).into_http()
}

async fn unary<Q, A, F, W>(request: Request<Incoming>, work: W) -> Response<Body>
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

async fn streaming<Q, A, F, W>(request: Request<Incoming>, work: W) -> Response<Body>
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
