//! FRR 8 as top-of-rack router: zebra for the kernel, bgpd with a listen range, each with own files.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{RESTART_SECONDS, TorContext, find_program};
use crate::agents::AgentSpec;
use crate::names::{NODE_AS, TOR_AS, WORLD_V4, WORLD_V6, gateway_v4};

/// Where Debian puts FRR's programs.
const HOME: &str = "/usr/lib/frr";

pub(super) fn find(program: &str) -> Result<PathBuf, String> {
    find_program(program, &[&format!("{HOME}/{program}")], "frr")
}

pub(super) fn prepare(context: &TorContext<'_>) -> anyhow::Result<Vec<AgentSpec>> {
    let zebra_conf = context
        .write("zebra.conf", &format!("hostname tor\nlog stdout informational\n{}", forwarding(context)))?;
    let bgpd_conf = context.write("bgpd.conf", &config(context))?;
    let socket = context.dir.join("zserv.api");
    let common = |program: &str, privileges: &[&str], conf: &PathBuf| -> Result<Vec<String>, String> {
        let mut command = vec![find(program)?.display().to_string()];
        command.extend(privileges.iter().map(|&word| word.to_owned()));
        let pid = context.dir.join(format!("{program}.pid"));
        for (flag, value) in [("-f", conf), ("-i", &pid), ("-z", &socket), ("--vty_socket", &context.dir)] {
            command.extend([flag.to_owned(), value.display().to_string()]);
        }
        command.extend(["-P".to_owned(), "0".to_owned()]);
        Ok(command)
    };
    // zebra insists on a user of the group frrvty, which root is not; bgpd can be told to stay what it is.
    give_to_frr(&context.dir)?;
    let zebra = common("zebra", &["-u", "frr", "-g", "frr"], &zebra_conf).map_err(anyhow::Error::msg)?;
    let bgpd = common("bgpd", &["-S"], &bgpd_conf).map_err(anyhow::Error::msg)?;
    Ok(vec![context.spec("zebra", zebra), context.spec("bgpd", bgpd)])
}

/// Lets FRR's own user write into the directory.
fn give_to_frr(dir: &Path) -> anyhow::Result<()> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let (uid, gid) = ids(&passwd, "frr").context("there is no user frr; on Debian: apt-get install frr")?;
    std::os::unix::fs::chown(dir, Some(uid), Some(gid))
        .with_context(|| format!("give {} to frr", dir.display()))
}

/// A user's and its group's number in the text of /etc/passwd.
fn ids(passwd: &str, user: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn forwarding(context: &TorContext<'_>) -> String {
    let mut text = String::new();
    if context.family.has_v4() {
        text.push_str("ip forwarding\n");
    }
    if context.family.has_v6() {
        text.push_str("ipv6 forwarding\n");
    }
    text
}

fn config(context: &TorContext<'_>) -> String {
    let mut text = format!(
        "hostname tor\nlog stdout informational\nrouter bgp {TOR_AS}\n bgp router-id {}\n \
         no bgp ebgp-requires-policy\n no bgp network import-check\n no bgp default ipv4-unicast\n \
         bgp graceful-restart\n bgp graceful-restart restart-time {RESTART_SECONDS}\n \
         bgp graceful-restart stalepath-time {RESTART_SECONDS}\n bgp graceful-restart preserve-fw-state\n \
         neighbor nodes peer-group\n neighbor nodes remote-as {NODE_AS}\n neighbor nodes passive\n \
         neighbor nodes advertisement-interval 0\n bgp listen limit 1000\n",
        gateway_v4(0)
    );
    let mut families = Vec::new();
    if context.family.has_v4() {
        families.push(("ipv4", "172.20.0.0/16", WORLD_V4.0));
    }
    if context.family.has_v6() {
        families.push(("ipv6", "fd00:20::/32", WORLD_V6.0));
    }
    for (_, nodes, _) in &families {
        writeln!(text, " bgp listen range {nodes} peer-group nodes").ok();
    }
    for (family, _, world) in &families {
        write!(
            text,
            " address-family {family} unicast\n  network {world}\n  neighbor nodes activate\n  \
             neighbor nodes next-hop-self\n exit-address-family\n"
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
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "frrx:x:1:2::/:/bin/sh\nfrr:x:103:106:Frr:/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(ids(passwd, "frr"), Some((103, 106)));
        assert_eq!(ids(passwd, "fr"), None);
    }

    #[test]
    fn the_listen_range_is_the_nodes() {
        let lab = "lab".parse().unwrap();
        let text = config(&test_context(&lab, Family::V4));
        assert!(text.contains(" bgp listen range 172.20.0.0/16 peer-group nodes\n"), "{text}");
        assert!(!text.contains("ipv6"), "{text}");
    }
}
