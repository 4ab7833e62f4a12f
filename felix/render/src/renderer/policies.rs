//! Policies, profiles and groups of policies in the filter table.

use std::sync::Arc;

use felix_calc::{ActivePolicy, ActiveProfile, EndpointPolicies};
use kernel::IptablesTable;
use model::PolicyKey;

use super::{DIRECTIONS, Renderer};
use crate::compact::{ProfileSays, passes};
use crate::drops::DropReason;
use crate::groups::Group;
use crate::names::{policy_chain, profile_chain};
use crate::policy_chains::{render_policy, render_profile};
use crate::settings::Context;

impl Renderer {
    pub(super) fn set_policy(&mut self, key: PolicyKey, policy: Option<Arc<ActivePolicy>>) {
        let old = match &policy {
            Some(new) => {
                self.drop_names.remember(DropReason::Policy(key.clone(), 0));
                self.drop_names.remember(DropReason::EndOfTier(new.tier.clone()));
                self.policies.insert(key.clone(), new.clone())
            }
            None => {
                self.drop_names.forget(&DropReason::Policy(key.clone(), 0));
                self.policies.remove(&key)
            }
        };
        match policy.as_ref().filter(|policy| is_for_filter(policy)) {
            Some(policy) => self.render_policy(policy),
            None => self.remove_chains(DIRECTIONS.map(|direction| policy_chain(direction, &key))),
        }
        let is_of_hosts = self.host_endpoints.values().any(|active| {
            let lists = [&active.untracked, &active.pre_dnat, &active.forward, &active.normal];
            let mut tiers = lists.into_iter().flatten();
            tiers.any(|tier| tier.ingress.contains(&key) || tier.egress.contains(&key))
        });
        self.host_endpoints_dirty |= is_of_hosts;
        // Another selector makes other groups, where endpoints have the policy already. What comes behind a tier is
        // only there when the tier may pass a packet on.
        let passing = |policy: &ActivePolicy| DIRECTIONS.map(|direction| passes(policy, direction));
        if let (Some(old), Some(new)) = (old, policy)
            && (old.selector != new.selector || passing(&old) != passing(&new))
        {
            self.regroup(&key);
        }
    }

    fn regroup(&mut self, key: &PolicyKey) {
        let has = |tiers: &[felix_calc::ActiveTier]| {
            tiers.iter().any(|tier| tier.ingress.contains(key) || tier.egress.contains(key))
        };
        self.render_endpoints_whose(|policies| match policies {
            EndpointPolicies::Open { tiers, .. } => has(tiers),
            EndpointPolicies::Closed(_) => false,
        });
    }

    fn render_endpoints_whose(&mut self, concerned: impl Fn(&EndpointPolicies) -> bool) {
        let concerned = self.endpoints.values().filter(|endpoint| concerned(&endpoint.policies));
        for endpoint in concerned.cloned().collect::<Vec<_>>() {
            self.render_endpoint(&endpoint);
        }
    }

    pub(super) fn render_policy(&mut self, policy: &ActivePolicy) {
        let rules = self.rules.clone();
        for family in self.families() {
            let context = Context::new(&rules, family, IptablesTable::Filter);
            for direction in DIRECTIONS {
                self.put_chain(family, render_policy(&context, policy, direction));
            }
        }
    }

    pub(super) fn set_profile(&mut self, name: Arc<str>, profile: Option<Arc<ActiveProfile>>) {
        let reason = DropReason::Profile(name.clone(), 0);
        let before = self.profiles.get(&name).cloned();
        match profile {
            Some(profile) => {
                self.drop_names.remember(reason);
                self.render_profile(&profile);
                self.profiles.insert(name.clone(), profile);
            }
            None => {
                self.drop_names.forget(&reason);
                self.profiles.remove(&name);
                self.remove_chains(DIRECTIONS.map(|direction| profile_chain(direction, &name)));
            }
        }
        self.host_endpoints_dirty |=
            self.host_endpoints.values().any(|active| active.profiles.contains(&name));
        let says = |profile: Option<&Arc<ActiveProfile>>| {
            DIRECTIONS.map(|direction| ProfileSays::of(profile.map(|profile| &**profile), direction))
        };
        if says(before.as_ref()) != says(self.profiles.get(&name)) {
            let has = |policies: &EndpointPolicies| match policies {
                EndpointPolicies::Open { profiles, .. } => profiles.contains(&name),
                EndpointPolicies::Closed(_) => false,
            };
            self.render_endpoints_whose(has);
        }
    }

    fn render_profile(&mut self, profile: &ActiveProfile) {
        let rules = self.rules.clone();
        for family in self.families() {
            let context = Context::new(&rules, family, IptablesTable::Filter);
            for direction in DIRECTIONS {
                self.put_chain(family, render_profile(&context, profile, direction));
            }
        }
    }

    /// Notes which groups somebody's chains jump to from now on.
    pub(super) fn use_groups(&mut self, user: &str, groups: Vec<Group>) {
        let (come, gone) = self.groups.set(user, groups);
        come.iter().for_each(|group| self.render_group(group));
        self.remove_chains(gone);
    }

    fn render_group(&mut self, group: &Group) {
        let rules = self.rules.clone();
        for family in self.families() {
            let context = Context::new(&rules, family, IptablesTable::Filter);
            if let Some(chain) = group.render(&context) {
                self.put_chain(family, chain);
            }
        }
    }

    pub(super) fn render_all_policies(&mut self) {
        let policies: Vec<_> =
            self.policies.values().filter(|policy| is_for_filter(policy)).cloned().collect();
        policies.iter().for_each(|policy| self.render_policy(policy));
        self.profiles.clone().values().for_each(|profile| self.render_profile(profile));
        let groups: Vec<_> = self.groups.all().cloned().collect();
        groups.iter().for_each(|group| self.render_group(group));
    }
}

/// The others stand in the tables of host endpoints alone.
fn is_for_filter(policy: &ActivePolicy) -> bool {
    !policy.do_not_track && !policy.pre_dnat
}
