//! Selectors over namespaces and service accounts as selectors over endpoints (`spec/control.md` §2.3).

use model::{InvalidSelector, Selector};

use super::super::{Problems, selector};

pub(super) const NAMESPACE: &str = "projectcalico.org/namespace";
pub(super) const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// Endpoints of one namespace.
pub(super) fn own_namespace(namespace: &str) -> Result<Selector, InvalidSelector> {
    Selector::equals(NAMESPACE, namespace)
}

/// The policy's selector over service accounts as one over endpoints.
pub(super) fn service_accounts(problems: &mut Problems, text: Option<&str>) -> Result<Option<Selector>, ()> {
    let field = "spec.serviceAccountSelector";
    let Some(accounts) = selector(problems, field, text)? else { return Ok(None) };
    problems.take(field, with_service_account(&accounts)).map(Some).ok_or(())
}

/// Endpoints whose service account matches.
pub(super) fn with_service_account(accounts: &Selector) -> Result<Selector, InvalidSelector> {
    Ok(accounts.prefixed("pcsa.", &Selector::has(SERVICE_ACCOUNT)?))
}

/// A selector over namespaces as one over endpoints; `global()` is what has no namespace.
pub(super) fn in_namespaces(namespaces: &Selector) -> Result<Selector, InvalidSelector> {
    let everything = Selector::has(NAMESPACE)?;
    if namespaces.is_global() {
        return Ok(everything.negated());
    }
    Ok(namespaces.prefixed("pcns.", &everything))
}
