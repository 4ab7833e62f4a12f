//! What every object goes through before it is stored: shape, unknown fields, defaults, validation.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{Api, FieldValidation};
use crate::crd;
use crate::object::{is_terminating, meta_mut, meta_str, put_meta};
use crate::registry::{Flavour, Resource};
use crate::schema::types;
use crate::status::{ApiError, Cause};
use crate::validate;

/// Addresses of services: 10.96.0.0/12, as kubeadm has it.
const SERVICE_NET: u32 = 0x0a60_0000;
const SERVICE_HOSTS: u32 = 1 << 20;

impl Api {
    /// Checks that a body is an object of `resource` for this URL and brings name and namespace into it.
    pub(super) fn check_identity(
        &self,
        resource: &Resource,
        namespace: &str,
        name: Option<&str>,
        value: &mut Value,
    ) -> Result<(), ApiError> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if kind != resource.kind || api_version != resource.api_version() {
            return Err(self.wrong_type(resource, api_version, kind));
        }
        if let Some(metadata) = value.get("metadata").filter(|m| !m.is_null()) {
            let metadata = metadata.as_object();
            let metadata = metadata.ok_or_else(|| ApiError::bad_request("metadata must be an object"))?;
            if let Some(why) = validate::metadata_shape(metadata) {
                return Err(undecodable(resource, &why));
            }
        }
        if let Some(metadata) = value.get_mut("metadata") {
            remove_nulls(metadata);
        }
        let given = meta_str(value, "namespace");
        if resource.is_namespaced() {
            if !given.is_empty() && given != namespace {
                let why =
                    "the namespace of the provided object does not match the namespace sent on the request";
                return Err(ApiError::bad_request(why));
            }
            put_meta(value, "namespace", Some(json!(namespace)));
        } else {
            meta_mut(value).remove("namespace");
        }
        if let Some(name) = name {
            match meta_str(value, "name") {
                "" => put_meta(value, "name", Some(json!(name))),
                given if given != name => {
                    let why = format!(
                        "the name of the object ({given}) does not match the name on the URL ({name})"
                    );
                    return Err(ApiError::bad_request(why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn wrong_type(&self, resource: &Resource, api_version: &str, kind: &str) -> ApiError {
        if kind.is_empty() || api_version.is_empty() {
            return ApiError::bad_request(format!(
                "Object '{}' is missing in the object of type {}",
                if kind.is_empty() { "Kind" } else { "apiVersion" },
                resource.kind
            ));
        }
        let version = api_version.rsplit('/').next().unwrap_or("");
        ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {}: the endpoint serves {} of {}, the body has {kind} \
             of {api_version}",
            resource.kind,
            resource.kind,
            resource.api_version()
        ))
    }

    /// Drops unknown fields (or refuses them) and fills in defaults. Returns warnings.
    pub(super) fn normalise(
        &self,
        resource: &Resource,
        value: &mut Value,
        old: Option<&Value>,
        validation: FieldValidation,
    ) -> Result<Vec<String>, ApiError> {
        let mut unknown = Vec::new();
        match &resource.flavour {
            Flavour::Custom(custom) => {
                custom.schema.prune(value, &mut unknown);
                custom.schema.fill_defaults(value);
            }
            Flavour::BuiltIn(builtin) => {
                remove_nulls(value);
                if let Some(schema) = types::of(resource) {
                    if let Some(why) = schema.type_error(value) {
                        return Err(undecodable(resource, &why));
                    }
                    schema.prune(value, &mut unknown);
                }
                (builtin.default)(value, old);
                if resource.is("", "services") {
                    self.allocate(value);
                }
            }
        }
        let unknown: Vec<String> = unknown.into_iter().map(|f| format!("unknown field {f:?}")).collect();
        if validation == FieldValidation::Strict && !unknown.is_empty() {
            let api_version = resource.api_version();
            let what = match resource.is_custom() {
                true => String::new(),
                false => format!(
                    "{} in version {:?} cannot be handled as a {}: ",
                    resource.kind, api_version, resource.kind
                ),
            };
            return Err(ApiError::bad_request(format!(
                "{what}strict decoding error: {}",
                unknown.join(", ")
            )));
        }
        let mut warnings = if validation == FieldValidation::Warn { unknown } else { Vec::new() };
        if resource.is(super::CRD_GROUP, super::CRDS) {
            warnings.extend(crd::warnings(value));
        }
        Ok(warnings)
    }

    /// Says everything that is wrong with an object that is about to be stored.
    pub(super) fn check(
        &self,
        resource: &Resource,
        value: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut causes = Vec::new();
        let name = meta_str(value, "name");
        if old.is_none()
            && let Some(why) = resource.name_rule.error(name)
        {
            causes.push(Cause::invalid("metadata.name", &json!(name), why));
        }
        causes.extend(validate::metadata(value));
        match &resource.flavour {
            Flavour::Custom(custom) => causes.extend(custom.schema.validate(value, old)),
            Flavour::BuiltIn(builtin) => causes.extend((builtin.validate)(value, old)),
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&resource.group, &resource.kind, name, causes))
    }

    /// A new object needs a namespace that is there and stays.
    pub(super) fn check_namespace(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        if !resource.is_namespaced() {
            return Ok(());
        }
        let Some(namespaces) = self.resource("v1", "Namespace") else { return Ok(()) };
        let found = self.get(&namespaces, "", namespace)?;
        if is_terminating(found.value()) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut error = ApiError::forbidden(&resource.group, &resource.plural, name, why);
            error.causes.push(Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            });
            return Err(error);
        }
        Ok(())
    }

