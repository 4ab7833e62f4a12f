//! The REST surface: who asks, what for, and in which form the answer goes back.

mod authorize;
mod body;
mod handlers;
mod request;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use self::body::{Response, status_response, text_response};
use self::request::{Query, Route};
use crate::api::Api;
use crate::auth::{Auth, User};
use crate::discovery;
use crate::openapi;
use crate::status::ApiError;

/// What a listener's connections share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) api: Arc<Api>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) address: String,
    pub(crate) bookmark_interval: Duration,
    /// Says by its end that no connection uses the store any more.
    pub(crate) _in_use: mpsc::Sender<()>,
}

type Request = ::http::Request<Incoming>;

/// Answers one request. `has_certificate` says whether TLS has verified a client certificate.
pub(crate) async fn serve(context: Arc<Context>, request: Request, has_certificate: bool) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let started = std::time::Instant::now();
    let response = match answer(&context, request, has_certificate).await {
        Ok(response) => response,
        Err(error) => status_response(&error),
    };
    tracing::debug!(%method, %path, code = response.status().as_u16(), elapsed = ?started.elapsed(), "request");
    response
}

async fn answer(
    context: &Arc<Context>,
    request: Request,
    has_certificate: bool,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let segments: Vec<String> =
        path.split('/').filter(|s| !s.is_empty()).map(request::percent_decode).collect();
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(text_response("ok")),
        ["version"] => return Ok(body::json_response(StatusCode::OK, &discovery::version())),
        _ => {}
    }
    let authorization = header_text(&request, &header::AUTHORIZATION);
    let user = context.auth.user(&context.api, authorization, has_certificate);
    let user = user.ok_or_else(ApiError::unauthorized)?;
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let index = context.api.index();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match words.as_slice() {
        ["api"] | ["apis"] if is_read => Ok(discovery_root(context, &request, words[0] == "apis")),
        ["api", version] if is_read => known(discovery::resources(&index, "", version)),
        ["apis", group] if is_read => known(discovery::group(&index, group)),
        ["apis", group, version] if is_read => known(discovery::resources(&index, group, version)),
        ["openapi", "v2"] if is_read => Ok(openapi_v2(&request)),
        ["openapi", "v3"] if is_read => {
            Ok(body::json_response(StatusCode::OK, &openapi::index(index.documents())))
        }
        ["openapi", "v3", rest @ ..] if is_read => {
            let (_, text) = index.documents().get(&rest.join("/")).ok_or_else(ApiError::no_such_path)?;
            Ok(body::bytes_response(StatusCode::OK, text.clone()))
        }
        ["audit"] if is_read => authorize::audit(context, &user),
        [] if is_read => Ok(body::json_response(StatusCode::OK, &discovery::paths(&index))),
        ["api", version, rest @ ..] => {
            let route = Route::find(&index, "", version, rest)?;
            resource(context, &user, request, route, query).await
        }
        ["apis", group, version, rest @ ..] => {
            let route = Route::find(&index, group, version, rest)?;
            resource(context, &user, request, route, query).await
        }
        _ => Err(ApiError::no_such_path()),
    }
}

async fn resource(
    context: &Arc<Context>,
    user: &User,
    request: Request,
    route: Route,
    query: Query,
) -> Result<Response, ApiError> {
    authorize::check(context, user, &request, &route, &query)?;
    match (route.resource.plural.as_str(), route.subresource.as_deref()) {
        ("selfsubjectaccessreviews", None) => authorize::review(context, user, request).await,
        ("serviceaccounts", Some("token")) => authorize::token(context, request, &route).await,
        _ => handlers::handle(context, request, route, query).await,
    }
}

fn known(value: Option<serde_json::Value>) -> Result<Response, ApiError> {
    value.map(|v| body::json_response(StatusCode::OK, &v)).ok_or_else(ApiError::no_such_path)
}

/// `kubectl` asks for this document before it takes a `kind: List`, and needs nothing in it.
fn openapi_v2(request: &Request) -> Response {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    if header_text(request, &header::ACCEPT).contains("protobuf") {
        let bytes = Full::from(openapi::EMPTY_V2_PROTOBUF).boxed_unsync();
        return body::response(StatusCode::OK, PROTOBUF, bytes);
    }
    body::json_response(StatusCode::OK, &openapi::empty_v2())
}

fn discovery_root(context: &Context, request: &Request, is_groups: bool) -> Response {
    let index = context.api.index();
    let accept = header_text(request, &header::ACCEPT);
    let Some(version) = discovery::aggregated_version(accept) else {
        let plain =
            if is_groups { discovery::groups(&index) } else { discovery::core_versions(&context.address) };
        return body::json_response(StatusCode::OK, &plain);
    };
    let document = discovery::aggregated(&index, is_groups, version);
    let etag = format!("\"{}\"", openapi::hash(&document.to_string()));
    let mut response = if header_text(request, &header::IF_NONE_MATCH) == etag {
        body::empty_response(StatusCode::NOT_MODIFIED)
    } else {
        body::json_response(StatusCode::OK, &document)
    };
    let kind = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let headers = response.headers_mut();
    for (name, text) in
        [(header::CONTENT_TYPE, kind.as_str()), (header::ETAG, &etag), (header::VARY, "Accept")]
    {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    response
}

fn header_text<'a>(request: &'a Request, name: &header::HeaderName) -> &'a str {
    request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}
