//! Patterns for strings in the schemas, so that the API server names the field that is wrong.
//!
//! They are RE2, as Kubernetes wants them. What a pattern cannot say (host bits, balanced parentheses) is said
//! by CEL rules beside the fields or found by the conversion.

/// Textual form of one number from 0 to 255.
macro_rules! octet {
    () => {
        r"(25[0-5]|2[0-4]\d|1?\d?\d)"
    };
}

macro_rules! v4 {
    () => {
        concat!("(", octet!(), r"\.){3}", octet!())
    };
}

macro_rules! v6 {
    () => {
        "[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*"
    };
}

/// Length of an IPv4 prefix.
macro_rules! length4 {
    () => {
        r"/(3[0-2]|[12]?\d)"
    };
}

/// Length of an IPv6 prefix.
macro_rules! length6 {
    () => {
        r"/(12[0-8]|1[01]\d|[1-9]?\d)"
    };
}

macro_rules! port {
    () => {
        "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
    };
}

/// A CIDR of either family.
pub(crate) const CIDR: &str = concat!("^(", v4!(), length4!(), "|", v6!(), length6!(), ")$");
/// An IPv4 CIDR.
pub(crate) const CIDR_V4: &str = concat!("^", v4!(), length4!(), "$");
/// An IPv6 CIDR.
pub(crate) const CIDR_V6: &str = concat!("^", v6!(), length6!(), "$");
/// A CIDR, or an address that stands for its /32 or /128.
pub(crate) const NET: &str = concat!("^(", v4!(), "(", length4!(), ")?|", v6!(), "(", length6!(), ")?)$");
/// An address of either family.
pub(crate) const ADDRESS: &str = concat!("^(", v4!(), "|", v6!(), ")$");
/// Either an address or `address:port`; IPv6 with a port stands in brackets.
pub(crate) const PEER_ADDRESS: &str =
    concat!("^(", v4!(), "(:", port!(), ")?|", v6!(), r"|\[", v6!(), r"\](:", port!(), ")?)$");
/// A Go duration such as `90s` or `1m30s`.
pub(crate) const DURATION: &str = r"^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$";
/// A number, a range such as `80:90`, or the name of a port.
pub(crate) const PORT: &str = r"^([0-9]{1,5}(:[0-9]{1,5})?|[a-zA-Z0-9_.-]{1,63})$";
/// A protocol by name or number.
pub(crate) const PROTOCOL: &str =
    concat!("^(TCP|UDP|ICMP|ICMPv6|SCTP|UDPLite|[1-9]|[1-9][0-9]|", "1[0-9][0-9]|2[0-4][0-9]|25[0-5])$");
/// `0` to `65535`.
macro_rules! u16 {
    () => {
        "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[0-5]?[0-9]{1,4})"
    };
}

/// `0` to `4294967295`.
macro_rules! u32 {
    () => {
        concat!(
            "(429496729[0-5]|42949672[0-8][0-9]|4294967[01][0-9]{2}|429496[0-6][0-9]{3}|42949[0-5][0-9]{4}|",
            "4294[0-8][0-9]{5}|429[0-3][0-9]{6}|42[0-8][0-9]{7}|4[01][0-9]{8}|[0-3]?[0-9]{1,9})"
        )
    };
}

/// `aa:nn` of 16 bits each, or `aa:nn:mm` of 32 bits each.
pub(crate) const COMMUNITY: &str =
    concat!("^(", u16!(), ":", u16!(), "|", u32!(), ":", u32!(), ":", u32!(), ")$");
/// A community, or the name of one.
pub(crate) const COMMUNITY_OR_NAME: &str = concat!(
    "^(",
    u16!(),
    ":",
    u16!(),
    "|",
    u32!(),
    ":",
    u32!(),
    ":",
    u32!(),
    r"|[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?)$"
);
/// An AS number, as one number or as two of 16 bits with a dot (RFC 5396).
pub(crate) const AS_NUMBER: &str = concat!("^(", u32!(), "|", u16!(), r"\.", u16!(), ")$");
/// A name of an object.
pub(crate) const NAME: &str = r"^[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$";
/// A key of a Secret.
pub(crate) const SECRET_KEY: &str = r"^[-._a-zA-Z0-9]+$";
/// Name of an interface, where `*` stands for any text.
pub(crate) const INTERFACE: &str = r"^[-a-zA-Z0-9_.*:@]+$";
/// A log level as Calico knows them.
pub(crate) const LOG_SEVERITY: &str = "^(?i)(none|trace|debug|info|warning|error|fatal)?$";

