//! Label and field selectors as they stand in a query.

use serde_json::{Map, Value};

use crate::status::ApiError;

/// A conjunction of requirements on labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// 400 in the words that the real server uses.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut lexer = Lexer::new(text);
        let mut requirements = Vec::new();
        if lexer.peek().is_none() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parse_requirement(&mut lexer)?);
            match lexer.next() {
                None => return Ok(Self { requirements }),
                Some(",") => {}
                Some(t) => return Err(unparsable(&format!("found '{t}', expected: ',' or 'end of string'"))),
            }
        }
    }

    /// Whether the labels fulfil every requirement; a missing key fulfils `!=` and `notin`.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.requirements
            .iter()
            .all(|r| r.matches(labels.and_then(|l| l.get(&r.key)).and_then(Value::as_str)))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    fn matches(&self, label: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|w| w == v);
        let number = |v: &str| v.parse::<i64>().ok().zip(self.values.first()?.parse::<i64>().ok());
        match self.operator {
            Operator::In => label.is_some_and(listed),
            Operator::NotIn => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => label.and_then(number).is_some_and(|(have, than)| have > than),
            Operator::LessThan => label.and_then(number).is_some_and(|(have, than)| have < than),
        }
    }
}

fn unparsable(why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {why}"))
}

