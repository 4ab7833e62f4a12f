//! Between the cluster's words and the speaker's. Owns nothing else.

use bgp_packet::Prefix;
use model::Cidr;

/// The speaker's word for a CIDR.
pub fn prefix(cidr: Cidr) -> Prefix {
    Prefix::new(cidr.address(), cidr.length()).expect("a CIDR's length fits its family")
}

/// The cluster's word for a prefix.
pub fn cidr(prefix: Prefix) -> Cidr {
    Cidr::truncated(prefix.address(), prefix.len()).expect("a prefix's length fits its family")
}
