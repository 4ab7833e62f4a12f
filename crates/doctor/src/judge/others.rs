//! Programs and networks that interfere: firewalld, NetworkManager, other CNIs and what they left.

use crate::Severity::{Error, Info, Warning};
use crate::{Facts, Finding};

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    firewalld(facts, found);
    network_manager(facts, found);
    cni(facts, found);
    links(facts, found);
    chains(facts, found);
}

fn firewalld(facts: &Facts, found: &mut Vec<Finding>) {
    let has_table =
        facts.rules.as_ref().is_some_and(|rules| rules.tables.iter().any(|table| table == "inet firewalld"));
    if has_table || facts.meddlers.contains_key("firewalld") {
        let what = "firewalld filters what the node forwards: pods are cut off whenever it reloads";
        let evidence = if has_table { "table inet firewalld" } else { "process firewalld" };
        found.push(Finding::new(Error, "firewalld", what, evidence, "systemctl disable --now firewalld"));
    }
}

fn network_manager(facts: &Facts, found: &mut Vec<Finding>) {
    if let Some(Some(false)) = facts.meddlers.get("NetworkManager") {
        let what = "NetworkManager takes care of pods' links: it may take routes and addresses away";
        let evidence = "it runs, and nothing in /etc/NetworkManager/conf.d says that cali* is unmanaged";
        let mend = "printf '[keyfile]\\nunmanaged-devices=interface-name:cali*;interface-name:tunl0\\n' > \
                    /etc/NetworkManager/conf.d/ocicat.conf && systemctl reload NetworkManager";
        found.push(Finding::new(Warning, "network-manager", what, evidence, mend));
    }
}

fn cni(facts: &Facts, found: &mut Vec<Finding>) {
    let Some(cni) = &facts.cni else { return };
    let is_ours = |plugins: &[String]| plugins.iter().any(|plugin| plugin == "calico");
    let ours = cni.files.iter().position(|file| is_ours(&file.plugins));
    for (at, file) in cni.files.iter().enumerate().filter(|(_, file)| !is_ours(&file.plugins)) {
        let path = format!("{}/{}", cni.directory, file.name);
        let plugins =
            if file.plugins.is_empty() { "not understood".to_owned() } else { file.plugins.join(", ") };
        let mend = format!("mv {path} {path}.disabled");
        match ours {
            Some(ours) if at > ours => {
                let what = format!("{path} of another network is left over: it takes over should ours go");
                found.push(Finding::new(Warning, "foreign-conflist", what, plugins, mend));
            }
            _ => {
                let what = format!("the runtime takes {path} of another network: new pods are not ours");
                found.push(Finding::new(Error, "foreign-conflist", what, plugins, mend));
            }
        }
    }
    if ours.is_none() {
        let what = format!(
            "{} has no configuration of ours: the runtime does not call us for new pods",
            cni.directory
        );
        let seen = format!("{} files", cni.files.len());
        let mend = "kubectl -n kube-system rollout restart daemonset/calico-node";
        found.push(Finding::new(Error, "no-conflist", what, seen, mend));
    }
}

/// Links by which other networks are known.
const LINKS: [(&str, &str); 8] = [
    ("flannel", "flannel"),
    ("cilium_", "Cilium"),
    ("lxc_health", "Cilium"),
    ("weave", "Weave"),
    ("antrea-", "Antrea"),
    ("kube-bridge", "kube-router"),
    ("ovn-k8s", "OVN-Kubernetes"),
    ("cni0", "the bridge plugin"),
];

fn links(facts: &Facts, found: &mut Vec<Finding>) {
    for link in &facts.links {
        let known = LINKS.iter().find(|(prefix, _)| link.name.starts_with(prefix));
        if let Some((_, network)) = known {
            let what = format!(
                "{} of {network} is there: its routes and ours may contradict one another",
                link.name
            );
            let evidence = format!("link {}, {}", link.name, if link.up { "up" } else { "down" });
            let mend = format!("ip link delete {} # once {network} is removed from the cluster", link.name);
            found.push(Finding::new(Warning, "foreign-link", what, evidence, mend));
        }
    }
}

/// Chains by which other networks' policies are known.
const CHAINS: [(&str, &str); 5] = [
    ("FLANNEL-", "flannel"),
    ("CILIUM_", "Cilium"),
    ("KUBE-ROUTER-", "kube-router"),
    ("WEAVE-", "Weave"),
    ("ANTREA-", "Antrea"),
];

fn chains(facts: &Facts, found: &mut Vec<Finding>) {
    let Some(rules) = &facts.rules else { return };
    for (prefix, network) in CHAINS {
        for (engine, names) in [("legacy", &rules.legacy.names), ("nft", &rules.nft.names)] {
            let left: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| name.starts_with(prefix)).collect();
            let Some(first) = left.first() else { continue };
            let what = format!("chains of {network} are left over and judge packets of pods");
            let tool = if engine == "legacy" { "iptables-legacy" } else { "iptables-nft" };
            let mend = format!(
                "{tool}-save | grep -v -e '{prefix}' | {tool}-restore # once {network} is removed; look at {first} first"
            );
            found.push(Finding::new(Warning, "foreign-chains", what, left.join(", "), mend));
        }
    }
    let overlays = rules.tables.iter().filter(|table| table.contains("flannel") || table.contains("cilium"));
    for table in overlays {
        let mend = format!("nft delete table {table} # once that network is removed");
        found.push(Finding::new(Info, "foreign-chains", format!("table {table} is there"), table, mend));
    }
}
