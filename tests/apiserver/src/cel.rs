//! Validation rules of CRDs (`x-kubernetes-validations`) in the part of CEL that they use: the operators, `has`,
//! `size`, conversions, the text functions, and the macros `all`, `exists`, `exists_one`, `filter`, `map`.
//! A rule outside that part is not enforced; [`unsupported`] names it, so that the creator of the CRD is told.

mod eval;
mod parse;

use serde_json::Value;

use self::parse::Expr;

/// One rule, ready to be applied.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    expression: Expr,
    source: String,
    message: Option<String>,
    message_expression: Option<Expr>,
    field_path: Option<String>,
    optional_old: bool,
}

/// What a rule can see.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    variables: Vec<(String, Value)>,
}

impl Scope {
    /// The value under validation and what it replaces.
    pub(crate) fn new(value: &Value, old: Option<&Value>) -> Self {
        let mut variables = vec![("self".to_owned(), value.clone())];
        if let Some(old) = old {
            variables.push(("oldSelf".to_owned(), old.clone()));
        }
        Self { variables }
    }
}

impl Rule {
    /// Reads a rule; `None` if it is outside the part of CEL that is known here.
    pub(crate) fn compile(rule: &Value) -> Option<Self> {
        let text = |field: &str| rule.get(field).and_then(Value::as_str).map(str::to_owned);
        let source = text("rule")?;
        Some(Self {
            expression: parse::parse(&source).ok()?,
            source,
            message: text("message"),
            message_expression: text("messageExpression").and_then(|m| parse::parse(&m).ok()),
            field_path: text("fieldPath"),
            optional_old: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// Whether it compares with the old value, and so does not apply to a creation.
    pub(crate) fn is_transition(&self) -> bool {
        !self.optional_old && self.source.contains("oldSelf")
    }

    /// The field that the rule blames, for a value at `path`.
    pub(crate) fn field_under(&self, path: &str) -> String {
        match &self.field_path {
            Some(below) if path.is_empty() => below.trim_start_matches('.').to_owned(),
            Some(below) => format!("{path}{below}"),
            None if path.is_empty() => "<nil>".to_owned(),
            None => path.to_owned(),
        }
    }

    /// Applies the rule; the error is the message for the client.
    pub(crate) fn holds(&self, scope: &Scope) -> Result<(), String> {
        match eval::eval(&self.expression, scope) {
            Ok(Value::Bool(true)) => Ok(()),
            Ok(_) => Err(self.message_in(scope)),
            Err(why) => Err(format!("rule evaluation error: {why}; rule: {}", self.source)),
        }
    }

    fn message_in(&self, scope: &Scope) -> String {
        let made = self.message_expression.as_ref().and_then(|m| eval::eval(m, scope).ok());
        match (made, &self.message) {
            (Some(Value::String(text)), _) => text,
            (_, Some(text)) => text.clone(),
            _ => format!("failed rule: {}", self.source),
        }
    }
}

/// Rules of a schema that are not enforced, with the reason.
pub(crate) fn unsupported(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match schema {
        Value::Object(map) => {
            for (name, member) in map {
                match (name.as_str(), member) {
                    ("x-kubernetes-validations", Value::Array(rules)) => {
                        for source in rules.iter().filter_map(|r| r.get("rule").and_then(Value::as_str)) {
                            if let Err(why) = parse::parse(source) {
                                found.push(format!("rule {source:?} is not enforced: {why}"));
                            }
                        }
                    }
                    _ => found.extend(unsupported(member)),
                }
            }
        }
        Value::Array(items) => found.extend(items.iter().flat_map(unsupported)),
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(rule: &str, value: Value) -> Result<(), String> {
        Rule::compile(&json!({"rule": rule}))
            .expect(rule)
            .holds(&Scope::new(&value, Some(&json!({"old": 1}))))
    }

    #[test]
    fn rules_as_crds_have_them_are_evaluated() {
        let value = json!({"a": "x.y", "n": 26, "list": ["p", "q"], "flag": false, "cidr": "10.0.0.0/16",
                           "items": [{"k": 1}, {"k": 2}], "m": {"in": 1}});
        for rule in [
            "self.a == 'x.y'",
            "self.n >= 20 && self.n <= 32",
            "!has(self.gone) || self.gone",
            "has(self.a) == true",
            "self.flag || int(self.cidr.split('/')[1]) <= (has(self.n) ? self.n : 3)",
            "!('z' in self.list) || size(self.list) == 1",
            "size(self.list) == 2 && self.list[0] != self.list[1]",
            "self.list.all(x, x.matches('^[a-z]$'))",
            "self.items.exists(i, i.k == 2)",
            "self.items.exists_one(i, i.k > 1)",
            "self.items.map(i, i.k) == [1, 2]",
            "self.items.filter(i, i.k > 1).size() == 1",
            "self.cidr.contains(':') ? false : self.n * 2 - 2 == 50",
            "!self.a.startsWith('y') && self.a.endsWith('.y')",
            "self.a.lowerAscii().upperAscii() == \"X.Y\"",
            "oldSelf.old == 1",
            "'a' + 'b' == 'ab' && -1 < 1 && 7 % 4 == 3 && 1.5 > 1.0",
            "isCIDR(self.cidr) && !isIP(self.cidr)",
            "'in' in self.m",
            "self.m.all(k, k == 'in')",
        ] {
            assert_eq!(holds(rule, value.clone()), Ok(()), "{rule}");
        }
        for rule in ["self.n > 26", "self.a == 1", "self.list.all(x, x == 'p')", "self.flag"] {
            assert!(holds(rule, value.clone()).is_err(), "{rule}");
        }
    }

    #[test]
    fn errors_are_absorbed_only_by_or_and_and() {
        let value = json!({"a": true});

        assert_eq!(holds("self.gone == 1 || self.a", value.clone()), Ok(()));
        assert_eq!(
            holds("self.gone == 1", value).unwrap_err(),
            "rule evaluation error: no such key: gone; rule: self.gone == 1"
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        let schema = json!({"properties": {"a": {"x-kubernetes-validations": [{"rule": "self ~ 1"}, {"rule": "self == 1"}]}}});

        let found = unsupported(&schema);

        assert_eq!(found.len(), 1);
        assert!(found[0].contains("self ~ 1"), "{found:?}");
    }
}
