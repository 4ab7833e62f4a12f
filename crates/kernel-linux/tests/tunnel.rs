//! `tunl0` against the real kernel, as root. Where the kernel has no IPIP, that is what must be said; the rest
//! is tried by running this test in a virtual machine (`lab vm`).

mod common;

use std::collections::BTreeMap;
use std::io;

use common::{attempt, in_new_netns, run};
use kernel::{Driver, Tunnel};
use kernel_linux::{Rtnl, TunnelDriver, sysctl};

fn tunnel(address: Option<&str>, mtu: Option<u32>) -> Tunnel {
    let address = address.map(|text| text.parse().expect("an address"));
    Tunnel { address, mtu, ..Tunnel::default() }
}

fn put(driver: &mut TunnelDriver, tunnel: Tunnel) {
    let failures = driver.apply(&[("tunl0".to_owned(), tunnel)], &[]);
    assert!(failures.is_empty(), "{failures:?}");
}

fn list(driver: &mut TunnelDriver) -> BTreeMap<String, Tunnel> {
    driver.list().expect("links can be listed")
}

fn is_kept(driver: &mut TunnelDriver, wanted: &Tunnel) -> bool {
    list(driver).get("tunl0").is_some_and(|actual| TunnelDriver::matches(wanted, actual))
}

#[test]
fn tunl0_is_kept_as_wanted_or_its_module_is_named() {
    in_new_netns(|| {
        let mut driver = TunnelDriver::new("tunl0").unwrap();
        if Rtnl::open().unwrap().ensure_ipip("tunl0").is_err() {
            refuses_by_name(&mut driver);
        } else {
            keeps(&mut driver);
        }
    });
}

fn refuses_by_name(driver: &mut TunnelDriver) {
    assert!(!attempt("ip", &["link", "add", "x", "type", "ipip"]).0, "ip can make one");
    let failures = driver.apply(&[("tunl0".to_owned(), tunnel(None, None))], &["tunl0".to_owned()]);

    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].1.kind(), io::ErrorKind::Unsupported);
    assert!(failures[0].1.to_string().contains("module `ipip`"), "{}", failures[0].1);
    assert_eq!(list(driver), BTreeMap::new());
}

fn keeps(driver: &mut TunnelDriver) {
    let wanted = tunnel(Some("10.65.0.1"), Some(1480));
    put(driver, wanted.clone());
    assert!(is_kept(driver, &wanted));

    for disturb in [
        &["addr", "add", "10.9.9.9/24", "dev", "tunl0"][..],
        &["addr", "del", "10.65.0.1/32", "dev", "tunl0"],
        &["link", "set", "tunl0", "down"],
        &["link", "set", "tunl0", "mtu", "1400"],
    ] {
        run("ip", disturb);
        assert!(!is_kept(driver, &wanted), "not seen: ip {disturb:?}");
        put(driver, wanted.clone());
        assert!(is_kept(driver, &wanted), "not repaired: ip {disturb:?}");
    }

    let rp_filter = "net/ipv4/conf/tunl0/rp_filter";
    assert_eq!(sysctl::read(rp_filter).expect("tunl0 exists"), "2");
    sysctl::write(rp_filter, "1").expect("tunl0 exists");
    assert!(!is_kept(driver, &wanted), "strict rp_filter not seen");
    put(driver, wanted.clone());
    assert_eq!(sysctl::read(rp_filter).expect("tunl0 exists"), "2");

    let carrying = Tunnel { carries_pods: true, no_checksum_offload: true, ..wanted.clone() };
    assert!(!is_kept(driver, &carrying));
    put(driver, carrying.clone());
    assert!(is_kept(driver, &carrying) && !is_kept(driver, &wanted));

    assert!(driver.apply(&[], &["tunl0".to_owned()]).is_empty());
    let shown = run("ip", &["addr", "show", "tunl0"]);
    assert!(!shown.contains("inet "), "{shown}");
    // Without an address it counts as wanted by nobody, else it would be deleted again and again.
    assert_eq!(list(driver), BTreeMap::new());
    put(driver, tunnel(None, None));
    assert!(is_kept(driver, &tunnel(None, None)));
    receives_while_it_has_no_address_and_keeps_its_routes(driver);
}

fn receives_while_it_has_no_address_and_keeps_its_routes(driver: &mut TunnelDriver) {
    let shown = run("ip", &["addr", "show", "tunl0"]);
    assert!(
        shown.contains("inet 192.0.0.8/32 scope host"),
        "the reverse path check asks for an address: {shown}"
    );
    run("ip", &["addr", "del", "192.0.0.8/32", "dev", "tunl0"]);
    assert!(!is_kept(driver, &tunnel(None, None)));
    put(driver, tunnel(None, None));

    run("ip", &["route", "add", "10.65.9.0/26", "via", "192.0.2.9", "dev", "tunl0", "onlink"]);
    for address in [Some("10.65.0.1"), Some("10.65.0.2"), None] {
        put(driver, tunnel(address, None));
        assert!(is_kept(driver, &tunnel(address, None)));
        let routes = run("ip", &["route", "show", "10.65.9.0/26"]);
        assert!(routes.contains("dev tunl0"), "the route went with an address: {routes:?}");
    }
}
