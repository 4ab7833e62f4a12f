//! What capabilities and well-known rules make of a route before policy sees it, and after policy let it out: roles
//! (RFC 9234), graceful shutdown (RFC 8326), policy by default (RFC 8212), long-lived stale routes (RFC 9494).
//! Owns the order of these rules; the rules themselves are in `roles`, `shutdown` and `llgr`.

use bgp_packet::PathAttributes;

use crate::intern::{AttrId, AttributeTable};
use crate::path::{Path, Rejection};
use crate::peer::Peer;
use crate::update_group::GroupKey;
use crate::{Config, Withheld, llgr, roles, shutdown};

/// The attributes that policy is asked about.
///
/// # Errors
/// When no policy may take the route.
pub(crate) fn admit(
    config: &Config,
    peer: &Peer,
    received: AttrId,
    table: &mut AttributeTable,
) -> Result<AttrId, Rejection> {
    let Some(terms) = peer.terms.filter(|t| t.external) else { return Ok(received) };
    if shutdown::lacks_policy(config, true, &peer.config.import) {
        return Err(Rejection::NoPolicy);
    }
    let attributes = table.get(received);
    let marked = attributes.only_to_customer;
    if terms.role.is_some_and(|role| roles::is_leak(role, terms.asn, marked)) {
        return Err(Rejection::RouteLeak);
    }
    let only_to_customer = terms.role.map_or(marked, |role| roles::on_import(role, terms.asn, marked));
    let local_pref = shutdown::on_import(peer, attributes).or(attributes.local_pref);
    if (only_to_customer, local_pref) == (marked, attributes.local_pref) {
        return Ok(received);
    }
    let changed = PathAttributes { only_to_customer, local_pref, ..(**attributes).clone() };
    Ok(table.intern(changed))
}

/// Takes over what the rules change of a route that goes out.
///
/// # Errors
/// When it must not go to these peers.
pub(crate) fn let_out(
    config: &Config,
    key: &GroupKey,
    path: &Path,
    attributes: &mut PathAttributes,
) -> Result<(), Withheld> {
    if let Some(role) = key.role {
        attributes.only_to_customer = roles::on_export(role, key.local_asn, attributes.only_to_customer)
            .map_err(|roles::MustNotGo| Withheld::OnlyToCustomer)?;
    }
    llgr::on_export(key.long_lived, path.long_stale, attributes)?;
    if config.graceful_shutdown || key.graceful_shutdown {
        shutdown::on_export(key.internal, attributes);
    }
    Ok(())
}
