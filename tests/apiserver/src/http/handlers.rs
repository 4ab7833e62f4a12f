//! Verbs on resources.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::body::{self, Response, bytes_response, json_response};
use super::request::{Query, Route};
use super::{Context, Request, header_text, watch};
use crate::api::{DeleteOptions, Deleted, Part, WriteOptions, Written};
use crate::patch::PatchKind;
use crate::status::ApiError;
use crate::table::{self, RowObject, Shape};
use crate::webhooks::{self, Attempt, Operation};

/// Answers a request for a resource.
pub(super) async fn handle(
    context: &Arc<Context>,
    request: Request,
    route: Route,
    query: Query,
) -> Result<Response, ApiError> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let shape = shape(header_text(&request, &header::ACCEPT), &query);
    if is_read && (route.name.is_none() || query.is_set("watch")) {
        refuse_unless(&route, if query.is_set("watch") { "watch" } else { "list" })?;
        if query.is_set("watch") {
            return watch::start(context, &route, &query, shape);
        }
        return list(context, &route, &query, shape);
    }
    let part = match route.subresource.as_deref() {
        None => Part::Main,
        Some("status") if route.resource.has_status => Part::Status,
        Some(other) if route.resource.subresources.contains(&other) => {
            return pod_subresource(context, request, &route, other).await;
        }
        Some(_) => return Err(ApiError::no_such_path()),
    };
    if is_read {
        refuse_unless(&route, "get")?;
        let name = route.name.as_deref().unwrap_or("");
        let object = context.api.get(&route.resource, route.namespace(), name)?;
        return Ok(bytes_response(StatusCode::OK, table::one(&route.resource, &object, shape, true)));
    }
    let (head, incoming) = request.into_parts();
    let text = |name| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let (content_type, user_agent) = (text(header::CONTENT_TYPE), text(header::USER_AGENT));
    let bytes = body::read(incoming).await?;
    let write = Write { context, route: &route, query: &query, shape, part, content_type, user_agent, bytes };
    match (head.method, &route.name) {
        (Method::POST, None) => write.create().await,
        (Method::PUT, Some(name)) => write.update(name).await,
        (Method::PATCH, Some(name)) => write.patch(name).await,
        (Method::DELETE, Some(name)) if part == Part::Main => write.delete(name).await,
        (Method::DELETE, None) => write.delete_collection(),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn refuse_unless(route: &Route, verb: &str) -> Result<(), ApiError> {
    if route.resource.verbs.contains(&verb) { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}

fn list(context: &Context, route: &Route, query: &Query, shape: Shape) -> Result<Response, ApiError> {
    let options = query.list_options(route)?;
    let listing = context.api.list(&route.resource, &options)?;
    let mut meta = listing.metadata();
    if route.resource.is_custom() && shape == Shape::Full && meta.get("continue").is_none() {
        meta["continue"] = json!("");
    }
    Ok(bytes_response(StatusCode::OK, table::list(&route.resource, &listing.objects, meta, shape)))
}

/// A write with its body read.
struct Write<'a> {
    context: &'a Context,
    route: &'a Route,
    query: &'a Query,
    shape: Shape,
    part: Part,
    content_type: &'a str,
    user_agent: &'a str,
    bytes: Bytes,
}

impl Write<'_> {
    fn object(&self) -> Result<Value, ApiError> {
        body::object(self.content_type, &self.bytes, &self.route.resource.kind)
    }

    async fn create(&self) -> Result<Response, ApiError> {
        let resource = &self.route.resource;
        refuse_unless(self.route, "create")?;
        let value = self.object()?;
        if resource.is_namespaced() && self.route.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let options = self.query.write_options(self.user_agent, false)?;
        let api = &self.context.api;
        let namespace = self.route.namespace();
        let try_it = |options: &WriteOptions| api.create(resource, namespace, value.clone(), options);
        self.write(Operation::Create, None, &options, &try_it).await
    }

    async fn update(&self, name: &str) -> Result<Response, ApiError> {
        refuse_unless(self.route, "update")?;
        let options = self.query.write_options(self.user_agent, false)?;
        let at = (self.route.namespace(), name);
        let (api, value) = (&self.context.api, self.object()?);
        let try_it =
            |options: &WriteOptions| api.update(&self.route.resource, at, self.part, value.clone(), options);
        self.write(Operation::Update, Some(name), &options, &try_it).await
    }

    async fn patch(&self, name: &str) -> Result<Response, ApiError> {
        refuse_unless(self.route, "patch")?;
        let media = self.content_type.split(';').next().unwrap_or("").trim();
        let kind = PatchKind::from_content_type(media)
            .ok_or_else(|| ApiError::unsupported_media_type("415: Unsupported Media Type"))?;
        let patch = if kind == PatchKind::Apply {
            body::yaml(&self.bytes)?
        } else {
            serde_json::from_slice(&self.bytes)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?
        };
        let options = self.query.write_options(self.user_agent, kind == PatchKind::Apply)?;
        let at = (self.route.namespace(), name);
        let api = &self.context.api;
        let try_it =
            |options: &WriteOptions| api.patch(&self.route.resource, at, self.part, (kind, &patch), options);
        self.write(Operation::Update, Some(name), &options, &try_it).await
    }

    /// Asks the webhooks that are concerned, on what a rehearsal gives, and then writes.
    async fn write(
        &self,
        operation: Operation,
        name: Option<&str>,
        options: &WriteOptions,
        try_it: &(dyn Fn(&WriteOptions) -> Result<Written, ApiError> + Sync),
    ) -> Result<Response, ApiError> {
        let (api, resource) = (&self.context.api, &self.route.resource);
        let old = name.and_then(|name| api.get(resource, self.route.namespace(), name).ok());
        let operation = if old.is_none() { Operation::Create } else { operation };
        let webhooks = match self.part {
            Part::Main => webhooks::concerned(api, resource, operation),
            Part::Status => Vec::new(),
        };
        let mut warnings = Vec::new();
        if !webhooks.is_empty() {
            let rehearsed = try_it(&WriteOptions { dry_run: true, ..options.clone() })?;
            let typed =
                |object: &crate::object::Object| object.typed(&resource.api_version(), &resource.kind);
            let attempt = Attempt {
                resource,
                operation,
                object: Some(typed(&rehearsed.object)),
                old: old.map(|old| typed(&old)),
                dry_run: options.dry_run,
            };
            warnings = webhooks::admit(&webhooks, &attempt).await?;
        }
        let mut written = try_it(options)?;
        written.warnings.extend(warnings);
        Ok(self.written(&written))
    }

    fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        let given = if self.bytes.is_empty() {
            json!({})
        } else {
            body::object(self.content_type, &self.bytes, "DeleteOptions")?
        };
        let mut options = DeleteOptions::from_json(&given);
        if let Some(seconds) = self.query.number("gracePeriodSeconds")? {
            options.grace_seconds = i64::try_from(seconds).ok();
        }
        options.dry_run |= self.query.get("dryRun") == "All";
        Ok(options)
    }

    async fn delete(&self, name: &str) -> Result<Response, ApiError> {
        refuse_unless(self.route, "delete")?;
        let resource = &self.route.resource;
        let webhooks = webhooks::concerned(&self.context.api, resource, Operation::Delete);
        if !webhooks.is_empty() {
            let old = self.context.api.get(resource, self.route.namespace(), name)?;
            let old = Some(old.typed(&resource.api_version(), &resource.kind));
            let attempt =
                Attempt { resource, operation: Operation::Delete, object: None, old, dry_run: false };
            webhooks::admit(&webhooks, &attempt).await?;
        }
        let deleted =
            self.context.api.delete(resource, self.route.namespace(), name, &self.delete_options()?)?;
        if !deleted.is_gone || matches!(resource.plural.as_str(), "pods" | "namespaces" | "services") {
            return Ok(bytes_response(
                StatusCode::OK,
                table::one(resource, &deleted.object, self.shape, true),
            ));
        }
        Ok(json_response(StatusCode::OK, &self.success(&deleted)))
    }

    fn success(&self, deleted: &Deleted) -> Value {
        let resource = &self.route.resource;
        let uid = crate::object::meta_str(deleted.object.value(), "uid");
        let mut details = json!({"name": deleted.object.key.name, "kind": resource.plural, "uid": uid});
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }

    fn delete_collection(&self) -> Result<Response, ApiError> {
        refuse_unless(self.route, "deletecollection")?;
        let resource = &self.route.resource;
        let options = self.query.list_options(self.route)?;
        let listing = self.context.api.delete_collection(resource, &options, &self.delete_options()?)?;
        let bytes = table::list(resource, &listing.objects, listing.metadata(), self.shape);
        Ok(bytes_response(StatusCode::OK, bytes))
    }

    fn written(&self, written: &Written) -> Response {
        let code = if written.is_created { StatusCode::CREATED } else { StatusCode::OK };
        let bytes = table::one(&self.route.resource, &written.object, self.shape, true);
        let mut response = bytes_response(code, bytes);
        body::warn(&mut response, &written.warnings);
        response
    }
}

