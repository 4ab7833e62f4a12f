//! Who has rules of packets in which engine. Lists only.

use std::io;
use std::process::{Command, Stdio};

use doctor::{RuleFacts, Rules};
use kernel_linux::all_nft_chains;

/// Names of others' chains that are kept.
const MOST_NAMES: usize = 60;
/// Tables that iptables-nft makes.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
/// Chains that are there whether or not anybody uses them.
const BUILT_IN: [&str; 5] = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

pub(super) fn read() -> io::Result<RuleFacts> {
    let mut facts = RuleFacts::default();
    for found in all_nft_chains()? {
        let is_iptables = matches!(found.family, "ip" | "ip6") && IPTABLES.contains(&found.table.as_str());
        if !is_iptables {
            let table = format!("{} {}", found.family, found.table);
            if !facts.tables.contains(&table) {
                facts.tables.push(table);
            }
        } else if is_ours(&found.chain) {
            facts.nft.ours += 1;
        } else if !BUILT_IN.contains(&found.chain.as_str()) {
            facts.nft.others += 1;
            remember(&mut facts.nft, &found.chain);
        }
    }
    facts.legacy = legacy();
    Ok(facts)
}

/// Asking for tables of iptables-legacy would load them: only those that are there are looked at.
fn legacy() -> Rules {
    let mut rules = Rules::default();
    for (names, program) in
        [("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")]
    {
        let tables = std::fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
        if tables.trim().is_empty() {
            continue;
        }
        let output = Command::new(program).stdin(Stdio::null()).stderr(Stdio::null()).output();
        if let Ok(output) = output {
            count(&String::from_utf8_lossy(&output.stdout), &mut rules);
        }
    }
    rules
}

/// Counts what `iptables-save` prints.
fn count(text: &str, rules: &mut Rules) {
    for line in text.lines() {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if is_ours(chain) {
                rules.ours += 1;
            } else if !BUILT_IN.contains(&chain) {
                remember(rules, chain);
            }
        } else if let Some(rule) = line.strip_prefix("-A ")
            && !is_ours(rule)
            && !rule.contains("--comment \"cali:")
        {
            rules.others += 1;
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("cali-")
}

fn remember(rules: &mut Rules, chain: &str) {
    if rules.names.len() < MOST_NAMES && !rules.names.iter().any(|known| known == chain) {
        rules.names.push(chain.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_counted_by_whose_they_are() {
        let text = "*filter\n:INPUT ACCEPT [0:0]\n:cali-INPUT - [0:0]\n:KUBE-X - [0:0]\n\
                    -A INPUT -m comment --comment \"cali:x\" -j cali-INPUT\n-A cali-INPUT -j ACCEPT\n-A KUBE-X -j ACCEPT\nCOMMIT\n";
        let mut rules = Rules::default();

        count(text, &mut rules);

        assert_eq!(rules, Rules { ours: 1, others: 1, names: vec!["KUBE-X".to_owned()] });
    }
}
