//! Values that people write as a number or as text: ports, protocols and AS numbers.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::text;

/// A port: `80`, `"80:90"` or the name of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortValue(pub String);

/// An AS number: `64512` or `"1.10"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AsNumberValue(pub String);

/// A protocol: `TCP` or `6`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProtocolValue(pub String);

impl JsonSchema for PortValue {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true, "pattern": text::PORT, "minimum": 0, "maximum": 65535,
        })
    }
}

impl JsonSchema for AsNumberValue {
    fn schema_name() -> Cow<'static, str> {
        "AsNumber".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true, "pattern": text::AS_NUMBER, "minimum": 1,
            "maximum": 4294967295u32,
        })
    }
}

impl JsonSchema for ProtocolValue {
    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true, "pattern": text::PROTOCOL, "minimum": 1, "maximum": 255,
        })
    }
}

impl<'de> Deserialize<'de> for PortValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text).map(Self)
    }
}

impl<'de> Deserialize<'de> for AsNumberValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text).map(Self)
    }
}

impl<'de> Deserialize<'de> for ProtocolValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text).map(Self)
    }
}

/// Takes numbers and strings.
struct Text;

impl serde::de::Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}
