//! The part of JSONPath that printer columns use: members, indexes, `[*]`, filters with one comparison.

use serde_json::Value;

/// All values that the path finds, in order. A path that cannot be read finds nothing.
pub(crate) fn find<'a>(root: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = parse(path) else { return Vec::new() };
    steps.iter().fold(vec![root], |found, step| found.into_iter().flat_map(|v| step.apply(v)).collect())
}

/// Whether the path can be read.
pub(crate) fn is_valid(path: &str) -> bool {
    parse(path).is_some()
}

#[derive(Debug, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    All,
    Filter { path: Vec<Step>, equal: bool, value: Value },
    Has(Vec<Step>),
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Member(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let Some(list) = value.as_array() else { return Vec::new() };
                let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                let at = if *index < 0 { length + index } else { *index };
                usize::try_from(at).ok().and_then(|i| list.get(i)).into_iter().collect()
            }
            Self::All => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Filter { path, equal, value: wanted } => Self::All
                .apply(value)
                .into_iter()
                .filter(|v| (follow(v, path) == Some(wanted)) == *equal)
                .collect(),
            Self::Has(path) => {
                Self::All.apply(value).into_iter().filter(|v| follow(v, path).is_some()).collect()
            }
        }
    }
}

fn follow<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, step| step.apply(v).into_iter().next())
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim();
    rest = rest.strip_prefix('{').and_then(|r| r.strip_suffix('}')).unwrap_or(rest);
    rest = rest.strip_prefix('$').unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let (name, tail) = member(after);
            if name == "*" {
                steps.push(Step::All);
            } else if !name.is_empty() {
                steps.push(Step::Member(name));
            } else if !tail.starts_with('[') && !tail.is_empty() {
                return None;
            }
            rest = tail;
        } else if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            steps.push(bracket(after[..end].trim())?);
            rest = &after[end + 1..];
        } else {
            return None;
        }
    }
    Some(steps)
}

/// A member name; `\` takes the next character as it is.
fn member(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket ends, quotes respected.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(inner) {
        return Some(Step::Member(name.to_owned()));
    }
    if let Some(condition) = inner.strip_prefix("?(").and_then(|i| i.strip_suffix(')')) {
        let (path, equal, value) = match (condition.split_once("=="), condition.split_once("!=")) {
            (Some((p, v)), _) => (p, true, v),
            (None, Some((p, v))) => (p, false, v),
            (None, None) => return Some(Step::Has(parse(condition.trim().strip_prefix('@')?)?)),
        };
        let value = value.trim();
        let value = match unquote(value) {
            Some(text) => Value::String(text.to_owned()),
            None => serde_json::from_str(value).ok()?,
        };
        return Some(Step::Filter { path: parse(path.trim().strip_prefix('@')?)?, equal, value });
    }
    inner.parse().ok().map(Step::Index)
}

fn unquote(text: &str) -> Option<&str> {
    let inner = |q| text.strip_prefix(q).and_then(|t: &str| t.strip_suffix(q));
    inner('\'').or_else(|| inner('"'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_printer_columns_are_found() {
        let object = json!({
            "spec": {"cidr": "10.0.0.0/8", "list": [{"n": 1}, {"n": 2}]},
            "metadata": {"annotations": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        for (path, expected) in [
            (".spec.cidr", vec![json!("10.0.0.0/8")]),
            ("{.spec.cidr}", vec![json!("10.0.0.0/8")]),
            (".spec.list[*].n", vec![json!(1), json!(2)]),
            (".spec.list[-1].n", vec![json!(2)]),
            (".status.conditions[?(@.type==\"Ready\")].status", vec![json!("True")]),
            (".status.conditions[?(@.type != 'Ready')].status", vec![json!("False")]),
            (".metadata.annotations.a\\.b/c", vec![json!("x")]),
            (".metadata.annotations['a.b/c']", vec![json!("x")]),
            (".spec.none.deeper", vec![]),
        ] {
            assert!(is_valid(path), "{path}");
            assert_eq!(find(&object, path).into_iter().cloned().collect::<Vec<_>>(), expected, "{path}");
        }
        assert!(!is_valid(".spec[?(x)]"));
        assert!(!is_valid("spec"));
    }
}
