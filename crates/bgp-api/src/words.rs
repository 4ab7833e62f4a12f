//! Words for people. Owns how capabilities and reasons of the decision process read.

use bgp::Reason;
use bgp_packet::{AddPathMode, AfiSafi, Capability, Role};

/// A capability with its values, as one line.
pub(crate) fn capability_text(capability: &Capability) -> String {
    match capability {
        Capability::Multiprotocol(family) => format!("multiprotocol {}", family_text(*family)),
        Capability::RouteRefresh => "route refresh".to_owned(),
        Capability::EnhancedRouteRefresh => "enhanced route refresh".to_owned(),
        Capability::ExtendedMessage => "extended messages".to_owned(),
        Capability::FourOctetAs(asn) => format!("four-octet AS {asn}"),
        Capability::GracefulRestart(gr) => {
            let families = gr.families.iter().map(|(family, kept)| {
                format!("{}{}", family_text(*family), if *kept { " (forwarding kept)" } else { "" })
            });
            let mut text = format!("graceful restart {} s {}", gr.restart_time, list(families));
            if gr.restarting {
                text.push_str(", has restarted");
            }
            if gr.notification {
                text.push_str(", also after a NOTIFICATION");
            }
            text
        }
        Capability::LongLivedGracefulRestart(families) => {
            let families =
                families.iter().map(|(family, _, time)| format!("{} {time} s", family_text(*family)));
            format!("long-lived graceful restart {}", list(families))
        }
        Capability::AddPath(families) => {
            let mode = |mode: &AddPathMode| match mode {
                AddPathMode::Receive => "receive",
                AddPathMode::Send => "send",
                AddPathMode::Both => "both ways",
            };
            let families = families.iter().map(|(family, m)| format!("{} {}", family_text(*family), mode(m)));
            format!("ADD-PATH {}", list(families))
        }
        Capability::ExtendedNextHop(families) => {
            let families = families.iter().map(|(family, afi)| {
                format!("{} over {}", family_text(*family), if *afi == 2 { "IPv6" } else { "another family" })
            });
            format!("extended next hop {}", list(families))
        }
        Capability::Role(role) => format!("role {}", role_text(*role)),
        Capability::Unknown { code, value } => format!("capability {code} ({} octets)", value.len()),
    }
}

fn list(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}

fn role_text(role: Role) -> &'static str {
    match role {
        Role::Provider => "provider",
        Role::RouteServer => "route server",
        Role::RouteServerClient => "route server client",
        Role::Customer => "customer",
        Role::Peer => "peer",
    }
}

fn family_text(family: AfiSafi) -> String {
    match (family.afi, family.safi) {
        (1, 1) => "ipv4-unicast".to_owned(),
        (2, 1) => "ipv6-unicast".to_owned(),
        (afi, safi) => format!("afi {afi} safi {safi}"),
    }
}

/// Why a path is the best one.
pub(crate) fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::OnlyRoute => "only path",
        Reason::LongLivedStale => "the others are stale for long",
        Reason::LocalOrigin => "originated here",
        Reason::LocalPref => "higher LOCAL_PREF",
        Reason::AsPathLength => "shorter AS path",
        Reason::Origin => "lower ORIGIN",
        Reason::Med => "lower MED",
        Reason::External => "external before internal",
        Reason::InteriorCost => "nearer next hop",
        Reason::RouterId => "lower router ID",
        Reason::ClusterList => "shorter cluster list",
        Reason::PeerAddress => "lower peer address",
        Reason::PathId => "lower path identifier",
    }
}

#[cfg(test)]
mod tests {
    use bgp_packet::GracefulRestart;

    use super::*;

    #[test]
    fn capabilities_read_as_one_line() {
        let ipv4 = AfiSafi { afi: 1, safi: 1 };
        let restart = GracefulRestart {
            restarting: true,
            notification: true,
            restart_time: 120,
            families: vec![(ipv4, true)],
        };

        let text = capability_text(&Capability::GracefulRestart(restart));

        let expected = "graceful restart 120 s ipv4-unicast (forwarding kept), has restarted, \
                        also after a NOTIFICATION";
        assert_eq!(text, expected);
        let unknown = Capability::Unknown { code: 73, value: vec![0; 5] };
        assert_eq!(capability_text(&unknown), "capability 73 (5 octets)");
    }
}
