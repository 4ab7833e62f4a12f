//! Host endpoints: whom they govern, and their chains.

use std::collections::BTreeSet;
use std::sync::Arc;

use felix_calc::ActiveHostEndpoint;

use super::{ChainKey, Renderer};
use crate::host_chains::{HostChains, used_roots};
use crate::host_links::govern;
use crate::pod_state::is_interface_name;

/// Who needs the groups of policies of host endpoints; no interface is named so.
const GROUP_USER: &str = "*";

impl Renderer {
    pub(super) fn set_host_endpoint(&mut self, name: Arc<str>, endpoint: Option<Arc<ActiveHostEndpoint>>) {
        match endpoint {
            Some(endpoint) => _ = self.host_endpoints.insert(name, endpoint),
            None => _ = self.host_endpoints.remove(&name),
        }
        self.host_endpoints_dirty = true;
    }

    pub(super) fn render_host_endpoints(&mut self) {
        let rules = self.rules.clone();
        let before = used_roots(&self.governed);
        self.governed = govern(&self.host_endpoints, &self.host_links, |name| {
            // What cannot stand in a rule cannot be governed either.
            rules.is_pod_interface(name) || !is_interface_name(name)
        });
        let roots = used_roots(&self.governed);
        self.static_dirty |= roots != before;
        if roots.is_empty() != self.rules.pods_alone {
            Arc::make_mut(&mut self.rules).pods_alone = roots.is_empty();
            self.render_all_policies();
        }
        let rules = self.rules.clone();
        let (mut wanted, mut groups) = (BTreeSet::new(), Vec::new());
        for family in self.families() {
            let chains = HostChains {
                settings: &rules,
                family,
                governed: &self.governed,
                policies: &self.policies,
                profiles: &self.profiles,
                failsafe_inbound: &self.configuration.failsafe_inbound,
                failsafe_outbound: &self.configuration.failsafe_outbound,
            };
            let rendered = chains.render();
            groups.extend(rendered.filter_groups);
            for ((table, name), chain) in rendered.chains {
                let key = (family, table, name);
                wanted.insert(key.clone());
                self.chains.put(key, chain);
            }
        }
        self.use_groups(GROUP_USER, groups);
        let stale: Vec<ChainKey> = self.host_chains.difference(&wanted).cloned().collect();
        stale.iter().for_each(|key| self.chains.remove(key));
        self.host_chains = wanted;
    }
}
