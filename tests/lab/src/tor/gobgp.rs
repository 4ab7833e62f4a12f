//! GoBGP 3 as top-of-rack router. It keeps no kernel routes of its own: `gobgp_routes` carries them over.

use std::fmt::Write;

use super::{RESTART_SECONDS, TorContext, find_program};
use crate::agents::AgentSpec;
use crate::names::{NODE_AS, TOR_AS, WORLD_V4, WORLD_V6, gateway_v4};

/// GoBGP's own API, inside the router namespace.
pub(super) const API: &str = "127.0.0.1:50051";

pub(super) fn prepare(context: &TorContext<'_>) -> anyhow::Result<Vec<AgentSpec>> {
    let program = find_program("gobgpd", &["/usr/bin/gobgpd"], "gobgpd").map_err(anyhow::Error::msg)?;
    let config = context.write("gobgpd.toml", &config(context))?;
    let command = vec![
        program.display().to_string(),
        "-f".to_owned(),
        config.display().to_string(),
        format!("--api-hosts={API}"),
        "--log-plain".to_owned(),
        "--pprof-disable".to_owned(),
    ];
    Ok(vec![context.spec("gobgpd", command)])
}

/// The networks that the router itself announces, with the option that selects the family.
pub(super) fn worlds() -> [(&'static str, &'static str); 2] {
    [(WORLD_V4.0, "ipv4"), (WORLD_V6.0, "ipv6")]
}

fn config(context: &TorContext<'_>) -> String {
    let mut text =
        format!("[global.config]\n  as = {TOR_AS}\n  router-id = \"{}\"\n  port = 179\n", gateway_v4(0));
    let mut families = Vec::new();
    if context.family.has_v4() {
        families.push(("ipv4-unicast", "172.20.0.0/16"));
    }
    if context.family.has_v6() {
        families.push(("ipv6-unicast", "fd00:20::/32"));
    }
    for (family, nodes) in families {
        write!(
            text,
            "\n[[peer-groups]]\n  [peer-groups.config]\n    peer-group-name = \"nodes-{family}\"\n    \
             peer-as = {NODE_AS}\n  [peer-groups.timers.config]\n    hold-time = 90\n    keepalive-interval = 30\n    \
             connect-retry = 5\n    idle-hold-time-after-reset = 1\n  [peer-groups.graceful-restart.config]\n    \
             enabled = true\n    restart-time = {RESTART_SECONDS}\n  [[peer-groups.afi-safis]]\n    \
             [peer-groups.afi-safis.config]\n      afi-safi-name = \"{family}\"\n    \
             [peer-groups.afi-safis.mp-graceful-restart.config]\n      enabled = true\n\n\
             [[dynamic-neighbors]]\n  [dynamic-neighbors.config]\n    prefix = \"{nodes}\"\n    \
             peer-group = \"nodes-{family}\"\n"
        )
        .ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::test_context;
    use super::*;
    use crate::names::Family;

    #[test]
    fn each_family_has_a_group_of_its_own() {
        let lab = "lab".parse().unwrap();
        let text = config(&test_context(&lab, Family::Dual));
        assert!(
            text.contains("prefix = \"172.20.0.0/16\"\n    peer-group = \"nodes-ipv4-unicast\""),
            "{text}"
        );
        assert!(
            text.contains("prefix = \"fd00:20::/32\"\n    peer-group = \"nodes-ipv6-unicast\""),
            "{text}"
        );
    }
}
