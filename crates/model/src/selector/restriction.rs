//! What a selector demands of single labels, so that an index need not try it on everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::expression::{Expression, Values};

/// What must hold of one label for a selector to match at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restriction {
    Absent,
    Present,
    /// Present with one of these values; with none, nothing matches.
    OneOf(Values),
}

type Restrictions = BTreeMap<Arc<str>, Restriction>;

pub(super) fn of(expression: &Expression) -> Restrictions {
    of_truth(expression, true)
}

/// What must hold for `expression` to be `truth`.
fn of_truth(expression: &Expression, truth: bool) -> Restrictions {
    use Expression as E;
    let one_of = |key: &Arc<str>, values: Values| (key.clone(), Restriction::OneOf(values));
    let restriction = match (expression, truth) {
        (E::Not(inner), _) => return of_truth(inner, !truth),
        (E::And(terms), true) | (E::Or(terms), false) => {
            return terms.iter().map(|term| of_truth(term, truth)).reduce(both).unwrap_or_default();
        }
        (E::Or(terms), true) | (E::And(terms), false) => {
            return terms.iter().map(|term| of_truth(term, truth)).reduce(either).unwrap_or_default();
        }
        (E::Has(key), true) => (key.clone(), Restriction::Present),
        (E::Has(key), false) => (key.clone(), Restriction::Absent),
        (E::Equals(key, value), true) | (E::NotEquals(key, value), false) => {
            one_of(key, [value.clone()].into())
        }
        (E::In(key, values), true) | (E::NotIn(key, values), false) => one_of(key, values.clone()),
        (E::Contains(key, _) | E::StartsWith(key, _) | E::EndsWith(key, _), true) => {
            (key.clone(), Restriction::Present)
        }
        _ => return Restrictions::new(),
    };
    [restriction].into()
}

fn both(mut left: Restrictions, right: Restrictions) -> Restrictions {
    for (key, right) in right {
        let restriction = match (left.remove(&key), right) {
            (None, right) => right,
            (Some(Restriction::Absent), Restriction::Absent) => Restriction::Absent,
            (Some(Restriction::Absent), _) | (Some(_), Restriction::Absent) => {
                Restriction::OneOf(Values::new())
            }
            (Some(Restriction::Present), right) => right,
            (Some(left), Restriction::Present) => left,
            (Some(Restriction::OneOf(left)), Restriction::OneOf(right)) => {
                Restriction::OneOf(left.intersection(&right).cloned().collect())
            }
        };
        left.insert(key, restriction);
    }
    left
}

fn either(mut left: Restrictions, right: Restrictions) -> Restrictions {
    let mut result = Restrictions::new();
    for (key, right) in right {
        let restriction = match (left.remove(&key), right) {
            (None, _) => continue,
            (Some(Restriction::Absent), Restriction::Absent) => Restriction::Absent,
            (Some(Restriction::Absent), _) | (Some(_), Restriction::Absent) => continue,
            (Some(Restriction::OneOf(mut left)), Restriction::OneOf(right)) => {
                left.extend(right);
                Restriction::OneOf(left)
            }
            (Some(_), _) => Restriction::Present,
        };
        result.insert(key, restriction);
    }
    result
}
