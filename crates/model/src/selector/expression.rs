//! The tree of a selector: evaluation and canonical text.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::LabelLookup;

pub(super) type Values = BTreeSet<Arc<str>>;

/// Conjunctions and disjunctions are wide, so that only parentheses make the tree deep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    All,
    Global,
    Has(Arc<str>),
    Equals(Arc<str>, Arc<str>),
    NotEquals(Arc<str>, Arc<str>),
    In(Arc<str>, Values),
    NotIn(Arc<str>, Values),
    Contains(Arc<str>, Arc<str>),
    StartsWith(Arc<str>, Arc<str>),
    EndsWith(Arc<str>, Arc<str>),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

impl Expression {
    pub(super) fn matches(&self, labels: &(impl LabelLookup + ?Sized)) -> bool {
        let is = |key: &str, test: &dyn Fn(&str) -> bool| labels.value(key).is_some_and(test);
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.value(key).is_some(),
            Self::Equals(key, value) => is(key, &|present| present == &**value),
            Self::NotEquals(key, value) => !is(key, &|present| present == &**value),
            Self::In(key, values) => is(key, &|present| values.contains(present)),
            Self::NotIn(key, values) => !is(key, &|present| values.contains(present)),
            Self::Contains(key, part) => is(key, &|present| present.contains(&**part)),
            Self::StartsWith(key, part) => is(key, &|present| present.starts_with(&**part)),
            Self::EndsWith(key, part) => is(key, &|present| present.ends_with(&**part)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(terms) => terms.iter().all(|term| term.matches(labels)),
            Self::Or(terms) => terms.iter().any(|term| term.matches(labels)),
        }
    }

    pub(super) fn prefixed(&self, prefix: &str, everything: &Expression) -> Expression {
        let key = |key: &str| -> Arc<str> { format!("{prefix}{key}").into() };
        let all = |terms: &[Expression]| terms.iter().map(|term| term.prefixed(prefix, everything)).collect();
        match self {
            Self::All => everything.clone(),
            Self::Global => Self::Global,
            Self::Has(k) => Self::Has(key(k)),
            Self::Equals(k, value) => Self::Equals(key(k), value.clone()),
            Self::NotEquals(k, value) => Self::NotEquals(key(k), value.clone()),
            Self::In(k, values) => Self::In(key(k), values.clone()),
            Self::NotIn(k, values) => Self::NotIn(key(k), values.clone()),
            Self::Contains(k, part) => Self::Contains(key(k), part.clone()),
            Self::StartsWith(k, part) => Self::StartsWith(key(k), part.clone()),
            Self::EndsWith(k, part) => Self::EndsWith(key(k), part.clone()),
            Self::Not(inner) => Self::Not(Box::new(inner.prefixed(prefix, everything))),
            Self::And(terms) => Self::And(all(terms)),
            Self::Or(terms) => Self::Or(all(terms)),
        }
    }

    pub(super) fn mentions_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::Not(inner) => inner.mentions_global(),
            Self::And(terms) | Self::Or(terms) => terms.iter().any(Self::mentions_global),
            _ => false,
        }
    }

    pub(super) fn collect_keys(&self, keys: &mut Vec<Arc<str>>) {
        match self {
            Self::All | Self::Global => {}
            Self::Has(key)
            | Self::Equals(key, _)
            | Self::NotEquals(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _) => keys.push(key.clone()),
            Self::Not(inner) => inner.collect_keys(keys),
            Self::And(terms) | Self::Or(terms) => terms.iter().for_each(|term| term.collect_keys(keys)),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEquals(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => write!(f, "{key} in {}", Set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Set(values)),
            Self::Contains(key, part) => write!(f, "{key} contains {}", Quoted(part)),
            Self::StartsWith(key, part) => write!(f, "{key} starts with {}", Quoted(part)),
            Self::EndsWith(key, part) => write!(f, "{key} ends with {}", Quoted(part)),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(terms) => write_terms(f, terms, " && "),
            Self::Or(terms) => write_terms(f, terms, " || "),
        }
    }
}

fn write_terms(f: &mut fmt::Formatter<'_>, terms: &[Expression], operator: &str) -> fmt::Result {
    f.write_str("(")?;
    for (i, term) in terms.iter().enumerate() {
        f.write_str(if i == 0 { "" } else { operator })?;
        fmt::Display::fmt(term, f)?;
    }
    f.write_str(")")
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a Values);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, value) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, Quoted(value))?;
        }
        f.write_str("}")
    }
}

/// The language has no escapes: a value with both kinds of quotes cannot be written.
pub(super) fn writable(value: &str) -> bool {
    !(value.contains('"') && value.contains('\''))
}

pub(super) fn value_set<'a>(values: impl IntoIterator<Item = &'a str>) -> Values {
    values.into_iter().filter(|value| writable(value)).map(Arc::from).collect()
}
