//! Makes a failing history as small as it gets, and says it.

use std::fmt::Write;

use felix_evaluate::Packet;
use model::{EntityRule, Policy, Rule, Selector, Update};

use crate::world::World;

/// The fewest updates and the one packet that still fail, as text.
pub fn minimal(mut history: Vec<Update>, mut packets: Vec<Packet>) -> String {
    std::panic::set_hook(Box::new(|_| {}));
    let fails = |history: &[Update], packets: &[Packet]| World::compare(history, packets).is_err();
    if let Some(one) = packets.iter().find(|packet| fails(&history, std::slice::from_ref(packet))) {
        packets = vec![one.clone()];
    }
    loop {
        let found = smaller(&history).find(|smaller| fails(smaller, &packets));
        let Some(found) = found else { break };
        history = found;
    }
    _ = std::panic::take_hook();
    let failure = World::compare(&history, &packets).expect_err("it failed before");
    let mut text = String::new();
    for update in &history {
        writeln!(text, "  {}", show(update)).unwrap();
    }
    text + &failure
}

/// Each history that lacks one thing of this one.
fn smaller(history: &[Update]) -> impl Iterator<Item = Vec<Update>> {
    let without = (0..history.len()).map(|i| {
        let mut shorter = history.to_vec();
        shorter.remove(i);
        shorter
    });
    let simpler = history.iter().enumerate().flat_map(move |(i, update)| {
        simpler_updates(update).into_iter().map(move |simpler| {
            let mut changed = history.to_vec();
            changed[i] = simpler;
            changed
        })
    });
    without.chain(simpler)
}

fn simpler_updates(update: &Update) -> Vec<Update> {
    let mut result = Vec::new();
    match update {
        Update::Policy(key, Some(policy)) => {
            for policy in simpler_policies(policy) {
                result.push(Update::Policy(key.clone(), Some(Box::new(policy))));
            }
        }
        Update::Pod(key, Some(pod)) => {
            for label in pod.labels.keys() {
                let mut simpler = pod.clone();
                simpler.labels.remove(label);
                result.push(Update::Pod(key.clone(), Some(simpler)));
            }
            for i in 0..pod.ports.len() {
                let mut simpler = pod.clone();
                simpler.ports.remove(i);
                result.push(Update::Pod(key.clone(), Some(simpler)));
            }
        }
        Update::Namespace(name, Some(labels)) if !labels.is_empty() => {
            result.push(Update::Namespace(name.clone(), Some(Default::default())));
        }
        _ => {}
    }
    result
}

fn simpler_policies(policy: &Policy) -> Vec<Policy> {
    let mut result = Vec::new();
    let mut change = |change: &dyn Fn(&mut Policy)| {
        let mut simpler = policy.clone();
        change(&mut simpler);
        if simpler != *policy {
            result.push(simpler);
        }
    };
    change(&|policy| policy.selector = Selector::all());
    change(&|policy| policy.order = None);
    for i in 0..policy.ingress.len() {
        change(&|policy| _ = policy.ingress.remove(i));
        for simpler in simpler_rules(&policy.ingress[i]) {
            change(&|policy| policy.ingress[i] = simpler.clone());
        }
    }
    for i in 0..policy.egress.len() {
        change(&|policy| _ = policy.egress.remove(i));
        for simpler in simpler_rules(&policy.egress[i]) {
            change(&|policy| policy.egress[i] = simpler.clone());
        }
    }
    result
}

fn simpler_rules(rule: &Rule) -> Vec<Rule> {
    let mut result = vec![
        Rule { family: None, ..rule.clone() },
        Rule { not_protocol: None, ..rule.clone() },
        Rule { icmp: None, ..rule.clone() },
        Rule { not_icmp: None, ..rule.clone() },
    ];
    result.extend(simpler_entities(&rule.source).into_iter().map(|source| Rule { source, ..rule.clone() }));
    let destinations = simpler_entities(&rule.destination).into_iter();
    result.extend(destinations.map(|destination| Rule { destination, ..rule.clone() }));
    result.retain(|simpler| simpler != rule);
    result
}

