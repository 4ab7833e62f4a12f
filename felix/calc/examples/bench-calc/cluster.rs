//! A cluster as large as one wants, the same for ever: labels with the cardinalities that real ones have.

use std::net::{IpAddr, Ipv4Addr};

use model::{
    Action, Cidr, EndpointPort, EntityRule, HostEndpoint, HostEndpointInterface, Labels, LocalEndpoint,
    NetworkSet, NetworkSetKey, NodeName, Pod, PodKey, Policy, PolicyKey, PolicyKind, PortMatch, PortRange,
    Protocol, Rule, Selector, Tier, Update,
};

/// How large.
#[derive(Clone, Copy)]
pub struct Size {
    pub pods: usize,
    pub policies: usize,
    pub namespaces: usize,
    pub local_pods: usize,
    pub hosts: usize,
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A pod's traits, out of its number alone.
pub struct Traits {
    pub namespace: usize,
    pub workload: usize,
    pub ordinal: usize,
    pub kind: Kind,
}

pub enum Kind {
    Deployment,
    StatefulSet,
    Job,
}

const TIERS: [&str; 4] = ["frontend", "backend", "db", "cache"];
const ENVIRONMENTS: [&str; 3] = ["prod", "staging", "dev"];
const REPLICAS: usize = 10;
const APPS: usize = 300;
const TEAMS: usize = 40;

impl Size {
    pub fn traits(&self, pod: usize) -> Traits {
        let workload = pod / REPLICAS;
        let kind = match workload % 20 {
            0 => Kind::StatefulSet,
            1 => Kind::Job,
            _ => Kind::Deployment,
        };
        Traits { namespace: workload % self.namespaces, workload, ordinal: pod % REPLICAS, kind }
    }

    /// Local pods are spread over the namespaces.
    pub fn local_pod(&self, number: usize) -> usize {
        number * (self.pods / self.local_pods - 2)
    }

    pub fn pod_key(&self, pod: usize) -> PodKey {
        let Traits { namespace, workload, ordinal, .. } = self.traits(pod);
        PodKey::new(&namespace_name(namespace), &format!("app-{}-{workload:08x}-{ordinal}", workload % APPS))
    }

    pub fn pod(&self, number: usize) -> Pod {
        let Traits { namespace, workload, ordinal, kind } = self.traits(number);
        let key = self.pod_key(number);
        let app = format!("app-{}", workload % APPS);
        let mut labels = Labels::new();
        let mut label = |key: &str, value: String| _ = labels.insert(key.to_owned(), value);
        label("app.kubernetes.io/name", app.clone());
        label("app", app);
        label("tier", TIERS[workload % TIERS.len()].to_owned());
        label("team", format!("team-{}", namespace % TEAMS));
        label("version", format!("v{}", workload % 7));
        match kind {
            Kind::Deployment => label("pod-template-hash", format!("{:010x}", workload * 7919)),
            Kind::StatefulSet => {
                label("controller-revision-hash", format!("{:010x}", workload * 7919));
                label("statefulset.kubernetes.io/pod-name", key.name.to_string());
                label("apps.kubernetes.io/pod-index", ordinal.to_string());
            }
            Kind::Job => {
                label("batch.kubernetes.io/controller-uid", format!("{:032x}", workload * 104_729));
                label("batch.kubernetes.io/job-name", format!("job-{workload}"));
            }
        }
        let port = |name: &str, port| EndpointPort { name: name.to_owned(), protocol: Protocol::TCP, port };
        Pod {
            key,
            uid: format!("{number:08x}-0000-4000-8000-000000000000"),
            node: Some(NodeName::from(&*format!("node-{}", number % 1000))),
            addresses: vec![address(number)],
            labels,
            ports: vec![port("http", 8080), port("metrics", 9090)],
            service_account: Some(format!("account-{}", workload % 3)),
            host_network: false,
            annotations: Labels::new(),
        }
    }

    pub fn local_endpoint(&self, number: usize) -> LocalEndpoint {
        LocalEndpoint {
            container_id: format!("{number:064x}"),
            pod: self.pod_key(number),
            interface: format!("cali{number:011x}"),
            addresses: vec![address(number)],
            mac: [0xee; 6],
        }
    }

    pub fn namespaces(&self) -> impl Iterator<Item = Update> {
        (0..self.namespaces).map(|number| {
            let labels = [
                ("kubernetes.io/metadata.name", namespace_name(number)),
                ("team", format!("team-{}", number % TEAMS)),
                ("environment", ENVIRONMENTS[number % ENVIRONMENTS.len()].to_owned()),
            ];
            let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
            Update::Namespace(namespace_name(number), Some(labels))
        })
    }

    pub fn service_accounts(&self) -> impl Iterator<Item = Update> {
        let accounts = (0..self.namespaces * 3).map(|number| (number / 3, number % 3));
        accounts.map(|(namespace, account)| {
            let labels = [("role".to_owned(), format!("role-{account}"))].into();
            Update::ServiceAccount(namespace_name(namespace), format!("account-{account}"), Some(labels))
        })
    }

