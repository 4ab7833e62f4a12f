//! Calico's chains as its documentation and dumps show them, written by hand for pods without policies beyond
//! their profile: what a packet meets there, in iptables-legacy.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Input of `iptables-legacy-restore`.
pub fn tree(interfaces: &[String]) -> String {
    let mut text = String::new();
    raw(&mut text);
    mangle(&mut text);
    filter(&mut text, interfaces);
    text.lines().map(tagged).collect()
}

/// Every rule of Calico's begins with its hash in a comment, which the kernel walks over as over any match.
fn tagged(line: &str) -> String {
    let rule = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '));
    match rule {
        Some((chain, rule)) => format!("-A {chain} -m comment --comment \"cali:0123456789abcdef\" {rule}\n"),
        None => format!("{line}\n"),
    }
}

fn raw(text: &mut String) {
    text.push_str(
        "*raw
:cali-PREROUTING - [0:0]
:cali-OUTPUT - [0:0]
:cali-rpf-skip - [0:0]
:cali-from-host-endpoint - [0:0]
:cali-to-host-endpoint - [0:0]
-A PREROUTING -j cali-PREROUTING
-A OUTPUT -j cali-OUTPUT
-A cali-PREROUTING -j MARK --set-xmark 0x0/0x1b0000
-A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x80000/0x80000
-A cali-PREROUTING -m mark --mark 0x80000/0x80000 -j cali-rpf-skip
-A cali-PREROUTING -m mark --mark 0x80000/0x80000 -m rpfilter --validmark --invert -j DROP
-A cali-PREROUTING -m mark --mark 0x0/0x80000 -j cali-from-host-endpoint
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-OUTPUT -j MARK --set-xmark 0x0/0x1b0000
-A cali-OUTPUT -j cali-to-host-endpoint
-A cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
",
    );
}

fn mangle(text: &mut String) {
    text.push_str(
        "*mangle
:cali-PREROUTING - [0:0]
:cali-POSTROUTING - [0:0]
:cali-from-host-endpoint - [0:0]
:cali-to-host-endpoint - [0:0]
-A PREROUTING -j cali-PREROUTING
-A POSTROUTING -j cali-POSTROUTING
-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-PREROUTING -j cali-from-host-endpoint
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-POSTROUTING -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-POSTROUTING -j MARK --set-xmark 0x0/0x1b0000
-A cali-POSTROUTING -m conntrack --ctstate DNAT -j cali-to-host-endpoint
-A cali-POSTROUTING -m mark --mark 0x10000/0x10000 -j RETURN
COMMIT
*nat
:cali-PREROUTING - [0:0]
:cali-OUTPUT - [0:0]
:cali-POSTROUTING - [0:0]
:cali-fip-dnat - [0:0]
:cali-fip-snat - [0:0]
:cali-nat-outgoing - [0:0]
-A PREROUTING -j cali-PREROUTING
-A OUTPUT -j cali-OUTPUT
-A POSTROUTING -j cali-POSTROUTING
-A cali-PREROUTING -j cali-fip-dnat
-A cali-OUTPUT -j cali-fip-dnat
-A cali-POSTROUTING -j cali-fip-snat
-A cali-POSTROUTING -j cali-nat-outgoing
COMMIT
",
    );
}

fn filter(text: &mut String, interfaces: &[String]) {
    text.push_str("*filter\n");
    for name in
        ["FORWARD", "from-hep-forward", "to-hep-forward", "cidr-block", "pri-kns.crowd", "pro-kns.crowd"]
    {
        writeln!(text, ":cali-{name} - [0:0]").expect("a String takes everything");
    }
    for direction in ["from", "to"] {
        dispatch_names(text, direction, interfaces);
    }
    text.push_str(
        "-A FORWARD -j cali-FORWARD
-A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -j MARK --set-xmark 0x10000/0x10000
-A cali-FORWARD -j MARK --set-xmark 0x0/0x1a0000
-A cali-FORWARD -m mark --mark 0x0/0x10000 -j cali-from-hep-forward
-A cali-FORWARD -i cali+ -j cali-from-wl-dispatch
-A cali-FORWARD -o cali+ -j cali-to-wl-dispatch
-A cali-FORWARD -j cali-to-hep-forward
-A cali-FORWARD -j cali-cidr-block
-A cali-pri-kns.crowd -j MARK --set-xmark 0x10000/0x10000
-A cali-pro-kns.crowd -j MARK --set-xmark 0x10000/0x10000
",
    );
    dispatch(text, "from", "-i", "fw", interfaces);
    dispatch(text, "to", "-o", "tw", interfaces);
    for interface in interfaces {
        endpoint(text, interface);
    }
    text.push_str("COMMIT\n");
}

/// Interfaces by the character behind `cali`.
fn groups(interfaces: &[String]) -> BTreeMap<char, Vec<&String>> {
    let mut groups: BTreeMap<char, Vec<&String>> = BTreeMap::new();
    for interface in interfaces {
        groups.entry(interface.chars().nth(4).unwrap_or('-')).or_default().push(interface);
    }
    groups
}

fn dispatch_names(text: &mut String, direction: &str, interfaces: &[String]) {
    let short = if direction == "from" { "fw" } else { "tw" };
    writeln!(text, ":cali-{direction}-wl-dispatch - [0:0]").expect("a String takes everything");
    for group in groups(interfaces).keys() {
        writeln!(text, ":cali-{direction}-wl-dispatch-{group} - [0:0]").expect("a String takes everything");
    }
    for interface in interfaces {
        writeln!(text, ":cali-{short}-{interface} - [0:0]").expect("a String takes everything");
    }
}

fn dispatch(text: &mut String, direction: &str, option: &str, short: &str, interfaces: &[String]) {
    let root = format!("cali-{direction}-wl-dispatch");
    for (group, members) in groups(interfaces) {
        writeln!(text, "-A {root} {option} cali{group}+ -g {root}-{group}")
            .expect("a String takes everything");
        for interface in members {
            writeln!(text, "-A {root}-{group} {option} {interface} -g cali-{short}-{interface}")
                .expect("a String takes everything");
        }
        writeln!(text, "-A {root}-{group} -j DROP").expect("a String takes everything");
    }
    writeln!(text, "-A {root} -j DROP").expect("a String takes everything");
}

fn endpoint(text: &mut String, interface: &str) {
    for (short, profile) in [("fw", "pro"), ("tw", "pri")] {
        let chain = format!("cali-{short}-{interface}");
        let mut rule = |rest: &str| writeln!(text, "-A {chain} {rest}").expect("a String takes everything");
        rule("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
        rule("-m conntrack --ctstate INVALID -j DROP");
        rule("-j MARK --set-xmark 0x0/0x30000");
        if short == "fw" {
            rule("-p udp -m multiport --dports 4789 -j DROP");
            rule("-p 4 -j DROP");
        }
        rule(&format!("-j cali-{profile}-kns.crowd"));
        rule("-m mark --mark 0x10000/0x10000 -j RETURN");
        rule("-j DROP");
    }
}