fn parse_requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, ApiError> {
    let mut negated = false;
    if lexer.peek() == Some("!") {
        lexer.next();
        negated = true;
    }
    let key = lexer.next().filter(|t| is_word(t));
    let Some(key) = key.map(str::to_owned) else {
        return Err(unparsable("found '', expected: identifier"));
    };
    if let Some(why) = crate::names::label_key_error(&key) {
        return Err(unparsable(&format!("<nil>: Invalid value: {key:?}: {why}")));
    }
    let simple = |operator, values| Ok(Requirement { key: key.clone(), operator, values });
    if negated {
        return simple(Operator::DoesNotExist, Vec::new());
    }
    match lexer.peek() {
        None | Some(",") => simple(Operator::Exists, Vec::new()),
        Some(operator) => {
            let (operator, many) = match operator {
                "=" | "==" => (Operator::In, false),
                "!=" => (Operator::NotIn, false),
                ">" => (Operator::GreaterThan, false),
                "<" => (Operator::LessThan, false),
                "in" => (Operator::In, true),
                "notin" => (Operator::NotIn, true),
                other => {
                    return Err(unparsable(&format!(
                        "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                    )));
                }
            };
            lexer.next();
            let values = if many { parse_values(lexer)? } else { vec![parse_value(lexer)] };
            for value in &values {
                if let Some(why) = crate::names::label_value_error(value) {
                    return Err(unparsable(&format!("values[0][{key}]: Invalid value: {value:?}: {why}")));
                }
            }
            Ok(Requirement { key, operator, values })
        }
    }
}

fn parse_value(lexer: &mut Lexer<'_>) -> String {
    match lexer.peek() {
        Some(t) if is_word(t) => lexer.next().unwrap_or("").to_owned(),
        _ => String::new(),
    }
}

fn parse_values(lexer: &mut Lexer<'_>) -> Result<Vec<String>, ApiError> {
    match lexer.next() {
        Some("(") => {}
        other => return Err(unparsable(&format!("found '{}' expected: '('", other.unwrap_or("")))),
    }
    let mut values = vec![parse_value(lexer)];
    loop {
        match lexer.next() {
            Some(",") => values.push(parse_value(lexer)),
            Some(")") => return Ok(values),
            other => {
                return Err(unparsable(&format!("found '{}', expected: ',' or ')'", other.unwrap_or(""))));
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    !token.starts_with(['(', ')', ',', '!', '=', '<', '>'])
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.trim() }
    }

    fn peek(&self) -> Option<&'a str> {
        let first = self.rest.chars().next()?;
        let length = match first {
            '(' | ')' | ',' | '<' | '>' => 1,
            '=' if self.rest.starts_with("==") => 2,
            '!' if self.rest.starts_with("!=") => 2,
            '=' | '!' => 1,
            _ => self
                .rest
                .find(|c: char| c.is_whitespace() || "(),!=<>".contains(c))
                .unwrap_or(self.rest.len()),
        };
        Some(&self.rest[..length])
    }

    fn next(&mut self) -> Option<&'a str> {
        let token = self.peek()?;
        self.rest = self.rest[token.len()..].trim_start();
        Some(token)
    }
}

/// A conjunction of `field=value` and `field!=value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses `a=b,c!=d`; `\` escapes a comma, an equals sign or itself in a value. `supported` says which
    /// fields the resource has beyond `metadata.name` and `metadata.namespace`.
    ///
    /// # Errors
    /// 400 for a field that is not supported or a term without an operator.
    pub fn parse(text: &str, supported: &[String]) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            let (field, equal, value) = if let Some((f, v)) = term.split_once("!=") {
                (f, false, v)
            } else if let Some((f, v)) = term.split_once("==") {
                (f, true, v)
            } else if let Some((f, v)) = term.split_once('=') {
                (f, true, v)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let field = field.trim();
            if !matches!(field, "metadata.name" | "metadata.namespace")
                && !supported.iter().any(|s| s == field)
            {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            terms.push((field.to_owned(), equal, unescape(value)));
        }
        Ok(Self { terms })
    }

    /// Whether the fields of an object fulfil every term; an absent field is "".
    pub fn matches(&self, value: &Value) -> bool {
        self.terms.iter().all(|(field, equal, wanted)| {
            let found = field.split('.').try_fold(value, |v, part| v.get(part));
            let text = match found {
                Some(Value::String(s)) => s.clone(),
                Some(Value::Null) | None => String::new(),
                Some(other) => other.to_string(),
            };
            (text == *wanted) == *equal
        })
    }

    /// The name, if the selector asks for one object.
    pub fn name(&self) -> Option<&str> {
        self.terms.iter().find(|(f, equal, _)| *equal && f == "metadata.name").map(|(_, _, v)| v.as_str())
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        match c {
            ',' if !escaped => parts.push(String::new()),
            _ => parts.last_mut().expect("starts with one part").push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    parts.retain(|p| !p.trim().is_empty());
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut escaped = false;
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(c);
            escaped = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(labels.as_object())
    }

    #[test]
    fn every_operator_selects() {
        let labels = json!({"app": "web", "tier": "front", "n": "5"});

        for selector in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=db",
            "app in (db, web)",
            "app notin (db)",
            "!gone",
            "gone!=x",
            "gone notin (x)",
            "app=web,tier in (front),!gone",
            "n>4",
            "n<6",
            " app = web ",
        ] {
            assert!(selects(selector, labels.clone()), "{selector}");
        }
        for selector in
            ["gone", "app=db", "app!=web", "app in (db)", "app notin (web,x)", "!app", "gone=x", "n>5"]
        {
            assert!(!selects(selector, labels.clone()), "{selector}");
        }
    }

    #[test]
    fn errors_say_what_was_found() {
        let error = LabelSelector::parse("a in b").unwrap_err();

        assert_eq!(
            (error.code, error.message.as_str()),
            (400, "unable to parse requirement: found 'b' expected: '('")
        );
        for bad in ["a b", "a in (b", ",a", "a=b,", "=x", "a=b c"] {
            assert_eq!(LabelSelector::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    #[test]
    fn fields_are_compared_as_text_and_only_where_supported() {
        let supported = ["spec.nodeName".to_owned(), "spec.unschedulable".to_owned()];
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "unschedulable": true}});

        for (selector, expected) in [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=n1,metadata.namespace=", true),
            ("spec.unschedulable=true", true),
            ("spec.nodeName=", false),
        ] {
            assert_eq!(
                FieldSelector::parse(selector, &supported).unwrap().matches(&pod),
                expected,
                "{selector}"
            );
        }
        let error = FieldSelector::parse("spec.foo=x", &supported).unwrap_err();
        assert_eq!(error.message, "field label not supported: spec.foo");
    }
}