fn simpler_entities(entity: &EntityRule) -> Vec<EntityRule> {
    let mut result = vec![
        EntityRule { selector: None, ..entity.clone() },
        EntityRule { not_selector: None, ..entity.clone() },
        EntityRule { selector: entity.selector.as_ref().map(|_| Selector::all()), ..entity.clone() },
    ];
    let mut shorter = |change: &dyn Fn(&mut EntityRule)| {
        let mut simpler = entity.clone();
        change(&mut simpler);
        result.push(simpler);
    };
    (0..entity.nets.len()).for_each(|i| shorter(&|entity| _ = entity.nets.remove(i)));
    (0..entity.not_nets.len()).for_each(|i| shorter(&|entity| _ = entity.not_nets.remove(i)));
    (0..entity.ports.len()).for_each(|i| shorter(&|entity| _ = entity.ports.remove(i)));
    (0..entity.not_ports.len()).for_each(|i| shorter(&|entity| _ = entity.not_ports.remove(i)));
    result.retain(|simpler| simpler != entity);
    result
}

/// One line an object, as a person would say it.
fn show(update: &Update) -> String {
    match update {
        Update::Pod(key, Some(pod)) => {
            let ports: Vec<_> =
                pod.ports.iter().map(|p| format!("{}={}/{}", p.name, p.port, p.protocol)).collect();
            format!(
                "pod {key} on {} {:?} labels {:?} ports {ports:?} account {:?} host network {}",
                pod.node.as_ref().unwrap(),
                pod.addresses,
                pod.labels,
                pod.service_account,
                pod.host_network
            )
        }
        Update::Policy(key, Some(policy)) => show_policy(&key.to_string(), policy),
        other => format!("{other:?}"),
    }
}

fn show_policy(key: &str, policy: &Policy) -> String {
    let mut text =
        format!("policy {key} tier {} order {:?} selects {}", policy.tier, policy.order, policy.selector);
    for (is_set, flag) in [
        (policy.do_not_track, "do not track"),
        (policy.pre_dnat, "pre DNAT"),
        (policy.apply_on_forward, "apply on forward"),
        (policy.needed_everywhere, "needed everywhere"),
    ] {
        if is_set {
            write!(text, ", {flag}").unwrap();
        }
    }
    for (applies, direction, rules) in [
        (policy.applies_to_ingress, "ingress", &policy.ingress),
        (policy.applies_to_egress, "egress", &policy.egress),
    ] {
        if applies {
            write!(text, "\n      {direction}:").unwrap();
            rules.iter().for_each(|rule| write!(text, "\n        {}", show_rule(rule)).unwrap());
        }
    }
    text
}

fn show_rule(rule: &Rule) -> String {
    let mut text = format!("{:?}", rule.action);
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            write!(text, " {name} {value}").unwrap();
        }
    };
    word("family", rule.family.map(|family| family.to_string()));
    word("protocol", rule.protocol.map(|protocol| protocol.to_string()));
    word("not protocol", rule.not_protocol.map(|protocol| protocol.to_string()));
    word("icmp", rule.icmp.map(|icmp| format!("{icmp:?}")));
    word("not icmp", rule.not_icmp.map(|icmp| format!("{icmp:?}")));
    for (side, entity) in [("from", &rule.source), ("to", &rule.destination)] {
        let list = |list: String| (list != "[]").then_some(list);
        word(side, (*entity != EntityRule::default()).then(String::new));
        word("nets", list(format!("{:?}", entity.nets)));
        word("not nets", list(format!("{:?}", entity.not_nets)));
        word("selector", entity.selector.as_ref().map(Selector::to_string));
        word("not selector", entity.not_selector.as_ref().map(Selector::to_string));
        word("service", entity.service.as_ref().map(ToString::to_string));
        word("ports", list(format!("{:?}", entity.ports)));
        word("not ports", list(format!("{:?}", entity.not_ports)));
    }
    text
}
