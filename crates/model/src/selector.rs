//! Calico's selector language: parsing, evaluation, canonical form (`spec/control.md` §2.1).
//!
//! Owns what a selector means. Scoping one to a namespace is the datastore's, which builds it from the parts
//! here.

mod expression;
mod parser;
mod restriction;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha224};

use crate::Labels;
use expression::Expression;
pub use restriction::Restriction;

/// A parsed selector. Equal selectors have equal canonical text; a clone costs a counter.
#[derive(Clone)]
pub struct Selector(Arc<Parsed>);

struct Parsed {
    text: Box<str>,
    expression: Expression,
}

/// Where labels are looked up.
pub trait LabelLookup {
    /// The value of a label; `None` when it is absent.
    fn value(&self, key: &str) -> Option<&str>;
}

impl LabelLookup for Labels {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector {selector:?} at position {position}: {reason}")]
pub struct InvalidSelector {
    pub selector: String,
    /// Byte offset of what could not be understood.
    pub position: usize,
    pub reason: String,
}

impl Selector {
    /// Matches everything.
    pub fn all() -> Self {
        Expression::All.into()
    }

    /// `key == "value"`.
    ///
    /// # Errors
    /// When `key` cannot be the key of a label; the same holds for the other builders. A value that cannot be
    /// written (it contains both kinds of quotes) is the value of no label and therefore matches none.
    pub fn equals(key: &str, value: &str) -> Result<Self, InvalidSelector> {
        let key = parser::check_label(key)?;
        Ok(match expression::writable(value) {
            true => Expression::Equals(key, value.into()).into(),
            false => Expression::In(key, Default::default()).into(),
        })
    }

    /// `key in {values}`.
    pub fn is_in<'a>(key: &str, values: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidSelector> {
        Ok(Expression::In(parser::check_label(key)?, expression::value_set(values)).into())
    }

    /// `key not in {values}`; matches what lacks the label, too.
    pub fn not_in<'a>(key: &str, values: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidSelector> {
        Ok(Expression::NotIn(parser::check_label(key)?, expression::value_set(values)).into())
    }

    /// `has(key)`.
    pub fn has(key: &str) -> Result<Self, InvalidSelector> {
        Ok(Expression::Has(parser::check_label(key)?).into())
    }

    /// Matches what `self` does not.
    pub fn negated(&self) -> Self {
        Expression::Not(Box::new(self.0.expression.clone())).into()
    }

    /// Matches what every one of `parts` matches; of no parts, everything.
    ///
    /// Parts that are `all()` fall away and conjunctions are joined into one, so that it grows in width only.
    pub fn and(parts: impl IntoIterator<Item = Selector>) -> Self {
        let mut terms = Vec::new();
        for part in parts {
            match &part.0.expression {
                Expression::All => {}
                Expression::And(inner) => terms.extend(inner.iter().cloned()),
                other => terms.push(other.clone()),
            }
        }
        match terms.len() {
            0 => Self::all(),
            1 => terms.remove(0).into(),
            _ => Expression::And(terms).into(),
        }
    }

    /// The same question about labels whose keys begin with `prefix` (`pcns.`, `pcsa.`); every `all()` in it
    /// becomes `everything` (`spec/control.md` §2.3).
    pub fn prefixed(&self, prefix: &str, everything: &Selector) -> Self {
        self.0.expression.prefixed(prefix, &everything.0.expression).into()
    }

    /// Is it `all()`?
    pub fn is_all(&self) -> bool {
        self.0.expression == Expression::All
    }

    /// Is it `global()`, which as a namespace selector means what is in no namespace?
    pub fn is_global(&self) -> bool {
        self.0.expression == Expression::Global
    }

    /// Is `global()` said anywhere in it?
    pub fn mentions_global(&self) -> bool {
        self.0.expression.mentions_global()
    }

    /// Does it match an object with these labels?
    pub fn matches(&self, labels: &(impl LabelLookup + ?Sized)) -> bool {
        self.0.expression.matches(labels)
    }

    /// What must hold of single labels for it to match at all, by key: necessary, not sufficient.
    pub fn restrictions(&self) -> BTreeMap<Arc<str>, Restriction> {
        restriction::of(&self.0.expression)
    }

    /// The keys that it asks for, each once, sorted.
    pub fn keys(&self) -> Vec<Arc<str>> {
        let mut keys = Vec::new();
        self.0.expression.collect_keys(&mut keys);
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Calico's ID of the IP set of all that it matches: `s:` and 38 characters.
    pub fn set_id(&self) -> String {
        let hash = Sha224::new().chain_update("s:").chain_update(&*self.0.text).finalize();
        format!("s:{}", URL_SAFE_NO_PAD.encode(hash))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl From<Expression> for Selector {
    fn from(expression: Expression) -> Self {
        Self(Arc::new(Parsed { text: expression.to_string().into(), expression }))
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    /// Takes Calico's grammar; blank text is `all()`. Parentheses nest at most 100 deep.
    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        parser::parse(text).map(Self::from)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.text.cmp(&other.0.text)
    }
}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.0.text)
    }
}

#[cfg(test)]
mod tests;
