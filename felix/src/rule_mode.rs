//! Does policy go through nftables' own tables or through iptables?
//!
//! Decides; the dataplane writes everything to the new place first and then empties the old one.

use std::io;

use model::{Family, NftablesMode};

/// kube-proxy restarts, and rulesets are flushed: its table must be missed so often before that counts.
const LOOKS: u32 = 2;

/// Follows the setting, and kube-proxy where that is `Auto`.
#[derive(Debug)]
pub struct RuleMode {
    setting: NftablesMode,
    /// Does kube-proxy use nftables?
    kube_proxy: bool,
    /// How often in a row its table was not there.
    missed: u32,
    /// Did iptables and IP sets work at the start?
    has_iptables: bool,
}

impl RuleMode {
    /// `kube_proxy`: was a table of kube-proxy found? Without iptables, `Auto` has one choice.
    pub fn new(kube_proxy: bool, has_iptables: bool) -> Self {
        Self { setting: NftablesMode::default(), kube_proxy, missed: 0, has_iptables }
    }

    pub fn set(&mut self, setting: NftablesMode) {
        self.setting = setting;
    }

    /// Somebody looked for kube-proxy's table again.
    pub fn look(&mut self, found: bool) {
        self.missed = if found { 0 } else { self.missed.saturating_add(1) };
        if found || self.missed >= LOOKS {
            self.kube_proxy = found;
        }
    }

    /// Did iptables and IP sets work at the start?
    pub fn has_iptables(&self) -> bool {
        self.has_iptables
    }

    pub fn wants_nftables(&self) -> bool {
        match self.setting {
            NftablesMode::Enabled => true,
            NftablesMode::Disabled => false,
            NftablesMode::Auto => self.kube_proxy || !self.has_iptables,
        }
    }
}

/// Has kube-proxy chains in its own table of nftables? That is how Calico, too, tells what a node uses.
pub fn kube_proxy_uses_nftables() -> io::Result<bool> {
    for family in Family::ALL {
        if kernel_linux::nft_chains(family, "kube-proxy")? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_follows_kube_proxy_but_not_its_restarts() {
        let mut mode = RuleMode::new(false, true);
        assert!(!mode.wants_nftables());

        mode.look(true);
        assert!(mode.wants_nftables());
        mode.look(false);
        mode.look(true);
        mode.look(false);
        assert!(mode.wants_nftables());
        mode.look(false);
        assert!(!mode.wants_nftables());
    }

    #[test]
    fn a_setting_forces() {
        let mut mode = RuleMode::new(true, true);

        mode.set(NftablesMode::Disabled);
        assert!(!mode.wants_nftables());
        mode.look(false);
        mode.look(false);
        mode.set(NftablesMode::Enabled);
        assert!(mode.wants_nftables());
    }
    #[test]
    fn without_iptables_auto_has_one_choice() {
        let mut mode = RuleMode::new(false, false);
        mode.look(false);
        mode.look(false);
        assert!(mode.wants_nftables());

        mode.set(NftablesMode::Disabled);
        assert!(!mode.wants_nftables());
    }
}