    /// One host endpoint a node, and network sets of fifty prefixes.
    pub fn hosts_and_sets(&self) -> impl Iterator<Item = Update> {
        let hosts = (0..self.hosts).map(|number| {
            let host = HostEndpoint {
                name: format!("node-{number}-auto").into(),
                node: NodeName::from(&*format!("node-{number}")),
                interface: Some(HostEndpointInterface::All),
                expected_ips: vec![Ipv4Addr::from(0xac10_0000 + number as u32).into()],
                labels: [("zone".to_owned(), format!("zone-{}", number % 3))].into(),
                profiles: vec!["projectcalico-default-allow".into()],
                ports: Vec::new(),
            };
            Update::HostEndpoint(host.name.clone(), Some(Box::new(host)))
        });
        let sets = (0..self.hosts / 5).map(|number| {
            let net = |n: u32| Ipv4Addr::from(0xc000_0000 + ((number as u32 * 50 + n) << 8)).into();
            let nets = (0..50).filter_map(|n| Cidr::truncated(net(n), 24)).collect();
            let labels = [("tier".to_owned(), TIERS[number % TIERS.len()].to_owned())].into();
            let key = NetworkSetKey::new(None, &format!("partner-{number}"));
            Update::NetworkSet(key, Some(NetworkSet { labels, nets }))
        });
        hosts.chain(sets)
    }

    pub fn tiers(&self) -> impl Iterator<Item = Update> {
        [("security", 100.0), ("platform", 200.0)].into_iter().map(|(name, order)| {
            let tier = Tier { name: name.into(), order: Some(order), default_action_is_pass: true };
            Update::Tier(name.to_owned(), Some(tier))
        })
    }

    /// Nine of ten are namespaced, as their users write them; the others are the platform's.
    pub fn policy(&self, number: usize) -> Update {
        let policy = if number % 10 == 9 { self.global(number) } else { self.namespaced(number) };
        Update::Policy(policy.key.clone(), Some(Box::new(policy)))
    }

    fn namespaced(&self, number: usize) -> Policy {
        let own = number % self.namespaces;
        let namespace = namespace_name(own);
        let scope = format!(
            "projectcalico.org/orchestrator == 'k8s' && projectcalico.org/namespace == '{namespace}'"
        );
        let app = |salt: usize| (own + salt * self.namespaces) % APPS;
        let selector = match number / self.namespaces {
            0 => scope.clone(),
            1 => format!("{scope} && tier in {{'frontend', 'backend', 'db'}}"),
            2 => format!("{scope} && has(app) && !has(batch)"),
            3 => format!("{scope} && tier != 'cache'"),
            n => format!("{scope} && app == 'app-{}'", app(n)),
        };
        let from = match number % 5 {
            0 => format!("{scope} && tier == 'frontend'"),
            1 => format!("{scope} && app == 'app-{}'", app(number)),
            2 => "pcns.kubernetes.io/metadata.name == 'ingress'".to_owned(),
            3 => format!("pcns.team == 'team-{}' && tier != 'db'", own % TEAMS),
            _ => scope.clone(),
        };
        let mut rule = allow(&from, 8080);
        if number.is_multiple_of(7) {
            rule.destination.ports = vec![PortMatch::Named("http".to_owned())];
        }
        let (kind, name) = (PolicyKind::KubernetesNetworkPolicy, format!("policy-{number}"));
        let key = PolicyKey::new(kind, Some(&namespace), &name);
        policy(key, "default", Some(1000.0), &selector, vec![rule, allow(&scope, 9090)])
    }

    fn global(&self, number: usize) -> Policy {
        let n = number / 10;
        let selector = match n % 50 {
            0 => "all()".to_owned(),
            1 => "has(tier) && !has(quarantine)".to_owned(),
            2..10 => format!("pcns.team == 'team-{}'", n % TEAMS),
            10..15 => format!("app starts with 'app-{}'", n % 30),
            _ => format!("app == 'app-{}' && pcns.environment != 'dev'", n % APPS),
        };
        let from = match n % 6 {
            0 => "pcns.environment == 'prod'".to_owned(),
            1 => format!("pcns.team in {{'team-{}', 'team-{}'}}", n % TEAMS, (n + 1) % TEAMS),
            2 => format!("app == 'app-{}'", n % APPS),
            3 => "!has(quarantine) && tier == 'backend'".to_owned(),
            4 => format!("pcsa.role == 'role-{}' && tier == 'cache'", n % 3),
            _ => format!("app contains '-{}'", n % 40),
        };
        let tier = if n.is_multiple_of(2) { "security" } else { "platform" };
        let key = PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, &format!("global-{number}"));
        policy(key, tier, Some(n as f64), &selector, vec![allow(&from, 443)])
    }
}

fn namespace_name(number: usize) -> String {
    format!("namespace-{number}")
}

fn address(number: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).expect("fewer pods than IPv4 addresses")).into()
}

fn allow(from: &str, port: u16) -> Rule {
    let source = EntityRule { selector: Some(selector(from)), ..EntityRule::default() };
    let ports = vec![PortMatch::Range(PortRange::single(port))];
    let destination = EntityRule { ports, ..EntityRule::default() };
    Rule { protocol: Some(Protocol::TCP), source, destination, ..Rule::any(Action::Allow) }
}

fn policy(key: PolicyKey, tier: &str, order: Option<f64>, of: &str, ingress: Vec<Rule>) -> Policy {
    Policy { tier: tier.into(), order, applies_to_ingress: true, ingress, ..Policy::new(key, selector(of)) }
}

fn selector(text: &str) -> Selector {
    text.parse().expect("what is generated here is the language")
}
