//! Bodies in and out: JSON, YAML and protobuf become values; values become JSON.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::proto;
use crate::status::ApiError;

pub(super) type Response = http::Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Largest body, as in the real server (3 MiB).
const MAX_BODY: usize = 3 << 20;

/// Reads a whole body.
pub(super) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {MAX_BODY}");
            Err(ApiError::too_large(message))
        }
        Err(error) => Err(ApiError::bad_request(format!("the body cannot be read: {error}"))),
    }
}

/// An object from a body of any accepted type. `kind` is what the endpoint expects.
pub(super) fn object(content_type: &str, body: &Bytes, kind: &str) -> Result<Value, ApiError> {
    let media = content_type.split(';').next().unwrap_or("").trim();
    match media {
        "" | "application/json" => json(body, kind),
        "application/yaml" | "text/yaml" | "text/x-yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => proto::decode(body),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf (got {other:?})"
        ))),
    }
}

fn json(body: &Bytes, kind: &str) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|e| {
        let text: String = String::from_utf8_lossy(body).chars().take(256).collect();
        let message = format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: \
             {e} ({text})"
        );
        ApiError::bad_request(message)
    })
}

/// A value from YAML, of which JSON is a part.
pub(super) fn yaml(body: &Bytes) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))
}

pub(super) fn json_response(code: StatusCode, value: &Value) -> Response {
    bytes_response(code, Bytes::from(value.to_string()))
}

pub(super) fn bytes_response(code: StatusCode, bytes: Bytes) -> Response {
    response(code, "application/json", Full::new(bytes).boxed_unsync())
}

pub(super) fn text_response(text: &'static str) -> Response {
    response(StatusCode::OK, "text/plain; charset=utf-8", Full::from(text).boxed_unsync())
}

pub(super) fn empty_response(code: StatusCode) -> Response {
    response(code, "application/json", Full::default().boxed_unsync())
}

pub(super) fn response(
    code: StatusCode,
    kind: &'static str,
    body: UnsyncBoxBody<Bytes, Infallible>,
) -> Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub(super) fn status_response(error: &ApiError) -> Response {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, &error.to_status());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer realm=\"kubernetes\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    response
}

/// Puts warnings where `kubectl` shows them.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