/// `binding` and `eviction`.
async fn pod_subresource(
    context: &Context,
    request: Request,
    route: &Route,
    subresource: &str,
) -> Result<Response, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let content_type = header_text(&request, &header::CONTENT_TYPE).to_owned();
    let bytes = body::read(request.into_body()).await?;
    let value = body::object(&content_type, &bytes, "Binding")?;
    let name = route.name.as_deref().unwrap_or("");
    match subresource {
        "binding" => {
            let node = value.pointer("/target/name").and_then(Value::as_str).unwrap_or("");
            if node.is_empty() {
                let cause = crate::status::Cause::required("target.name", "");
                return Err(ApiError::invalid("", "Binding", name, vec![cause]));
            }
            context.api.bind(route.namespace(), name, node)?;
        }
        _ => {
            let given = value.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
            let options = DeleteOptions::from_json(&given);
            context.api.delete(&route.resource, route.namespace(), name, &options)?;
        }
    }
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(json_response(StatusCode::CREATED, &status))
}

/// The first shape in `Accept` that is served; JSON if there is none.
fn shape(accept: &str, query: &Query) -> Shape {
    for entry in accept.split(',') {
        let mut parameters = entry.split(';').map(str::trim);
        let media = parameters.next().unwrap_or("");
        if !matches!(media, "application/json" | "application/*" | "*/*") {
            continue;
        }
        let parameters: Vec<&str> = parameters.collect();
        let kind = parameters.iter().find_map(|p| p.strip_prefix("as="));
        let is_v1 = parameters.iter().all(|p| !p.starts_with("v=") || *p == "v=v1");
        return match kind {
            Some("Table") if is_v1 => Shape::Table(match query.get("includeObject") {
                "Object" => RowObject::Object,
                "None" => RowObject::None,
                _ => RowObject::Metadata,
            }),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if is_v1 => Shape::Metadata,
            Some(_) => continue,
            None => Shape::Full,
        };
    }
    Shape::Full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_served_shape_of_accept_wins() {
        let none = Query::default();
        for (accept, expected) in [
            ("", Shape::Full),
            ("application/json", Shape::Full),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Shape::Table(RowObject::Metadata),
            ),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Shape::Full),
            ("application/vnd.kubernetes.protobuf,application/json", Shape::Full),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Shape::Metadata),
        ] {
            assert_eq!(shape(accept, &none), expected, "{accept}");
        }
        assert_eq!(
            shape("application/json;as=Table;v=v1;g=meta.k8s.io", &Query::parse("includeObject=Object")),
            Shape::Table(RowObject::Object)
        );
    }
}