/// A string of the selector language.
macro_rules! quoted {
    () => {
        r#"('[^']*'|"[^"]*")"#
    };
}

/// One comparison, with `!` and parentheses before and after it.
macro_rules! operation {
    () => {
        concat!(
            r"[\s(!]*((all|global)\(\s*\)|has\(\s*[\w./-]+\s*\)|[\w./-]+\s*(",
            r"(==|!=|contains|starts\s*with|ends\s*with)\s*",
            quoted!(),
            r"|(not\s*)?in\s*\{(\s*",
            quoted!(),
            r"\s*,)*\s*",
            quoted!(),
            r"?\s*\}))[\s)]*"
        )
    };
}

/// The selector language but for the balance of parentheses, which no pattern can count.
pub(crate) const SELECTOR: &str = concat!(r"^\s*(", operation!(), r"((&&|\|\|)", operation!(), ")*)?$");

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, accepted: &[&str], refused: &[&str]) {
        let regex = regex::Regex::new(pattern).unwrap();
        for text in accepted {
            assert!(regex.is_match(text), "{text:?} was refused");
        }
        for text in refused {
            assert!(!regex.is_match(text), "{text:?} was accepted");
        }
    }

    #[test]
    fn addresses_and_prefixes() {
        let good = [
            "10.65.0.0/16",
            "0.0.0.0/0",
            "255.255.255.255/32",
            "fd00:10::/48",
            "::/0",
            "::ffff:10.0.0.0/104",
        ];
        check(
            CIDR,
            &good,
            &["", "10.65.0.0", "10.65.0.0/33", "10.65.0/16", "256.0.0.0/8", "fd00::/129", "a/8", "fd00/64"],
        );
        check(NET, &["10.0.0.1", "10.0.0.0/8", "fd00::1"], &["10.0.0.0/", "x", "300.1.1.1"]);
        check(ADDRESS, &["10.0.0.1", "::1"], &["10.0.0.0/8", "10.0.0.1:179", "router.example"]);
        let peers = ["192.0.2.1", "192.0.2.1:1790", "2001:db8::1", "[2001:db8::1]:179"];
        check(
            PEER_ADDRESS,
            &peers,
            &["1.2.3.4:70000", "1.2.3.4:0", "host", "1.2.3", "[2001:db8::1", "1.2.3.4/24"],
        );
    }

    #[test]
    fn durations_ports_and_protocols() {
        check(DURATION, &["0", "90s", "1m30s", "1.5h", "100ms"], &["", "90", "s", "-1s", "1 s"]);
        check(PORT, &["80", "80:90", "http", "a-b.c"], &["", "80:", "a b", "80-90/x"]);
        check(PROTOCOL, &["TCP", "UDPLite", "1", "255"], &["tcp", "0", "256", "", "TCPP"]);
        check(COMMUNITY, &["64512:1", "64512:1:2"], &["1", "a:b", "1:2:3:4"]);
    }

    #[test]
    fn selectors() {
        let accepted = [
            "",
            " ",
            "all()",
            "all( )",
            "a == 'b'",
            "a==\"b\"",
            "a != 'b'",
            "a in {'x'}",
            "a in {\"x\",\"y\",}",
            "a in {}",
            "a not in {'x'}",
            "a notin {'x'}",
            "has(a)",
            "has( a/b.c_d-e )",
            "!has(a)",
            "!!has(a)",
            "! has(a)",
            "a contains 'x'",
            "a startswith 'x'",
            "a ends with \"x\"",
            "(a == 'b')",
            "a == 'b' && c == 'd' || e == 'f'",
            "contains contains \"x\"",
            "in in {'a'}",
            "global()",
            "a == \"it's\"",
            "!(a == 'b' && !has(c)) || has(d)",
        ];
        let refused = [
            "a",
            "a == b",
            "b == b",
            "'a' == 'b'",
            "a = \"b\"",
            "a == \"b\" &",
            "a == \"b\" & c == \"d\"",
            "a == 'b' |",
            "a == 'b' ||",
            "()",
            "has()",
            "has(a",
            "has (a)",
            "all (",
            "all",
            "%",
            "a == \"b",
            "a in \"x\"",
            "a in {\"x\"",
            "a in {\"x\" \"y\"}",
            "a not 'x'",
            "!",
        ];
        check(SELECTOR, &accepted, &refused);
    }
}
