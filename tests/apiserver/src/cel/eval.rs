//! Expression tree and scope to value.

use std::cmp::Ordering;
use std::net::IpAddr;

use regex::Regex;
use serde_json::{Value, json};

use super::Scope;
use super::parse::Expr;

type Outcome = Result<Value, String>;

/// Evaluates an expression.
pub(super) fn eval(expression: &Expr, scope: &Scope) -> Outcome {
    match expression {
        Expr::Literal(value) => Ok(value.clone()),
        Expr::Variable(name) => {
            let found = scope.variables.iter().rev().find(|(n, _)| n == name);
            found.map(|(_, v)| v.clone()).ok_or_else(|| format!("undeclared reference to '{name}'"))
        }
        Expr::List(items) => items.iter().map(|i| eval(i, scope)).collect(),
        Expr::Map(pairs) => {
            let mut map = serde_json::Map::new();
            for (key, value) in pairs {
                map.insert(text(&eval(key, scope)?)?.to_owned(), eval(value, scope)?);
            }
            Ok(Value::Object(map))
        }
        Expr::Member(of, name) => match eval(of, scope)? {
            Value::Object(mut map) => map.remove(name).ok_or_else(|| format!("no such key: {name}")),
            _ => Err(format!("no such key: {name}")),
        },
        Expr::Index(of, index) => index_of(eval(of, scope)?, &eval(index, scope)?),
        Expr::Has(of, name) => Ok(json!(eval(of, scope)?.get(name).is_some_and(|v| !v.is_null()))),
        Expr::Not(inner) => Ok(json!(!truth(&eval(inner, scope)?)?)),
        Expr::Negate(inner) => arithmetic("-", &json!(0), &eval(inner, scope)?),
        Expr::Choice(condition, yes, no) => {
            if truth(&eval(condition, scope)?)? {
                eval(yes, scope)
            } else {
                eval(no, scope)
            }
        }
        Expr::Binary(sign @ ("&&" | "||"), left, right) => logic(sign, left, right, scope),
        Expr::Binary(sign, left, right) => binary(sign, &eval(left, scope)?, &eval(right, scope)?),
        Expr::Macro(name, list, variable, body) => {
            comprehension(name, &eval(list, scope)?, variable, body, scope)
        }
        Expr::Call(name, arguments) => {
            let values = arguments.iter().map(|a| eval(a, scope)).collect::<Result<Vec<_>, _>>()?;
            call(name, &values)
        }
    }
}

/// `&&` and `||` are commutative also about errors: one side may decide while the other fails.
fn logic(sign: &str, left: &Expr, right: &Expr, scope: &Scope) -> Outcome {
    let deciding = sign == "||";
    let first = eval(left, scope).and_then(|v| truth(&v));
    if first == Ok(deciding) {
        return Ok(json!(deciding));
    }
    let second = eval(right, scope).and_then(|v| truth(&v));
    if second == Ok(deciding) {
        return Ok(json!(deciding));
    }
    first.and(second).map(|v| json!(v))
}

