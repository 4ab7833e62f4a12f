//! Input that nobody should send: a clear refusal or a right rule, never a panic and never a word for a shell.

use model::{Cidr, PortMatch, Protocol, Selector, Update};

use crate::story::{Directions, Matches, Story, allow, deny, global, labels, parse, pass, pod, tcp, update};

const NASTY: [&str; 7] = [
    "\"; iptables -F #",
    "$(reboot)",
    "`reboot`",
    "a\nCOMMIT\n*filter\n-F",
    "' || true",
    "\\\" -j ACCEPT",
    "\u{202e}\u{0}é",
];

#[test]
fn a_selector_of_64_kilobytes_means_what_it_says() {
    let values: Vec<String> = (0..5_000).map(|n| format!("'value-{n:05}'")).collect();
    let selector = format!("app == 'b' || role in {{{}}}", values.join(","));
    assert!(selector.len() > 64 << 10);
    let terms: Vec<String> = (0..5_000).map(|n| format!("k{n} == 'v'")).collect();
    let wide = format!("{} || app == 'c'", terms.join(" || "));
    assert!(wide.len() > 64 << 10);
    let mut story = Story::begin();
    let from =
        [allow().from(&selector).protocol(Protocol::TCP).ports(&["80"]), allow().from(&wide).ports(&["dns"])];

    story.policy(global("long", "app == 'a'").ingress(&from));

    story.allows(&[tcp("x/b", "x/a", 80)]).drops(&[tcp("y/c", "x/a", 80), tcp("x/b", "x/a", 81)]);
    let mut chosen = pod("y/c");
    chosen.labels = labels(&[("role", "value-04999")]);
    story.tell(update(chosen)).allows(&[tcp("y/c", "x/a", 80)]);
}

#[test]
fn a_selector_that_nests_too_deep_is_refused_with_its_place() {
    let deep = format!("{}has(a){}", "(".repeat(30_000), ")".repeat(30_000));

    let error = deep.parse::<Selector>().unwrap_err();

    assert!(error.position > 0 && error.position < 1_000, "{}", error.position);
}

#[test]
fn ten_thousand_rules_in_one_policy_are_in_force_in_their_order() {
    let mut story = Story::begin();
    let port = |n: usize| (10_000 + n).to_string();
    let mut rules: Vec<_> = (0..10_000)
        .map(|n| {
            let rule = if n == 5_000 { deny() } else { allow() };
            rule.protocol(Protocol::TCP).ports(&[&port(n)])
        })
        .collect();
    rules.push(allow().protocol(Protocol::TCP).ports(&[&port(5_000)]));

    story.policy(global("many", "app == 'a'").ingress(&rules));

    story.allows(&[tcp("x/b", "x/a", 10_000), tcp("x/b", "x/a", 19_999)]);
    story.drops(&[tcp("x/b", "x/a", 15_000), tcp("x/b", "x/a", 9_999), tcp("x/b", "x/a", 20_000)]);
}

#[test]
fn a_tier_that_nobody_made_comes_last_and_drops() {
    let mut story = Story::begin();
    story.policy(global("pass", "app == 'a'").ingress(&[pass()]));
    story.policy(global("lost", "app == 'a'").tier("nobody-made-it").ingress(&[]));
    story.drops(&[tcp("x/b", "x/a", 80)]);

    story.policy(global("pass", "app == 'a'").ingress(&[allow()]));
    story.allows(&[tcp("x/b", "x/a", 80)]);
}

/// Tiers have an order and no successor: what looks like a circle is two of one order, and names decide.
#[test]
fn tiers_of_one_order_are_taken_by_name() {
    let mut story = Story::begin();
    for order in [10.0, f64::INFINITY, -0.0, f64::NAN] {
        story.tier("a", order, false).tier("b", order, false);

        story.policy(global("in-b", "app == 'a'").tier("b").ingress(&[deny()]));
        story.policy(global("in-a", "app == 'a'").tier("a").ingress(&[allow()]));

        story.allows(&[tcp("x/b", "x/a", 80)]);
    }
}

#[test]
fn a_range_upside_down_and_what_is_no_prefix_are_refused() {
    for text in ["90:80", "80:", ":80", "65536", "80:70000", "80:90:100", "web;reboot"] {
        assert!(text.parse::<PortMatch>().is_err(), "{text}");
    }
    for text in ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0", "::/129", "$(reboot)/8"] {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
}

#[test]
fn names_and_labels_with_metacharacters_stay_data() {
    let mut story = Story::begin();
    for (n, nasty) in NASTY.iter().enumerate() {
        let mut friend = pod("x/b");
        friend.labels = labels(&[("app", nasty)]);
        story.tell(update(friend));
        let selector = Selector::equals("app", nasty).unwrap();
        let mut rule = allow().source(|source| source.selector = Some(selector));
        rule.annotations = vec![((*nasty).into(), (*nasty).into())];
        let name = format!("{n}-{nasty}");
        story.tier(&name, n as f64, false);
        story.policy(global(&name, "app == 'a'").tier(&name).ingress(&[rule, pass()]));

        // A value with both kinds of quotes is the value of no label.
        let expressible = !(nasty.contains('"') && nasty.contains('\''));
        if expressible {
            story.allows(&[tcp("x/b", "x/a", 80)]);
        }
        for line in story.rules() {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_ @%+=:,./-!\"|".contains(c);
            assert!(line.chars().all(is_plain), "{line:?}");
            assert_eq!(line.matches('"').count() % 2, 0, "{line:?}");
        }
        story.tell(Update::Policy(global(&name, "all()").key, None));
    }
    assert_eq!(parse("app == \"it's\"").to_string(), "app == \"it's\"");
}