    /// Gives a service its address and node ports, unless it has or needs none.
    fn allocate(&self, value: &mut Value) {
        let services = self.store.list("/services", None).0;
        let own = (meta_str(value, "namespace").to_owned(), meta_str(value, "name").to_owned());
        let others = || services.iter().filter(|s| (&s.key.namespace, &s.key.name) != (&own.0, &own.1));
        let kind = value["spec"]["type"].as_str().unwrap_or("").to_owned();
        if kind == "ExternalName" {
            return;
        }
        if value["spec"]["clusterIP"].as_str().unwrap_or("").is_empty() {
            let taken: Vec<&str> = others()
                .filter_map(|s| s.value().pointer("/spec/clusterIP").and_then(Value::as_str))
                .collect();
            let free = (10..SERVICE_HOSTS).map(|host| Ipv4Addr::from(SERVICE_NET + host).to_string());
            let free = free.into_iter().find(|ip| !taken.contains(&ip.as_str()));
            value["spec"]["clusterIP"] = json!(free);
        }
        let address = value["spec"]["clusterIP"].clone();
        let family = if address.as_str().is_some_and(|a| a.contains(':')) { "IPv6" } else { "IPv4" };
        for (field, default) in [
            ("clusterIPs", json!([address])),
            ("ipFamilies", json!([family])),
            ("ipFamilyPolicy", json!("SingleStack")),
        ] {
            if value["spec"][field].is_null() {
                value["spec"][field] = default;
            }
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            let ports = |s: &Value| -> Vec<u64> {
                let all = s.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
                all.filter_map(|p| p["nodePort"].as_u64()).collect()
            };
            let mut taken: Vec<u64> = others().flat_map(|s| ports(s.value())).chain(ports(value)).collect();
            for port in value["spec"]["ports"].as_array_mut().into_iter().flatten() {
                if port["nodePort"].as_u64().unwrap_or(0) == 0 {
                    let free = (30_000..32_768).find(|p| !taken.contains(p)).unwrap_or(0);
                    taken.push(free);
                    port["nodePort"] = json!(free);
                }
            }
        }
    }
}

fn undecodable(resource: &Resource, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        resource.kind,
        resource.api_version(),
        resource.kind
    ))
}

/// A null in a built-in object is an absent field.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}
