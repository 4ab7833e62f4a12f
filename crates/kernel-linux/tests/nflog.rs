//! Packets that rules log, by both ways of making such a rule, in a network namespace that is not the first.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io;
use std::net::UdpSocket;

use common::*;
use kernel::Transport;
use kernel_linux::{Heard, Nflog};
use model::Protocol;

const GROUP: u16 = 7;
/// More packets than the socket has room for.
const FLOOD: usize = 200_000;

/// Sends until one packet was heard of; the group is read by this thread alone.
fn hear(nflog: &mut Nflog, to: &str) -> Heard {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Refused by the rule: that is the point.
    let _ = socket.send_to(b"x", to);
    nflog.receive().unwrap()
}

#[test]
fn a_logged_packet_is_heard_with_the_rules_prefix() {
    new_netns()
        .run(|| {
            run("ip", &["link", "set", "lo", "up"]);
            let rule = ["-A", "OUTPUT", "-p", "udp", "--dport", "9", "-j", "NFLOG"];
            let target = ["--nflog-group", "7", "--nflog-prefix", "D|e|knp/a/b|0"];
            run("iptables", &[&rule[..], &target].concat());
            let mut nflog = Nflog::open(GROUP)?;

            let heard = hear(&mut nflog, "127.0.0.1:9");

            let packet = &heard.packets[0];
            assert_eq!((packet.prefix.as_str(), heard.lost), ("D|e|knp/a/b|0", 0));
            assert_eq!((packet.in_link, packet.out_link.is_some()), (None, true));
            let head = packet.head.unwrap();
            assert_eq!((head.protocol, head.transport.destination_port()), (Protocol::UDP, Some(9)));
            assert!(matches!(head.transport, Transport::Ports { source: 1.., .. }));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_group_has_one_listener_and_the_second_is_told_so() {
    new_netns()
        .run(|| {
            let _first = Nflog::open(GROUP)?;

            let second = Nflog::open(GROUP).err().unwrap();

            assert_eq!(second.kind(), io::ErrorKind::ResourceBusy, "{second}");
            assert!(second.to_string().contains("NFLOG group 7"), "{second}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_flood_that_nobody_reads_is_counted_as_lost() {
    new_netns()
        .run(|| {
            run("ip", &["link", "set", "lo", "up"]);
            run("iptables", &["-A", "OUTPUT", "-p", "udp", "-j", "NFLOG", "--nflog-group", "7"]);
            let mut nflog = Nflog::open(GROUP)?;
            hear(&mut nflog, "127.0.0.1:9");
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            for _ in 0..FLOOD {
                let _ = socket.send_to(b"x", "127.0.0.1:9");
            }

            let mut lost = 0;
            let mut heard = 0;
            while lost == 0 && heard < FLOOD {
                let some = hear(&mut nflog, "127.0.0.1:9");
                lost += some.lost;
                heard += some.packets.len();
            }

            assert!(lost > 0, "{heard} of {FLOOD} were heard, none was lost");
            Ok(())
        })
        .unwrap();
}
