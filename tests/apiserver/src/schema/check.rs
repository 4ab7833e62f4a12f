//! Validation of a value against a structural schema.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::{Schema, join};
use crate::cel::Scope;
use crate::status::Cause;

impl Schema {
    /// Says everything that is wrong with a whole custom resource. `old` is what it replaces, for transition rules.
    pub(crate) fn validate(&self, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.check_type(value, "", &mut causes);
        if causes.is_empty() {
            self.check(value, "", &mut causes);
        }
        if causes.is_empty() {
            self.check_rules(value, old, "", true, &mut causes);
        }
        causes
    }

    /// The first value that has the wrong type, in words.
    pub(crate) fn type_error(&self, value: &Value) -> Option<String> {
        let mut causes = Vec::new();
        self.check_type(value, "", &mut causes);
        causes.into_iter().next().map(|c| format!("{}: {}", c.field, c.message))
    }

    /// Types first: value validations of a wrongly typed value would only add noise.
    fn check_type(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && (self.nullable || self.kind.is_empty()) {
            return;
        }
        if self.int_or_string {
            if !(value.is_string() || is_integer(value)) {
                causes.push(type_cause(path, "integer,string", value));
            }
            return;
        }
        let fits = match self.kind.as_str() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => is_integer(value),
            "number" => value.is_number(),
            _ => true,
        };
        if !fits {
            causes.push(type_cause(path, &self.kind, value));
            return;
        }
        match value {
            Value::Object(map) => {
                for (name, member) in map {
                    if path.is_empty() && name == "metadata" {
                        continue;
                    }
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        schema.check_type(member, &join(path, name), causes);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (i, item) in items.iter().enumerate() {
                        schema.check_type(item, &format!("{path}[{i}]"), causes);
                    }
                }
            }
            _ => {}
        }
    }

    fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && self.nullable {
            return;
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            let supported: Vec<String> = self
                .allowed
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            causes.push(Cause::unsupported(path, value, &supported));
        }
        match value {
            Value::String(text) => self.check_text(text, value, path, causes),
            Value::Number(_) => self.check_number(value, path, causes),
            Value::Array(items) => self.check_array(items, value, path, causes),
            Value::Object(map) => self.check_object(map, value, path, causes),
            _ => {}
        }
        self.check_combinations(value, path, causes);
    }

    fn check_text(&self, text: &str, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let length = text.chars().count() as u64;
        if let Some(most) = self.max_length.filter(|m| length > *m) {
            let message = format!("Too long: may not be more than {most} bytes");
            causes.push(Cause { reason: "FieldValueTooLong", message, field: path.into() });
        }
        if let Some(least) = self.min_length.filter(|m| length < *m) {
            let why = format!("{path} in body should be at least {least} chars long");
            causes.push(Cause::invalid(path, value, why));
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|p| !p.is_match(text)) {
            let why = format!("{path} in body should match '{}'", pattern.as_str());
            causes.push(Cause::invalid(path, value, why));
        }
        if !fits_format(text, &self.format) {
            let why = format!("{path} in body must be of type {}: {value}", self.format);
            causes.push(Cause::invalid(path, value, why));
        }
    }

    fn check_number(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let number = value.as_f64().unwrap_or(0.0);
        let too_small = |least: f64| number < least || (self.exclusive_minimum && number <= least);
        if let Some(least) = self.minimum.filter(|m| too_small(*m)) {
            let words = if self.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            causes.push(Cause::invalid(path, value, format!("{path} in body should be {words} {least}")));
        }
        let too_large = |most: f64| number > most || (self.exclusive_maximum && number >= most);
        if let Some(most) = self.maximum.filter(|m| too_large(*m)) {
            let words = if self.exclusive_maximum { "less than" } else { "less than or equal to" };
            causes.push(Cause::invalid(path, value, format!("{path} in body should be {words} {most}")));
        }
        if let Some(factor) = self.multiple_of.filter(|f| *f > 0.0 && number % f != 0.0) {
            causes.push(Cause::invalid(
                path,
                value,
                format!("{path} in body should be a multiple of {factor}"),
            ));
        }
        let range = match self.format.as_str() {
            "int32" => i64::from(i32::MIN)..=i64::from(i32::MAX),
            _ => i64::MIN..=i64::MAX,
        };
        if value.as_i64().is_some_and(|n| !range.contains(&n)) {
            causes.push(Cause::invalid(path, value, format!("{path} in body must be of type int32")));
        }
    }

    fn check_array(&self, items: &[Value], value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let count = items.len() as u64;
        if let Some(most) = self.max_items.filter(|m| count > *m) {
            let message = format!("Too many: {count}: must have at most {most} items");
            causes.push(Cause { reason: "FieldValueTooMany", message, field: path.into() });
        }
        if let Some(least) = self.min_items.filter(|m| count < *m) {
            causes.push(Cause::invalid(
                path,
                value,
                format!("{path} in body should have at least {least} items"),
            ));
        }
        let key = |item: &Value| match self.list_type.as_str() {
            "set" => Some(item.clone()),
            "map" => {
                Some(self.list_keys.iter().map(|k| item.get(k).cloned().unwrap_or(Value::Null)).collect())
            }
            _ => None,
        };
        let mut seen = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let here = format!("{path}[{i}]");
            if let Some(key) = key(item) {
                if seen.contains(&key) {
                    let shown =
                        if self.list_type == "map" { keyed(&self.list_keys, &key) } else { key.clone() };
                    causes.push(Cause::duplicate(&here, &shown));
                }
                seen.push(key);
            }
            if let Some(schema) = &self.items {
                schema.check(item, &here, causes);
            }
        }
    }

    fn check_object(
        &self,
        map: &serde_json::Map<String, Value>,
        value: &Value,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        for name in self.required.iter().filter(|n| !map.contains_key(*n)) {
            causes.push(Cause::required(join(path, name), ""));
        }
        let count = map.len() as u64;
        if let Some(most) = self.max_properties.filter(|m| count > *m) {
            let message = format!("Too many: {count}: must have at most {most} items");
            causes.push(Cause { reason: "FieldValueTooMany", message, field: path.into() });
        }
        if let Some(least) = self.min_properties.filter(|m| count < *m) {
            let why = format!("{path} in body should have at least {least} properties");
            causes.push(Cause::invalid(path, value, why));
        }
        for (name, member) in map {
            if path.is_empty() && name == "metadata" {
                continue;
            }
            if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                schema.check(member, &join(path, name), causes);
            }
        }
    }

    fn check_combinations(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let passes = |schema: &Self| {
            let mut found = Vec::new();
            schema.check_type(value, path, &mut found);
            schema.check(value, path, &mut found);
            found.is_empty()
        };
        for schema in &self.all_of {
            schema.check(value, path, causes);
        }
        if !self.any_of.is_empty() && !self.int_or_string && !self.any_of.iter().any(passes) {
            causes.push(Cause::invalid(
                path,
                value,
                format!("{path} in body must validate at least one schema (anyOf)"),
            ));
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(|s| passes(s)).count() != 1 {
            causes.push(Cause::invalid(
                path,
                value,
                format!("{path} in body must validate one and only one schema (oneOf)"),
            ));
        }
        if self.not.as_deref().is_some_and(passes) {
            causes.push(Cause::invalid(
                path,
                value,
                format!("{path} in body must not validate the schema (not)"),
            ));
        }
    }

    fn check_rules(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        is_root: bool,
        causes: &mut Vec<Cause>,
    ) {
        for rule in &self.rules {
            if rule.is_transition() && old.is_none() {
                continue;
            }
            if let Err(message) = rule.holds(&Scope::new(value, old)) {
                let field = rule.field_under(path);
                causes.push(Cause::invalid(field, value, message));
            }
        }
        match value {
            Value::Object(map) => {
                for (name, member) in map.iter().filter(|(name, _)| !is_root || *name != "metadata") {
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        let before = old.and_then(|o| o.get(name));
                        schema.check_rules(member, before, &join(path, name), false, causes);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for (i, item) in items.iter().enumerate() {
                    let before = old.and_then(Value::as_array).and_then(|o| self.correlated(item, o));
                    schema.check_rules(item, before, &format!("{path}[{i}]"), false, causes);
                }
            }
            _ => {}
        }
    }

    /// The old item that a new item replaces; only lists of type `map` have such pairs.
    fn correlated<'a>(&self, item: &Value, old: &'a [Value]) -> Option<&'a Value> {
        if self.list_type != "map" {
            return None;
        }
        old.iter().find(|o| self.list_keys.iter().all(|k| o.get(k) == item.get(k)))
    }
}

