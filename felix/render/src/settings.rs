//! What rendering a rule depends on beside the policy or endpoint that it is about.

use std::sync::Arc;

use kernel::{IptablesTable, RejectWith, RuleAction};
use model::{AllowAction, DenyAction, Family, FelixConfiguration, RateLimit};

use crate::marks::{MarkMaskTooSmall, Marks};

/// Facts about this machine that are no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderSettings {
    /// Does the kernel have IPv6? Both this and the configuration must say so.
    pub ipv6: bool,
    /// Do `MASQUERADE` and `SNAT` take `--random-fully` (iptables 1.6.2, kernel 3.14)?
    pub random_fully: bool,
    /// Does the kernel have IPIP? Then IPIP of other nodes is received whatever the pools say, so that a
    /// sender may switch a pool's mode before this node has heard of it.
    pub ipip: bool,
    /// For whom the rules are.
    pub dataplane: RuleDataplane,
    /// What the host gives new interfaces as `rp_filter`, and pods' interfaces get, too: rules of ours check the
    /// way back themselves, for both families, and asking twice costs every packet.
    pub rp_filter: &'static str,
    /// Does the kernel get checksums of packets inside others wrong where it leaves them to the hardware?
    pub no_checksum_offload: bool,
}

impl Default for RenderSettings {
    fn default() -> Self {
        Self {
            ipv6: true,
            random_fully: true,
            ipip: true,
            dataplane: RuleDataplane::Iptables,
            rp_filter: "1",
            no_checksum_offload: false,
        }
    }
}

/// Whose abilities the rules may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RuleDataplane {
    /// Calico's chains, rule by rule.
    #[default]
    Iptables,
    /// The same chains, but with lists of prefixes and ports in one match, and maps from interfaces to chains.
    Nftables,
}

/// What every rule depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleSettings {
    pub(crate) dataplane: RuleDataplane,
    /// The bits that `marks` are taken from.
    pub(crate) mark_mask: u32,
    pub(crate) marks: Marks,
    deny: DenyAction,
    pub(crate) filter_allow: AllowAction,
    pub(crate) mangle_allow: AllowAction,
    pub(crate) drop_invalid: bool,
    /// May pods send from other addresses than their own, where they ask for it?
    pub(crate) source_spoofing: bool,
    /// Interfaces of pods begin with one of these.
    pub(crate) prefixes: Arc<[String]>,
    pub(crate) clamp_mss: bool,
    pub(crate) vxlan_port: u16,
    /// Pods may send VXLAN, IPIP.
    pub(crate) vxlan_from_pods: bool,
    pub(crate) ipip_from_pods: bool,
    pub(crate) log_prefix: String,
    pub(crate) log_limit: Option<RateLimit>,
    /// How often each place that drops says so; `None`: never.
    pub(crate) drop_log: Option<RateLimit>,
    /// Does no host endpoint govern any interface? Then nobody has to say more of a packet that a pod may receive.
    pub(crate) pods_alone: bool,
}

impl RuleSettings {
    /// Fails when the mark mask cannot be used; what is enforced then stays as it is.
    pub(crate) fn new(
        dataplane: RuleDataplane,
        configuration: &FelixConfiguration,
    ) -> Result<Self, MarkMaskTooSmall> {
        let of_dataplane = match dataplane {
            RuleDataplane::Iptables => configuration.clone(),
            RuleDataplane::Nftables => configuration.clone().for_nftables(),
        };
        Ok(Self {
            dataplane,
            mark_mask: of_dataplane.mark_mask,
            marks: Marks::new(of_dataplane.mark_mask)?,
            deny: of_dataplane.filter_deny_action,
            filter_allow: of_dataplane.filter_allow_action,
            mangle_allow: of_dataplane.mangle_allow_action,
            drop_invalid: !configuration.disable_conntrack_invalid_check,
            source_spoofing: configuration.workload_source_spoofing,
            prefixes: prefixes(&configuration.interface_prefix),
            clamp_mss: configuration.clamp_mss,
            vxlan_port: configuration.vxlan_port,
            vxlan_from_pods: configuration.allow_vxlan_from_workloads,
            ipip_from_pods: configuration.allow_ipip_from_workloads,
            log_prefix: configuration.log_prefix.clone(),
            log_limit: configuration.log_rate_limit,
            drop_log: configuration.drop_log.enabled.then_some(configuration.drop_log.rate),
            pods_alone: true,
        })
    }

    /// Is it the name of an interface of a pod?
    pub(crate) fn is_pod_interface(&self, name: &str) -> bool {
        self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }
}

/// `interfacePrefix` may list several. Never none: without one no packet of a pod would meet its policy.
fn prefixes(setting: &str) -> Arc<[String]> {
    let is_prefix = |prefix: &&str| crate::pod_state::is_interface_name(prefix);
    let prefixes: Vec<String> =
        setting.split(',').map(str::trim).filter(is_prefix).map(str::to_owned).collect();
    if prefixes.is_empty() {
        [FelixConfiguration::default().interface_prefix].into()
    } else {
        prefixes.into()
    }
}

/// Settings, and for which table of which family the rules are.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a RuleSettings,
    pub(crate) family: Family,
    pub(crate) table: IptablesTable,
}

impl<'a> Context<'a> {
    pub(crate) fn new(settings: &'a RuleSettings, family: Family, table: IptablesTable) -> Self {
        Self { settings, family, table }
    }

    pub(crate) fn marks(&self) -> Marks {
        self.settings.marks
    }

    pub(crate) fn is_nftables(&self) -> bool {
        self.settings.dataplane == RuleDataplane::Nftables
    }

    /// How a denied packet ends. Only the filter table can refuse with an answer.
    pub(crate) fn deny(&self) -> RuleAction {
        match (self.table, self.settings.deny) {
            (IptablesTable::Filter, DenyAction::Reject) => RuleAction::Reject(RejectWith::PortUnreachable),
            _ => RuleAction::Drop,
        }
    }

    /// Is a packet that an ingress rule allows accepted at once, without a mark for chains that come behind? With
    /// several prefixes of interfaces, where it came from may be asked behind where it goes.
    pub(crate) fn accepts_ingress_at_once(&self) -> bool {
        self.is_nftables()
            && self.table == IptablesTable::Filter
            && self.allow() == RuleAction::Accept
            && self.settings.pods_alone
            && self.settings.prefixes.len() == 1
    }

    /// How an allowed packet leaves our chains in this table.
    pub(crate) fn allow(&self) -> RuleAction {
        let action = match self.table {
            IptablesTable::Filter => self.settings.filter_allow,
            IptablesTable::Mangle => self.settings.mangle_allow,
            IptablesTable::Raw | IptablesTable::Nat => AllowAction::Accept,
        };
        match action {
            AllowAction::Accept => RuleAction::Accept,
            AllowAction::Return => RuleAction::Return,
        }
    }
}
