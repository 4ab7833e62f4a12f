//! Typed access to JSON objects where every complaint names the key by its whole path.

use serde_json::{Map, Value};

use crate::error::CniError;

/// One object of the configuration and where it stands in it. Keys nobody asks for are ignored.
#[derive(Clone)]
pub(crate) struct Keys<'a> {
    path: String,
    object: Option<&'a Map<String, Value>>,
}

impl<'a> Keys<'a> {
    pub(crate) fn root(object: &'a Map<String, Value>) -> Self {
        Self { path: String::new(), object: Some(object) }
    }

    /// The object under `key`; reads as empty when it is absent or null.
    pub(crate) fn object(&self, key: &str) -> Result<Keys<'a>, CniError> {
        let path = self.path_of(key);
        let object = match self.value(key) {
            None => None,
            Some(Value::Object(object)) => Some(object),
            Some(other) => return Err(unexpected(&path, "an object", other)),
        };
        Ok(Keys { path, object })
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>, CniError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(unexpected(&self.path_of(key), "a string", other)),
        }
    }

    /// A bool, or its name in a string as Calico's configurations write it.
    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, CniError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(other) => Err(unexpected(&self.path_of(key), "true or false", other)),
        }
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, CniError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(unexpected(&self.path_of(key), "a whole number that is not negative", value)),
            },
        }
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Vec<String>, CniError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let wrong = || unexpected(&self.path_of(key), "a list of strings", value);
        let items = value.as_array().ok_or_else(wrong)?;
        items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    }

    /// Anything but null.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.and_then(|object| object.get(key)).filter(|value| !value.is_null())
    }

    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn unexpected(path: &str, expected: &str, found: &Value) -> CniError {
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(60) {
        found.truncate(end);
        found.push('…');
    }
    CniError::config(format!("{path}: expected {expected}, found {found}"))
}
