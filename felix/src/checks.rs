//! What this kernel can and cannot do, found out once at the start and named with what will not work.
//!
//! A feature that is missing stops only what needs it.

use std::path::Path;

use kernel_linux::{Rtnl, sysctl};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    pub ipv6: bool,
    /// There is a `tunl0`.
    pub ipip: bool,
}

/// Looks, and names what is missing.
pub fn features() -> Features {
    let ipv6 = Path::new("/proc/thread-self/net/if_inet6").exists();
    if !ipv6 {
        tracing::info!("the kernel has no IPv6: pods get IPv4 only");
    }
    if !Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists() {
        tracing::info!(
            "connection tracking is not loaded yet; the first rule that needs it loads nf_conntrack"
        );
    }
    Features { ipv6, ipip: has_ipip() }
}

/// Makes `tunl0`, which loads the module: IPIP is received whatever the pools say, so that a sender may switch a
/// pool's mode before this node has heard of it.
fn has_ipip() -> bool {
    match Rtnl::open().and_then(|mut rtnl| rtnl.ensure_ipip("tunl0")) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "pools with ipipMode Always or CrossSubnet will not work on this node: it can \
                neither send nor receive IPIP");
            false
        }
    }
}

/// Does the kernel get checksums of packets inside others wrong where it leaves them to the hardware? Those up to 5.7 do,
/// behind some cards.
pub fn has_bad_checksum_offload() -> bool {
    is_before_5_8(&sysctl::read("kernel/osrelease").unwrap_or_default())
}

fn is_before_5_8(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < (5, 8))
}

/// Lets the node forward packets. What cannot be set is named: it may be set already, or by somebody else.
pub fn enable_forwarding(ipv6: bool) {
    let wanted = [("net/ipv4/ip_forward", true), ("net/ipv6/conf/all/forwarding", ipv6)];
    for (path, _) in wanted.iter().filter(|(_, is_wanted)| *is_wanted) {
        let is_set = sysctl::read(path).is_ok_and(|value| value == "1");
        if !is_set && let Err(error) = sysctl::write(path, "1") {
            tracing::error!(%error, "packets of pods will not be forwarded; set it on the node");
        }
    }
}

/// What new interfaces of this host get as `rp_filter`: 1 (strict) unless it says otherwise.
pub fn rp_filter() -> &'static str {
    let default = sysctl::read("net/ipv4/conf/default/rp_filter");
    ["0", "2"].into_iter().find(|known| default.as_ref().is_ok_and(|value| value == known)).unwrap_or("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_by_their_release() {
        let is_old =
            ["5.7.19-generic", "4.18.0-305.el8", "5.8.0", "6.1.0-13-amd64", "nonsense"].map(is_before_5_8);

        assert_eq!(is_old, [true, true, false, false, false]);
    }
}
