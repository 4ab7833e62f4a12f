//! ExaBGP: says exactly what it is told to say.

use std::path::Path;

use crate::common::Lab;
use crate::daemon::{Daemon, Wish};

/// Announces routes with an attribute of the unknown type 99.
pub struct ExaBgp;

/// Where Debian's package puts it.
const INSTALLED: &str = "/usr/sbin/exabgp";
/// Where `scripts/setup` unpacks the same package when it cannot be installed.
const UNPACKED: &str = "/var/cache/ocicat/exabgp/usr/sbin/python3-exabgp";
const LIBRARY: &str = "PYTHONPATH=/var/cache/ocicat/exabgp/usr/lib/python3/dist-packages";

const CONFIG: &str = "
neighbor 10.99.0.1 {
  router-id 10.99.0.2;
  local-address 10.99.0.2;
  local-as 64513;
  peer-as 64512;
  family { ipv4 unicast; ipv6 unicast; }
  static {
    route 192.0.2.0/24 next-hop 10.99.0.2 attribute [ 0x63 0xe0 0x01020304 ];
    route 2001:db8:1::/48 next-hop fd99::2 attribute [ 0x63 0xe0 0x01020304 ];
  }
}
";

impl Daemon for ExaBgp {
    fn name(&self) -> &'static str {
        "exabgp"
    }

    fn program(&self) -> (&'static str, &'static str) {
        (if Path::new(INSTALLED).exists() { INSTALLED } else { UNPACKED }, "exabgp")
    }

    fn start(&self, lab: &mut Lab, _: Wish) -> Vec<usize> {
        let config = lab.file("exabgp.conf", CONFIG);
        let environment =
            "exabgp.daemon.user=root exabgp.api.cli=false exabgp.log.all=true exabgp.daemon.drop=false";
        let mut arguments: Vec<&str> = environment.split(' ').collect();
        let (program, _) = self.program();
        if program == UNPACKED {
            arguments.extend([LIBRARY, "/usr/bin/python3"]);
        }
        arguments.extend([program, &config]);
        vec![lab.spawn("exabgp", "/usr/bin/env", &arguments)]
    }

    fn route(&self, _: &Lab, _: &str) -> String {
        String::new()
    }

    fn session(&self, _: &Lab) -> String {
        String::new()
    }

    fn up(&self) -> &'static str {
        "-"
    }

    fn withdraw_own(&self, _: &Lab) {}

    fn refresh(&self, _: &Lab) {}

    fn shut_down(&self, _: &Lab, _: &str) {}
}
