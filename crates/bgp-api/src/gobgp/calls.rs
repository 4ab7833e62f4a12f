//! Which call a request is, and its status when it is none of ours.

use http::{Request, Response};
use hyper::body::Incoming;
use operator_socket::grpc::{refuse, streaming, unary};
use proto::gobgp as api;
use tonic::body::Body;

use super::Service;

pub(crate) async fn answer(service: Service, request: Request<Incoming>) -> Response<Body> {
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
        "WatchEvent" => streaming(request, |r| service.watch_event(r)).await,
        "GetTable" => unary(request, |r| service.get_table(r)).await,
        "AddPath" => unary(request, |r| service.add_path(r)).await,
        "DeletePath" => unary(request, |r| service.delete_path(r)).await,
        "AddPeer" | "DeletePeer" | "UpdatePeer" | "StartBgp" | "StopBgp" => refuse(format!(
            "{call}: peers and settings of this speaker come from the cluster (kubectl apply a BGPPeer or BGPConfiguration of \
             projectcalico.org/v3) or, of a route reflector outside, from its file; not from here"
        )),
        _ => refuse(format!("{call} is not answered by this speaker")),
    }
}
