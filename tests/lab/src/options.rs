//! What a lab was asked to be; the command line fills it, the daemon reads it back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::{Family, LabName, MAX_NODES_PER_SUBNET, MAX_SUBNETS};

/// In the place of a manifest's path: `manifests/ocicat.yaml` as it was when the lab was built.
pub const SHIPPED: &str = "shipped";

/// Which router stands at the top of the rack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TorKind {
    /// BIRD 2.
    Bird,
    /// GoBGP 3; the lab itself puts the learned routes into the kernel.
    Gobgp,
    /// FRR 8.
    Frr,
    /// A router without BGP.
    None,
}

impl TorKind {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Gobgp => "gobgp",
            Self::Frr => "frr",
            Self::None => "none",
        }
    }
}

/// The IPIP mode of the pool that the lab creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Encap {
    /// No encapsulation.
    Never,
    /// IPIP between subnets.
    CrossSubnet,
    /// IPIP always.
    Always,
}

impl Encap {
    /// The word in the IPPool.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::CrossSubnet => "CrossSubnet",
            Self::Always => "Always",
        }
    }
}

/// An API server outside of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalApi {
    /// `https://host:port`.
    pub url: String,
    /// Bearer token.
    pub token: String,
    /// PEM file with the server's CA; without it the certificate is not checked.
    pub ca_file: Option<PathBuf>,
}

/// All options of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    /// Its name.
    pub name: LabName,
    /// How many nodes.
    pub nodes: u32,
    /// Over how many subnets.
    pub subnets: u32,
    /// The router.
    pub tor: TorKind,
    /// The pods' IPv4 pool.
    pub pod_cidr: String,
    /// Encapsulation.
    pub encap: Encap,
    /// Families.
    pub family: Family,
    /// An API server elsewhere; the embedded one when absent.
    pub external: Option<ExternalApi>,
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// False for a lab without felix and bird-lite.
    pub agents: bool,
    /// False for a lab without `controllers`.
    pub controllers: bool,
    /// The first node runs a typha, by which all nodes hear of the cluster.
    #[serde(default)]
    pub typha: bool,
    /// The manifest whose pod nodes run, or [`SHIPPED`]; when absent, its programs with all rights.
    pub manifest: Option<PathBuf>,
}

impl LabOptions {
    /// Checks what can be checked without looking at the machine.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=MAX_SUBNETS).contains(&self.subnets) {
            return Err(format!("--subnets {} is not in 1..={MAX_SUBNETS}", self.subnets));
        }
        if self.nodes == 0 {
            return Err("--nodes 0: a lab needs a node".to_owned());
        }
        if self.nodes > MAX_NODES_PER_SUBNET {
            // The last octet is the node's number plus ten.
            return Err(format!("--nodes {} is more than {MAX_NODES_PER_SUBNET}", self.nodes));
        }
        if self.subnets > self.nodes {
            return Err(format!(
                "--subnets {} is more than --nodes {}: a subnet would be empty",
                self.subnets, self.nodes
            ));
        }
        validate_cidr(&self.pod_cidr)?;
        if self.encap != Encap::Never && !self.family.has_v4() {
            return Err(format!("--encap {} needs IPv4: IPIP carries no IPv6", self.encap.as_str()));
        }
        Ok(())
    }
}

fn validate_cidr(cidr: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("--pod-cidr {cidr}: {why}"));
    let Some((address, length)) = cidr.split_once('/') else {
        return bad("a network is written as 10.65.0.0/16");
    };
    let (Ok(address), Ok(length)) = (address.parse::<std::net::Ipv4Addr>(), length.parse::<u32>()) else {
        return bad("a network is written as 10.65.0.0/16");
    };
    if !(8..=26).contains(&length) {
        return bad("the length must be in 8..=26, so that a /26 block fits");
    }
    let bits = u32::from(address);
    let mask = u32::MAX << (32 - length);
    if bits & !mask != 0 {
        return bad(&format!(
            "host bits are set; did you mean {}/{length}?",
            std::net::Ipv4Addr::from(bits & mask)
        ));
    }
    let nodes = u32::from(std::net::Ipv4Addr::new(172, 20, 0, 0));
    let wider = mask & (u32::MAX << 16);
    if bits & wider == nodes & wider {
        return bad("it overlaps 172.20.0.0/16, where the nodes are");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> LabOptions {
        LabOptions {
            name: "lab".parse().unwrap(),
            nodes: 3,
            subnets: 2,
            tor: TorKind::Bird,
            pod_cidr: "10.65.0.0/16".into(),
            encap: Encap::Never,
            family: Family::V4,
            external: None,
            bin_dir: "/x".into(),
            agents: true,
            controllers: true,
            typha: false,
            manifest: None,
        }
    }

    #[test]
    fn good_options_pass() {
        assert_eq!(options().validate(), Ok(()));
    }

    #[test]
    fn bad_networks_are_refused_with_the_reason() {
        for (cidr, why) in [
            ("10.65.0.1/16", "did you mean 10.65.0.0/16"),
            ("10.65.0.0", "written as"),
            ("10.65.0.0/30", "8..=26"),
            ("172.20.4.0/24", "overlaps"),
            ("172.16.0.0/12", "overlaps"),
            ("x/16", "written as"),
        ] {
            let error = LabOptions { pod_cidr: cidr.into(), ..options() }.validate().unwrap_err();
            assert!(error.contains(why), "{cidr}: {error}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(LabOptions { subnets: 4, ..options() }.validate().is_err());
        assert!(LabOptions { nodes: 0, subnets: 1, ..options() }.validate().is_err());
        assert!(LabOptions { nodes: 400, ..options() }.validate().is_err());
        assert!(LabOptions { encap: Encap::Always, family: Family::V6, ..options() }.validate().is_err());
    }

    #[test]
    fn options_survive_the_way_to_the_daemon() {
        let text = serde_json::to_string(&options()).unwrap();
        assert_eq!(serde_json::from_str::<LabOptions>(&text).unwrap(), options());
    }
}
