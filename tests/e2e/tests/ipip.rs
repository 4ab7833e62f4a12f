//! IPIP on a real kernel: the pool's mode is switched live under a running ping, in a virtual machine where
//! this kernel has no IPIP. The story is the demo's second act, whose every step is a check.

use std::process::Command;

use e2e::programs;

fn plays(engine: &str) {
    let programs = programs();
    let output = Command::new(programs.join("lab"))
        .args(["vm", "--engine", engine, "--timeout", "7200", "--"])
        .arg(programs.join("demo"))
        .args(["--act", "encapsulation"])
        .output()
        .expect("lab starts");

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("✓ Always: tunl0 carries packets"), "the act did not play: {text}");
}

#[test]
fn the_pools_mode_is_switched_live_with_iptables_legacy() {
    plays("uml");
}

#[test]
fn the_pools_mode_is_switched_live_with_iptables_nft() {
    plays("qemu");
}