fn keyed(keys: &[String], values: &Value) -> Value {
    let pairs = keys.iter().zip(values.as_array().into_iter().flatten());
    pairs.map(|(k, v)| (k.clone(), v.clone())).collect::<serde_json::Map<_, _>>().into()
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
}

fn type_cause(path: &str, expected: &str, value: &Value) -> Cause {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let why = format!("{path} in body must be of type {expected}: \"{found}\"");
    Cause::wrong_type(path, &json!(found), why)
}

fn fits_format(text: &str, format: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.parse::<ipnetwork::IpNetwork>().is_ok() && text.contains('/'),
        "date-time" => crate::clock::parse_time(text).is_some(),
        "date" => text.len() == 10 && crate::clock::parse_time(&format!("{text}T00:00:00Z")).is_some(),
        "uuid" => {
            let groups: Vec<&str> = text.split('-').collect();
            groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])
                && groups.iter().all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(schema: Value, value: Value) -> Vec<(String, &'static str)> {
        let causes = Schema::compile(&schema).validate(&value, None);
        causes.into_iter().map(|c| (c.field, c.reason)).collect()
    }

    #[test]
    fn every_wrong_field_is_named() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {
        "type": "object", "required": ["cidr"], "properties": {
            "cidr": {"type": "string", "format": "cidr"},
            "mode": {"type": "string", "enum": ["Never", "Always"]},
            "n": {"type": "integer", "minimum": 1, "maximum": 9},
            "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
            "list": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "port": {"x-kubernetes-int-or-string": true},
            "maybe": {"type": "string", "nullable": true},
        }}}});
        let good = json!({"spec": {"cidr": "10.0.0.0/8", "mode": "Never", "n": 1, "name": "ab", "list": ["a"], "port": "http", "maybe": null}});
        let bad = json!({"spec": {"mode": "x", "n": 10, "name": "A", "list": ["a", "a", "b"], "port": 80}});

        assert_eq!(fields(schema.clone(), good), []);
        assert_eq!(
            fields(schema.clone(), bad),
            [
                ("spec.cidr".into(), "FieldValueRequired"),
                ("spec.list".into(), "FieldValueTooMany"),
                ("spec.list[1]".into(), "FieldValueDuplicate"),
                ("spec.mode".into(), "FieldValueNotSupported"),
                ("spec.n".into(), "FieldValueInvalid"),
                ("spec.name".into(), "FieldValueInvalid"),
                ("spec.name".into(), "FieldValueInvalid"),
            ]
        );
        assert_eq!(
            fields(schema, json!({"spec": {"cidr": 7}})),
            [("spec.cidr".into(), "FieldValueTypeInvalid")]
        );
    }

    #[test]
    fn immutable_fields_are_held() {
        let schema = Schema::compile(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "cidr": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "cidr is immutable"}]},
            }}}}),
        );
        let of = |cidr: &str| json!({"spec": {"cidr": cidr}});

        assert_eq!(schema.validate(&of("a"), None), []);
        assert_eq!(schema.validate(&of("a"), Some(&of("a"))), []);
        let causes = schema.validate(&of("b"), Some(&of("a")));
        assert_eq!(causes[0].field, "spec.cidr");
        assert_eq!(causes[0].message, "Invalid value: \"b\": cidr is immutable");
    }
}
