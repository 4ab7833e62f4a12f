//! Agents that do not answer, and BGP sessions that are down: each cause that the speaker names with what mends it.

use crate::Severity::{Error, Warning};
use crate::{Agent, Facts, Finding, Session};

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    agent(facts, &facts.felix, "felix", "the node agent", "new pods and policies wait", found);
    agent(facts, &facts.speaker, "bird-lite", "the BGP speaker", "routes stay as they are", found);
    let down = facts.sessions.iter().filter(|session| session.state != "Established" && !session.retiring);
    found.extend(down.map(|session| of(session, facts)));
}

fn agent(facts: &Facts, agent: &Agent, container: &str, name: &str, effect: &str, found: &mut Vec<Finding>) {
    let check = format!("agent-{container}");
    if !agent.answers {
        let mend = format!(
            "kubectl -n kube-system logs -c {container} $(kubectl -n kube-system get pods -o name -l \
             k8s-app=calico-node --field-selector spec.nodeName={})",
            facts.node
        );
        let what = format!("{name} ({container}) does not answer: {effect}");
        found.push(Finding::new(Error, &check, what, agent.complaints.join("; "), mend));
        return;
    }
    for complaint in &agent.complaints {
        found.push(Finding::new(Warning, &check, format!("{name} complains"), complaint, ""));
    }
}

/// A part of the cause as the speaker words it; name of the check; what it means; what mends it.
type Known = (&'static str, &'static str, &'static str, fn(&Session, &Facts) -> String);

/// The first whose words are in the cause counts.
const KNOWN: &[Known] = &[
    ("wrong AS", "bgp-as", "the two sides do not agree on AS numbers", |s, _| {
        let got = s.cause.rsplit("got ").next().unwrap_or_default();
        patch(s, &format!("{{\"spec\":{{\"asNumber\":{got}}}}}"))
    }),
    ("expects another AS of us", "bgp-as", "the peer expects another AS number of this node", |_, _| {
        "kubectl get bgpconfigurations default -o jsonpath={.spec.asNumber} # and set this on the peer"
            .to_owned()
    }),
    (
        "MD5 mismatch",
        "bgp-md5",
        "the peer drops our packets, mostly since the password differs, else host down or firewall",
        |s, _| format!("{} # then give the Secret that it names the peer's password", get(s)),
    ),
    (
        "expects a password",
        "bgp-md5",
        "nothing comes back: the host is down, a firewall drops, or the peer expects a password",
        |s, _| {
            format!(
                "ping -c 3 {} # if it answers: give the BGPPeer the peer's password (spec.password)",
                s.peer
            )
        },
    ),
    ("password is missing", "bgp-md5", "the Secret with the password cannot be read", |s, _| {
        format!("{} # and create the Secret that it names in kube-system", get(s))
    }),
    ("TTL", "bgp-ttl", "the distance to the peer is not what TTL security demands", |s, _| {
        patch(s, "{\"spec\":{\"ttlSecurity\":null}}")
    }),
    (
        "hold timer expired",
        "bgp-silent",
        "the peer fell silent: the path or the peer is overloaded, or TTL security drops",
        |s, _| format!("ping -c 3 {}", s.peer),
    ),
    ("refused", "bgp-refused", "no BGP speaker listens there", |s, _| {
        if s.description.starts_with("mesh") {
            format!(
                "kubectl -n kube-system get pods -o wide -l k8s-app=calico-node # is the one of {} running?",
                s.description.trim_start_matches("mesh ")
            )
        } else {
            format!("# on {}: start its BGP speaker, and configure this node as a neighbour", s.peer)
        }
    }),
    ("before OPEN", "bgp-unknown", "the peer does not know this node as a neighbour", |s, f| neighbour(s, f)),
    ("are we configured", "bgp-unknown", "the peer does not know this node as a neighbour", |s, f| {
        neighbour(s, f)
    }),
    ("no longer has us", "bgp-unknown", "the peer has taken this node out of its configuration", |s, f| {
        neighbour(s, f)
    }),
    ("own identifier", "bgp-router-id", "two routers have one identifier", |_, f| {
        format!(
            "kubectl annotate node {} projectcalico.org/IPv4Address- # the address, and so the identifier, is found out again",
            f.node
        )
    }),
    ("address family", "bgp-family", "no address family is configured on both sides", |s, _| {
        format!("# on {}: activate the address family of the pods for this neighbour", s.peer)
    }),
    ("max-prefix", "bgp-max-prefix", "the peer sends more routes than it may", |s, _| {
        format!("ocicat bgp enable {}", s.peer)
    }),
    (
        "source address",
        "bgp-source",
        "the address that the session should come from is not on this node",
        |_, f| {
            format!("kubectl annotate node {} projectcalico.org/IPv4Address- # it is found out again", f.node)
        },
    ),
    ("no route to the peer", "bgp-no-route", "the node has no route to the peer", |s, _| {
        format!("ip route get {}", s.peer)
    }),
    ("unreachable", "bgp-unreachable", "nobody answers at the peer's address", |s, _| {
        format!("ip neighbour show {}", s.peer)
    }),
    ("disabled by the operator", "bgp-disabled", "an operator has switched the session off", |s, _| {
        format!("ocicat bgp enable {}", s.peer)
    }),
    ("role", "bgp-role", "the roles of both sides do not fit", |s, _| patch(s, "{\"spec\":{\"role\":null}}")),
];

fn of(session: &Session, facts: &Facts) -> Finding {
    let Session { peer, description, state, seconds, cause, .. } = session;
    let name = if description.is_empty() { peer.clone() } else { format!("{peer} ({description})") };
    let evidence =
        format!("{state} for {seconds} s; {}", if cause.is_empty() { "no cause is known" } else { cause });
    // A session that has just begun is no news.
    let severity = if *seconds < YOUNG && cause == "not tried yet" { Warning } else { Error };
    match KNOWN.iter().find(|(words, ..)| cause.contains(words)) {
        Some((_, check, what, mend)) => Finding::new(
            severity,
            check,
            format!("the session with {name} is down: {what}"),
            evidence,
            mend(session, facts),
        ),
        None => {
            let mend = format!("ocicat bgp neighbor {peer}");
            Finding::new(severity, "bgp-session", format!("the session with {name} is down"), evidence, mend)
        }
    }
}

const YOUNG: u64 = 30;

/// The BGPPeer behind a session, or the configuration of the mesh.
fn object(session: &Session) -> String {
    match session.description.strip_prefix("BGPPeer ") {
        Some(rest) => format!("bgppeer {}", rest.split(' ').next().unwrap_or_default()),
        None => "bgpconfiguration default".to_owned(),
    }
}

fn patch(session: &Session, patch: &str) -> String {
    format!("kubectl patch {} --type merge -p '{patch}'", object(session))
}

fn get(session: &Session) -> String {
    format!("kubectl get {} -o yaml", object(session))
}

fn neighbour(session: &Session, facts: &Facts) -> String {
    let own = facts.addresses.iter().filter_map(|chosen| chosen.address);
    let own = own.map(|address| address.to_string()).next().unwrap_or_else(|| facts.node.clone());
    format!("# on {}: configure {own} as a neighbour", session.peer)
}
