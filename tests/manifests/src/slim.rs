//! CRDs small enough for one file: without descriptions, and with parts that repeat written once (YAML anchors).
//! Nothing of what the API server checks is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

/// A part shorter than this is written again.
const WORTH_AN_ANCHOR: usize = 80;
/// What is longer than this is written over several lines, down to [`DEEPEST_BLOCK`].
const LINE: usize = 118;
const DEEPEST_BLOCK: usize = 9;

/// Takes the descriptions out of a definition.
pub fn without_descriptions(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|key, value| key != "description" || !value.is_string());
            members.values_mut().for_each(without_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_descriptions),
        _ => {}
    }
}

/// One document.
pub fn document(value: &Value) -> String {
    let mut repeated = Repeated::default();
    repeated.walk(value);
    let mut writer = Writer { anchors: BTreeMap::new(), repeated: repeated.twice, out: String::new() };
    writer.block(value, 0, 0);
    writer.out
}

/// Which parts are met again when each is walked into once.
#[derive(Default)]
struct Repeated {
    once: BTreeSet<String>,
    twice: BTreeSet<String>,
}

impl Repeated {
    fn walk(&mut self, value: &Value) {
        if let Value::Object(_) = value {
            let text = value.to_string();
            if text.len() >= WORTH_AN_ANCHOR && !self.once.insert(text.clone()) {
                self.twice.insert(text);
                return;
            }
        }
        match value {
            Value::Object(members) => members.values().for_each(|member| self.walk(member)),
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            _ => {}
        }
    }
}

struct Writer {
    /// Names of the parts that have been written, by their JSON.
    anchors: BTreeMap<String, String>,
    repeated: BTreeSet<String>,
    out: String,
}

impl Writer {
    /// Members of a map on lines of their own, at this indentation.
    fn block(&mut self, value: &Value, indent: usize, depth: usize) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    self.indent(indent);
                    self.out.push_str(&scalar(name));
                    self.out.push(':');
                    self.member(member, indent, depth);
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.indent(indent);
                    self.out.push('-');
                    self.member(item, indent, depth);
                }
            }
            other => {
                let text = flow_scalar(other);
                let _ = writeln!(self.out, "{text}");
            }
        }
    }

    fn member(&mut self, value: &Value, indent: usize, depth: usize) {
        let is_long = value.to_string().len() + indent > LINE;
        let is_plain = !self.repeated.contains(&value.to_string());
        if is_long && is_plain && depth < DEEPEST_BLOCK && (value.is_object() || value.is_array()) {
            self.out.push('\n');
            let deeper = if value.is_array() { indent } else { indent + 2 };
            self.block(value, deeper, depth + 1);
        } else {
            self.out.push(' ');
            self.flow(value);
            self.out.push('\n');
        }
    }

    fn flow(&mut self, value: &Value) {
        let text = value.to_string();
        if self.repeated.contains(&text) {
            if let Some(name) = self.anchors.get(&text) {
                let _ = write!(self.out, "*{name}");
                return;
            }
            let name = format!("a{}", self.anchors.len() + 1);
            let _ = write!(self.out, "&{name} ");
            self.anchors.insert(text, name);
        }
        match value {
            Value::Object(members) => {
                self.out.push('{');
                for (i, (name, member)) in members.iter().enumerate() {
                    self.out.push_str(if i == 0 { "" } else { ", " });
                    self.out.push_str(&scalar(name));
                    self.out.push_str(": ");
                    self.flow(member);
                }
                self.out.push('}');
            }
            Value::Array(items) => {
                self.out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.out.push_str(if i == 0 { "" } else { ", " });
                    self.flow(item);
                }
                self.out.push(']');
            }
            other => self.out.push_str(&flow_scalar(other)),
        }
    }

    fn indent(&mut self, indent: usize) {
        self.out.extend(std::iter::repeat_n(' ', indent));
    }
}

fn flow_scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), scalar)
}

/// Text that every YAML reader takes for text; quoted as in JSON where there could be a doubt.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 12] =
        ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "none"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/'))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_reads_as_it_was() {
        let part = json!({"type": "string", "pattern": "^[a-z: {}\"\\\\]*$", "maxLength": 63, "x": "more than eighty characters"});
        let value = json!({
            "kind": "X", "on": true, "list": [1, "1", "yes", ""],
            "first": {"deep": {"a": part, "b": [part, {"c": part}]}}, "second": {"deep": {"a": part, "b": [part, {"c": part}]}},
        });

        let text = document(&value);

        assert_eq!(crate::documents::parse(&text).unwrap(), [value], "{text}");
        assert_eq!(text.matches("eighty").count(), 1, "{text}");
    }

    #[test]
    fn a_field_of_that_name_is_no_description() {
        let mut value = json!({"description": "words", "properties": {"description": {"type": "string", "description": "words"}}});

        without_descriptions(&mut value);

        assert_eq!(value, json!({"properties": {"description": {"type": "string"}}}));
    }
}
