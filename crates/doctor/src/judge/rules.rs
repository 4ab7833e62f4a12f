//! Rules of packets: two engines at a time, and who else writes.

use crate::Severity::{Error, Warning};
use crate::{Facts, Finding};

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    let Some(rules) = &facts.rules else { return };
    let (legacy, nft) = (&rules.legacy, &rules.nft);
    let own_table = rules.tables.iter().any(|table| table == "ip calico");
    if legacy.ours > 0 && (nft.ours > 0 || own_table) {
        let evidence = format!(
            "{} chains in iptables-legacy, {} in iptables-nft, nftables table: {own_table}",
            legacy.ours, nft.ours
        );
        let what =
            "our chains are in two engines at a time: packets meet both, and the older ones say what was";
        found.push(Finding::new(Error, "mixed-backend", what, evidence, empty_legacy("cali-")));
    } else if legacy.others > 0 && (nft.ours > 0 || own_table) {
        found.push(mixed(&legacy.names, legacy.others, "iptables-legacy", "nftables", &empty_legacy("")));
    } else if legacy.ours > 0 && nft.others > 0 {
        let mend = "kubectl patch felixconfiguration default --type merge -p '{\"spec\":{\"iptablesBackend\":\"NFT\"}}'";
        found.push(mixed(&nft.names, nft.others, "iptables-nft", "iptables-legacy", mend));
    }
}

fn mixed(names: &[String], count: usize, theirs: &str, ours: &str, mend: &str) -> Finding {
    let what = format!(
        "others have rules in {theirs}, and ours are in {ours}: a packet must pass both, and neither shows the other's"
    );
    let evidence = format!("{count} rules in {theirs}: {}", names.join(", "));
    Finding::new(Warning, "mixed-backend", what, evidence, mend)
}

/// Saves what is there and empties iptables-legacy; with a prefix only chains that begin so are named in the comment.
fn empty_legacy(prefix: &str) -> String {
    let look = if prefix.is_empty() { String::new() } else { format!(" # look for {prefix} first") };
    format!(
        "iptables-legacy-save > /tmp/iptables-legacy.saved; for t in $(cat /proc/net/ip_tables_names); do \
         iptables-legacy -t $t -F; iptables-legacy -t $t -X; done{look}"
    )
}
