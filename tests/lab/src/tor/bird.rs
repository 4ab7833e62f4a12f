//! BIRD 2 as top-of-rack router: one dynamic neighbour for all nodes, routes into the router's kernel.

use std::fmt::Write;

use super::{RESTART_SECONDS, TorContext, find_program};
use crate::agents::AgentSpec;
use crate::names::{NODE_AS, TOR_AS, WORLD_V4, WORLD_V6, gateway_v4};

pub(super) fn prepare(context: &TorContext<'_>) -> anyhow::Result<Vec<AgentSpec>> {
    let program = find_program("bird", &["/usr/sbin/bird"], "bird2").map_err(anyhow::Error::msg)?;
    let config = context.write("bird.conf", &config(context))?;
    let command = vec![
        program.display().to_string(),
        "-f".to_owned(),
        "-c".to_owned(),
        config.display().to_string(),
        "-s".to_owned(),
        context.dir.join("bird.ctl").display().to_string(),
    ];
    Ok(vec![context.spec("bird", command)])
}

fn config(context: &TorContext<'_>) -> String {
    let mut text =
        format!("log stderr all;\nrouter id {};\nprotocol device {{ scan time 5; }}\n", gateway_v4(0));
    let mut families = Vec::new();
    if context.family.has_v4() {
        families.push(("ipv4", "172.20.0.0/16", WORLD_V4.0, "4"));
    }
    if context.family.has_v6() {
        families.push(("ipv6", "fd00:20::/32", WORLD_V6.0, "6"));
    }
    for (family, nodes, world, suffix) in families {
        write!(
            text,
            "protocol kernel kernel{suffix} {{\n  persist;\n  graceful restart on;\n  \
             {family} {{ import none; export where source = RTS_BGP; }};\n}}\n\
             protocol static world{suffix} {{\n  {family};\n  route {world} blackhole;\n}}\n\
             protocol bgp nodes{suffix} {{\n  local as {TOR_AS};\n  neighbor range {nodes} as {NODE_AS};\n  \
             dynamic name \"node{suffix}_\";\n  passive;\n  hold time 90;\n  graceful restart on;\n  \
             graceful restart time {RESTART_SECONDS};\n  connect delay time 1;\n  error wait time 1, 5;\n  \
             {family} {{ import all; export all; next hop self; }};\n}}\n"
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
    fn every_family_has_its_dynamic_neighbour() {
        let lab = "lab".parse().unwrap();
        let v4 = config(&test_context(&lab, Family::V4));
        assert!(v4.contains("neighbor range 172.20.0.0/16 as 64512;") && !v4.contains("ipv6"), "{v4}");
        let both = config(&test_context(&lab, Family::Dual));
        assert!(both.contains("neighbor range fd00:20::/32 as 64512;"), "{both}");
    }
}