fn binary(sign: &str, left: &Value, right: &Value) -> Outcome {
    match sign {
        "==" => Ok(json!(equal(left, right))),
        "!=" => Ok(json!(!equal(left, right))),
        "in" => match right {
            Value::Array(items) => Ok(json!(items.iter().any(|i| equal(i, left)))),
            Value::Object(map) => Ok(json!(left.as_str().is_some_and(|k| map.contains_key(k)))),
            _ => Err("no such overload: in".into()),
        },
        "<" | "<=" | ">" | ">=" => {
            let order = compare(left, right).ok_or_else(|| format!("no such overload: {sign}"))?;
            Ok(json!(match sign {
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        _ => arithmetic(sign, left, right),
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => compare(left, right) == Some(Ordering::Equal),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => left == right,
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        _ => None,
    }
}

fn arithmetic(sign: &str, left: &Value, right: &Value) -> Outcome {
    let overload = || format!("no such overload: {sign}");
    match (left, right) {
        (Value::String(a), Value::String(b)) if sign == "+" => Ok(json!(format!("{a}{b}"))),
        (Value::Array(a), Value::Array(b)) if sign == "+" => Ok(a.iter().chain(b).cloned().collect()),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => {
                let result = match sign {
                    "+" => a.checked_add(b),
                    "-" => a.checked_sub(b),
                    "*" => a.checked_mul(b),
                    "/" => a.checked_div(b),
                    _ => a.checked_rem(b),
                };
                result.map(|n| json!(n)).ok_or_else(|| "integer overflow or division by zero".into())
            }
            _ => {
                let (a, b) = (a.as_f64().ok_or_else(overload)?, b.as_f64().ok_or_else(overload)?);
                match sign {
                    "+" => Ok(json!(a + b)),
                    "-" => Ok(json!(a - b)),
                    "*" => Ok(json!(a * b)),
                    "/" => Ok(json!(a / b)),
                    _ => Err(overload()),
                }
            }
        },
        _ => Err(overload()),
    }
}

fn index_of(of: Value, index: &Value) -> Outcome {
    match (of, index) {
        (Value::Array(items), Value::Number(n)) => {
            let at = n.as_u64().and_then(|n| usize::try_from(n).ok());
            at.and_then(|i| items.get(i).cloned()).ok_or_else(|| format!("index out of bounds: {n}"))
        }
        (Value::Object(mut map), Value::String(key)) => {
            map.remove(key).ok_or_else(|| format!("no such key: {key}"))
        }
        _ => Err("no such overload: index".into()),
    }
}

fn comprehension(name: &str, list: &Value, variable: &str, body: &[Expr], scope: &Scope) -> Outcome {
    let items: Vec<Value> = match list {
        Value::Array(items) => items.clone(),
        Value::Object(map) => map.keys().map(|k| json!(k)).collect(),
        _ => return Err(format!("no such overload: {name}")),
    };
    let mut inner = scope.clone();
    inner.variables.push((variable.to_owned(), Value::Null));
    let mut with = |expression: &Expr, item: &Value| {
        if let Some(last) = inner.variables.last_mut() {
            last.1 = item.clone();
        }
        eval(expression, &inner)
    };
    let mut chosen = Vec::new();
    let mut failure = None;
    for item in &items {
        match (name, body) {
            ("map", [transform]) => chosen.push(with(transform, item)?),
            ("map", [condition, transform, ..]) => {
                if truth(&with(condition, item)?)? {
                    chosen.push(with(transform, item)?);
                }
            }
            (_, [condition, ..]) => match with(condition, item).and_then(|v| truth(&v)) {
                Ok(true) => chosen.push(item.clone()),
                Ok(false) if name == "all" => return Ok(json!(false)),
                Ok(false) => {}
                Err(why) => failure = Some(why),
            },
            (_, []) => return Err(format!("no such overload: {name}")),
        }
    }
    match (name, failure) {
        ("exists", _) if !chosen.is_empty() => Ok(json!(true)),
        (_, Some(why)) => Err(why),
        ("all", None) => Ok(json!(true)),
        ("exists", None) => Ok(json!(false)),
        ("exists_one", None) => Ok(json!(chosen.len() == 1)),
        (_, None) => Ok(Value::Array(chosen)),
    }
}

fn truth(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "no such overload: not a bool".into())
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "no such overload: not a string".into())
}

fn call(name: &str, values: &[Value]) -> Outcome {
    let first = &values[0];
    let argument = |i: usize| values.get(i).ok_or_else(|| format!("{name} needs more arguments"));
    match name {
        "size" => match first {
            Value::String(s) => Ok(json!(s.chars().count())),
            Value::Array(items) => Ok(json!(items.len())),
            Value::Object(map) => Ok(json!(map.len())),
            _ => Err("no such overload: size".into()),
        },
        "int" | "uint" => match first {
            Value::String(s) => s.parse::<i64>().map(|n| json!(n)).map_err(|e| e.to_string()),
            Value::Number(n) => {
                let whole = n.as_i64().or_else(|| n.as_f64().map(|f| f as i64));
                whole.map(|n| json!(n)).ok_or_else(|| "integer overflow".into())
            }
            _ => Err("no such overload: int".into()),
        },
        "double" => match first {
            Value::String(s) => s.parse::<f64>().map(|n| json!(n)).map_err(|e| e.to_string()),
            other => other.as_f64().map(|n| json!(n)).ok_or_else(|| "no such overload: double".into()),
        },
        "string" => Ok(json!(first.as_str().map_or_else(|| first.to_string(), str::to_owned))),
        "bool" => text(first)?.parse::<bool>().map(|b| json!(b)).map_err(|e| e.to_string()),
        "type" => Ok(json!(type_name(first))),
        "isIP" => Ok(json!(text(first)?.parse::<IpAddr>().is_ok())),
        "isCIDR" => {
            let cidr = text(first)?;
            Ok(json!(cidr.contains('/') && cidr.parse::<ipnetwork::IpNetwork>().is_ok()))
        }
        "join" | "isSorted" | "sum" | "min" | "max" => list_call(name, values),
        "contains" => Ok(json!(text(first)?.contains(text(argument(1)?)?))),
        "startsWith" => Ok(json!(text(first)?.starts_with(text(argument(1)?)?))),
        "endsWith" => Ok(json!(text(first)?.ends_with(text(argument(1)?)?))),
        "matches" => Ok(json!(pattern(argument(1)?)?.is_match(text(first)?))),
        "find" => Ok(json!(pattern(argument(1)?)?.find(text(first)?).map_or("", |m| m.as_str()))),
        "split" => Ok(text(first)?.split(text(argument(1)?)?).map(|p| json!(p)).collect()),
        "lowerAscii" => Ok(json!(text(first)?.to_ascii_lowercase())),
        "upperAscii" => Ok(json!(text(first)?.to_ascii_uppercase())),
        "trim" => Ok(json!(text(first)?.trim())),
        "replace" => Ok(json!(text(first)?.replace(text(argument(1)?)?, text(argument(2)?)?))),
        "indexOf" => {
            let (haystack, needle) = (text(first)?, text(argument(1)?)?);
            let at = haystack.find(needle).map(|at| haystack[..at].chars().count());
            Ok(at.map_or(json!(-1), |at| json!(at)))
        }
        "charAt" => {
            let at = argument(1)?.as_u64().and_then(|n| usize::try_from(n).ok());
            let found = at.and_then(|at| text(first).ok()?.chars().nth(at));
            Ok(json!(found.map_or_else(String::new, String::from)))
        }
        "substring" => substring(text(first)?, argument(1)?, values.get(2)),
        other => Err(format!("function {other} is not known")),
    }
}

fn pattern(value: &Value) -> Result<Regex, String> {
    Regex::new(text(value)?).map_err(|e| e.to_string())
}

fn substring(source: &str, from: &Value, to: Option<&Value>) -> Outcome {
    let length = source.chars().count();
    let position = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= length);
    let from = position(from).ok_or("index out of range")?;
    let to = to.map_or(Some(length), position).ok_or("index out of range")?;
    Ok(json!(source.chars().skip(from).take(to.saturating_sub(from)).collect::<String>()))
}

fn list_call(name: &str, values: &[Value]) -> Outcome {
    let items = values[0].as_array().ok_or_else(|| format!("no such overload: {name}"))?;
    match name {
        "join" => {
            let separator = values.get(1).and_then(Value::as_str).unwrap_or("");
            let texts = items.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            Ok(json!(texts.join(separator)))
        }
        "isSorted" => Ok(json!(items.windows(2).all(|w| compare(&w[0], &w[1]).is_some_and(Ordering::is_le)))),
        "sum" => items.iter().try_fold(json!(0), |sum, item| arithmetic("+", &sum, item)),
        _ => {
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let best = items
                .iter()
                .reduce(|best, item| if compare(item, best) == Some(wanted) { item } else { best });
            best.cloned().ok_or_else(|| format!("{name} called on an empty list"))
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null_type",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "double",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}
