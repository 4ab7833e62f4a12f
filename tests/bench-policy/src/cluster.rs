//! Pods and policies as the datastore tells them: always the same ones.

use std::net::{IpAddr, Ipv4Addr};

use model::{
    Action, EntityRule, Labels, LocalEndpoint, Pod, PodKey, Policy, PolicyKey, PolicyKind, PortMatch,
    PortRange, Protocol, Rule, Selector, Update, host_interface_name,
};

pub const NODE: &str = "here";
const NAMESPACE: &str = "crowd";

/// The namespace that all are in.
pub fn namespace() -> Update {
    Update::Namespace(NAMESPACE.to_owned(), Some(Labels::new()))
}

/// The key of the pod with this number.
pub fn key(number: usize) -> PodKey {
    PodKey::new(NAMESPACE, &format!("pod-{number}"))
}

/// Its address.
pub fn address(number: usize) -> IpAddr {
    let number = u32::try_from(number).expect("fewer pods than addresses");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 65, 0, 2)) + number).into()
}

/// A pod with labels `app` (one of `apps`) and `number`.
pub fn pod(number: usize, apps: usize) -> Update {
    let labels = [("app", format!("a{}", number % apps)), ("number", number.to_string())];
    let key = key(number);
    let pod = Pod {
        key: key.clone(),
        uid: key.to_string(),
        node: Some(NODE.into()),
        addresses: vec![address(number)],
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ports: Vec::new(),
        service_account: None,
        host_network: false,
        annotations: Labels::new(),
    };
    Update::Pod(key, Some(pod))
}

/// Its interface, as the CNI plugin made it.
pub fn local(number: usize) -> LocalEndpoint {
    let pod = key(number);
    LocalEndpoint {
        container_id: format!("container-{number}"),
        interface: host_interface_name("cali", &pod),
        pod,
        addresses: vec![address(number)],
        mac: [2, 0, 0, 0, (number >> 8) as u8, number as u8],
    }
}

/// A policy that selects one `app` and lets `rules` ports in from one app each; `salt` makes another of it.
pub fn policy(number: usize, apps: usize, rules: usize, salt: u16) -> Update {
    let kind = PolicyKind::KubernetesNetworkPolicy;
    let name = format!("policy-{number}").into();
    let key = PolicyKey { kind, namespace: Some(NAMESPACE.into()), name };
    let app = |app: usize| Selector::equals("app", &format!("a{}", app % apps)).expect("app is a key");
    let rule = |i: usize| {
        let port = u16::try_from(1000 + i).expect("few rules") + salt;
        let source = EntityRule { selector: Some(app(number + i + 1)), ..EntityRule::default() };
        let ports = vec![PortMatch::Range(PortRange::single(port))];
        let destination = EntityRule { ports, ..EntityRule::default() };
        Rule { protocol: Some(Protocol::TCP), source, destination, ..Rule::any(Action::Allow) }
    };
    let policy = Policy {
        order: Some(1000.0),
        applies_to_ingress: true,
        ingress: (0..rules).map(rule).collect(),
        ..Policy::new(key.clone(), app(number))
    };
    Update::Policy(key, Some(Box::new(policy)))
}
