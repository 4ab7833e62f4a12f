//! Tracked connections of the real kernel, as root; `conntrack` is the witness.

mod common;

use std::collections::BTreeSet;

use common::{in_new_netns, run};
use kernel_linux::Conntrack;

fn connect(from: &str, to: &str, port: &str) {
    let arguments = ["-I", "-s", from, "-d", to, "-p", "tcp", "--sport", port, "--dport", "80"];
    run("conntrack", &[&arguments[..], &["--state", "ESTABLISHED", "-t", "100"]].concat());
}

fn tracked() -> Vec<String> {
    let all = run("conntrack", &["-L", "-f", "ipv4"]) + &run("conntrack", &["-L", "-f", "ipv6"]);
    let mut ports: Vec<_> = all
        .lines()
        .filter_map(|line| line.split_once("sport=")?.1.split(' ').next())
        .map(str::to_owned)
        .collect();
    ports.sort();
    ports
}

#[test]
fn connections_of_an_address_are_forgotten_in_both_directions() {
    in_new_netns(|| {
        connect("10.65.0.2", "192.0.2.9", "1001");
        connect("192.0.2.9", "10.65.0.2", "1002");
        connect("10.65.0.3", "192.0.2.9", "1003");
        connect("fd00::2", "2001:db8::9", "1004");
        connect("fd00::3", "2001:db8::9", "1005");
        let gone: BTreeSet<_> = ["10.65.0.2", "fd00::2"].map(|text| text.parse().unwrap()).into();
        let mut conntrack = Conntrack::open().unwrap();

        assert_eq!(conntrack.flush(&gone).unwrap(), 3);

        assert_eq!(tracked(), ["1003", "1005"]);
        assert_eq!(conntrack.flush(&gone).unwrap(), 0);
    });
}

#[test]
fn a_translated_destination_counts() {
    in_new_netns(|| {
        let arguments = ["-I", "-s", "192.0.2.9", "-d", "192.0.2.1", "-p", "udp", "--sport", "1001"];
        let service = ["--dport", "53", "-t", "100", "--reply-src", "10.65.0.2", "--reply-dst", "192.0.2.9"];
        let reply = ["--reply-port-src", "53", "--reply-port-dst", "1001"];
        run("conntrack", &[&arguments[..], &service[..], &reply[..]].concat());

        let gone = ["10.65.0.2".parse().unwrap()].into();
        let found = Conntrack::open().unwrap().of(&gone).unwrap();
        let (original, reply) = (found[0].connection.original, found[0].connection.reply);
        assert_eq!((original.source.to_string().as_str(), original.source_port), ("192.0.2.9", 1001));
        assert_eq!((reply.source.to_string().as_str(), reply.source_port), ("10.65.0.2", 53));
        assert_eq!(Conntrack::open().unwrap().flush(&gone).unwrap(), 1);
    });
}
