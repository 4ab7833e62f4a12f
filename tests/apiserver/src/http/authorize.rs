//! Whether somebody may do what a request asks for, and the requests that are about that.

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::body::{self, Response, json_response};
use super::request::{Query, Route};
use super::{Context, Request, header_text};
use crate::auth::User;
use crate::patch::PatchKind;
use crate::rbac::{self, Call};
use crate::status::ApiError;

/// How long a token lives whose request does not say, and the shortest and longest that one may say, seconds.
const LIFETIME: u64 = 3_600;
const SHORTEST: u64 = 600;
const LONGEST: u64 = 1 << 32;

/// Refuses what no role allows. What it lets pass is noted with the rules that did.
pub(super) fn check(
    context: &Context,
    user: &User,
    request: &Request,
    route: &Route,
    query: &Query,
) -> Result<(), ApiError> {
    if user.is_master() || route.resource.plural == "selfsubjectaccessreviews" {
        return Ok(());
    }
    let call = call(user, request.method(), route, query);
    allow(context, user, &call)?;
    let media = header_text(request, &header::CONTENT_TYPE).split(';').next().unwrap_or("").trim();
    let applies = call.verb == "patch" && PatchKind::from_content_type(media) == Some(PatchKind::Apply);
    if applies && context.api.get(&route.resource, &call.namespace, &call.name).is_err() {
        // What is not there yet is created by it.
        return allow(context, user, &Call { verb: "create".into(), ..call });
    }
    Ok(())
}

fn allow(context: &Context, user: &User, call: &Call) -> Result<(), ApiError> {
    let grants = rbac::grants(&context.api, user, call);
    let is_allowed = !grants.is_empty();
    context.auth.audit.lock().note(call, grants);
    if is_allowed {
        return Ok(());
    }
    let scope = match call.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
        call.user, call.verb, call.resource, call.group
    );
    tracing::info!(%why, name = %call.name, "refused");
    Err(ApiError::forbidden(&call.group, &call.resource, &call.name, why))
}

fn call(user: &User, method: &Method, route: &Route, query: &Query) -> Call {
    let verb = match (method, route.name.is_some()) {
        (&Method::GET | &Method::HEAD, _) if query.is_set("watch") => "watch",
        (&Method::GET | &Method::HEAD, true) => "get",
        (&Method::GET | &Method::HEAD, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => "",
    };
    // Who lists or watches one name asks for that object.
    let selected =
        query.get("fieldSelector").strip_prefix("metadata.name=").filter(|name| !name.contains(','));
    let name = route.name.clone().or_else(|| selected.map(str::to_owned)).unwrap_or_default();
    let plural = &route.resource.plural;
    Call {
        user: user.name.clone(),
        verb: verb.into(),
        group: route.resource.group.clone(),
        resource: route.subresource.as_ref().map_or_else(|| plural.clone(), |sub| format!("{plural}/{sub}")),
        namespace: route.namespace().to_owned(),
        name,
    }
}

/// A SelfSubjectAccessReview with its answer.
pub(super) async fn review(context: &Context, user: &User, request: Request) -> Result<Response, ApiError> {
    let content_type = header_text(&request, &header::CONTENT_TYPE).to_owned();
    let bytes = body::read(request.into_body()).await?;
    let mut review = body::object(&content_type, &bytes, "SelfSubjectAccessReview")?;
    let text = |name: &str| {
        let found = review.pointer("/spec/resourceAttributes").and_then(|a| a.get(name));
        found.and_then(Value::as_str).unwrap_or("").to_owned()
    };
    let sub = text("subresource");
    let call = Call {
        user: user.name.clone(),
        verb: text("verb"),
        group: text("group"),
        resource: if sub.is_empty() { text("resource") } else { format!("{}/{sub}", text("resource")) },
        namespace: text("namespace"),
        name: text("name"),
    };
    let allowed = user.is_master() || !rbac::grants(&context.api, user, &call).is_empty();
    review["status"] = json!({"allowed": allowed});
    Ok(json_response(StatusCode::CREATED, &review))
}

/// The `token` of a service account.
pub(super) async fn token(context: &Context, request: Request, route: &Route) -> Result<Response, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let content_type = header_text(&request, &header::CONTENT_TYPE).to_owned();
    let bytes = body::read(request.into_body()).await?;
    let mut asked = body::object(&content_type, &bytes, "TokenRequest")?;
    let seconds = asked.pointer("/spec/expirationSeconds").and_then(Value::as_u64).unwrap_or(LIFETIME);
    let lifetime = std::time::Duration::from_secs(seconds.clamp(SHORTEST, LONGEST));
    let name = route.name.as_deref().unwrap_or("");
    let token = context.auth.issue(&context.api, route.namespace(), name, lifetime)?;
    asked["status"] = json!({"token": token.token, "expirationTimestamp": token.ends});
    Ok(json_response(StatusCode::CREATED, &asked))
}

/// What was done so far, for the administrator alone: `kubectl get --raw /audit`.
pub(super) fn audit(context: &Context, user: &User) -> Result<Response, ApiError> {
    if !user.is_master() {
        return Err(ApiError::forbidden("", "audit", "", "for the administrator only"));
    }
    let audit = serde_json::to_value(&*context.auth.audit.lock())
        .map_err(|error| ApiError::internal(format!("the audit cannot be written: {error}")))?;
    Ok(json_response(StatusCode::OK, &audit))
}
