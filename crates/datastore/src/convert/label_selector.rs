//! Label selectors of Kubernetes as selectors over endpoints.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use model::{InvalidSelector, Selector};

/// Endpoints of one namespace.
pub(super) fn own_namespace(namespace: &str) -> Result<Selector, InvalidSelector> {
    Selector::equals("projectcalico.org/namespace", namespace)
}

/// Endpoints of the namespaces that these labels select; no labels select every namespace.
pub(super) fn namespaces(labels: &LabelSelector) -> Result<Selector, InvalidSelector> {
    let everything = Selector::has("projectcalico.org/namespace")?;
    let terms = terms(labels)?;
    Ok(match terms.is_empty() {
        true => everything,
        false => Selector::and(terms).prefixed("pcns.", &everything),
    })
}

/// Pods with these labels in these namespaces.
pub(super) fn pods_of(
    namespace: &Result<Selector, InvalidSelector>,
    pods: &LabelSelector,
) -> Result<Selector, InvalidSelector> {
    let mut parts = vec![Selector::equals("projectcalico.org/orchestrator", "k8s")?];
    parts.extend(terms(pods)?);
    parts.push(namespace.clone()?);
    Ok(Selector::and(parts))
}

/// One selector for each label and each expression.
fn terms(labels: &LabelSelector) -> Result<Vec<Selector>, InvalidSelector> {
    let equal = labels.match_labels.iter().flatten().map(|(key, value)| Selector::equals(key, value));
    let expressions = labels.match_expressions.iter().flatten().map(expression);
    equal.chain(expressions).collect()
}

fn expression(requirement: &LabelSelectorRequirement) -> Result<Selector, InvalidSelector> {
    let key = requirement.key.as_str();
    let values = || requirement.values.iter().flatten().map(String::as_str);
    match requirement.operator.as_str() {
        "In" => Selector::is_in(key, values()),
        "NotIn" => Selector::not_in(key, values()),
        "Exists" => Selector::has(key),
        "DoesNotExist" => Ok(Selector::has(key)?.negated()),
        operator => Err(InvalidSelector {
            selector: format!("{key} {operator}"),
            position: key.len() + 1,
            reason: "the operator must be In, NotIn, Exists or DoesNotExist".to_owned(),
        }),
    }
}
