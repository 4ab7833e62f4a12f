use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str) -> Selector {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_calico_accepts_is_accepted() {
    let accepted = [
        "",
        " ",
        "all()",
        "all( )",
        "a == 'b'",
        "a==\"b\"",
        "a  ==  \"b\"",
        "a != 'b'",
        "a in {'x'}",
        "a in {\"x\",\"y\",}",
        "a in {}",
        "a not in {'x'}",
        "a notin {'x'}",
        "has(a)",
        "has( a/b.c_d-e )",
        "!has(a)",
        "!!has(a)",
        "! has(a)",
        "a contains 'x'",
        "a starts with 'x'",
        "a startswith 'x'",
        "a starts \t  with 'x'",
        "a ends with \"x\"",
        "(a == 'b')",
        "a == 'b' && c == 'd' || e == 'f'",
        "contains contains \"x\"",
        "in in {'a'}",
        "not not in {'a'}",
        "has == 'a'",
        "global()",
        "a == \"it's\"",
    ];
    for text in accepted {
        let selector = parse(text);
        assert_eq!(parse(selector.as_str()), selector, "the canonical form of {text:?} is something else");
    }
}

#[test]
fn what_calico_rejects_is_rejected_with_place_and_reason() {
    let long = format!("{} == 'x'", "a".repeat(513));
    let rejected = [
        "a",
        "a == b",
        "b == b",
        "'a' == 'b'",
        "a = \"b\"",
        "a == \"b\" &",
        "a == \"b\" & c == \"d\"",
        "a == 'b' |",
        "a == 'b' ||",
        "(a == 'b'",
        "a == 'b')",
        "()",
        "has()",
        "has(a",
        "has (a)",
        "all (",
        "all",
        "%",
        "a == \"b",
        "a in \"x\"",
        "a in {\"x\"",
        "a in {\"x\" \"y\"}",
        "a in {,}",
        "a not 'x'",
        "!",
        "a == 'b'\n",
        "ä == 'b'",
        &long,
    ];
    for text in rejected {
        let error = text.parse::<Selector>().err().unwrap_or_else(|| panic!("{text:?} was accepted"));
        assert!(error.position <= text.len() && !error.reason.is_empty());
    }
    let error = "a == 'b' && c".parse::<Selector>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "selector \"a == 'b' && c\" at position 13: expected ==, !=, in, not in, contains, starts with or ends \
         with, found the end"
    );
    assert!(format!("{} == 'x'", "a".repeat(512)).parse::<Selector>().is_ok());
}

#[test]
fn no_nesting_overflows_the_stack() {
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));

    assert!(nested(100).parse::<Selector>().is_ok());
    assert!(nested(1_000_000).parse::<Selector>().unwrap_err().reason.contains("deeper"));
    let many = "!".repeat(999_999) + "has(a)";
    assert_eq!(parse(&many).as_str(), "!has(a)");
    let wide = vec!["has(a)"; 100_000].join(" && ");
    assert!(parse(&wide).matches(&labels(&[("a", "")])));
}

#[test]
fn absent_labels_satisfy_only_negations() {
    let present = labels(&[("a", "production-eu")]);
    let absent = labels(&[]);
    let table = [
        ("a == 'production-eu'", true, false),
        ("a != 'production-eu'", false, true),
        ("a != 'x'", true, true),
        ("a in {'x', 'production-eu'}", true, false),
        ("a in {}", false, false),
        ("a not in {'production-eu'}", false, true),
        ("a not in {}", true, true),
        ("has(a)", true, false),
        ("!has(a)", false, true),
        ("!!!has(a)", false, true),
        ("a starts with 'prod' && a ends with 'eu' && a contains \"tion\"", true, false),
        ("a contains ''", true, false),
        ("all()", true, true),
        ("global()", true, true),
        ("has(a) || !has(b)", true, true),
        ("a != 'x' || !has(c)", true, true),
    ];
    for (text, when_present, when_absent) in table {
        let selector = parse(text);
        assert_eq!(selector.matches(&present), when_present, "{text} on {present:?}");
        assert_eq!(selector.matches(&absent), when_absent, "{text} on {absent:?}");
    }
}

#[test]
fn canonical_text_is_calicos() {
    let table = [
        ("", "all()"),
        (" \t", "all()"),
        ("a == 'b' && c == 'd' || e == 'f'", "((a == \"b\" && c == \"d\") || e == \"f\")"),
        ("x in {\"b\",'a',\"b\",}", "x in {\"a\", \"b\"}"),
        ("x notin{'b'}", "x not in {\"b\"}"),
        ("x == 'say \"hi\"'", "x == 'say \"hi\"'"),
        ("!!(has( a ))", "has(a)"),
        ("((a == 'b') && (b startswith 'c' || all( )))", "(a == \"b\" && (b starts with \"c\" || all()))"),
    ];
    for (text, canonical) in table {
        assert_eq!(parse(text).as_str(), canonical);
    }
}

#[test]
fn set_ids_are_calicos() {
    let table = [
        ("", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        ("all()", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        ("!(has(b) || !has(a))", "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q"),
        ("!(a == \"b\" && !c != \"d\")", "s:lh3haoY1ikTRkd4UZu0nWSaIBknYLPJLX16d-w"),
    ];
    for (text, id) in table {
        assert_eq!(parse(text).set_id(), id, "{text}");
    }
}

#[test]
fn conjunctions_are_flat_and_drop_all() {
    let namespace = Selector::equals("projectcalico.org/namespace", "x").unwrap();
    let both = parse("a == 'b' && has(c)");

    assert_eq!(Selector::and([]), Selector::all());
    assert_eq!(Selector::and([Selector::all(), namespace.clone()]), namespace);
    assert_eq!(
        Selector::and([both, namespace]).as_str(),
        "(a == \"b\" && has(c) && projectcalico.org/namespace == \"x\")"
    );
}

#[test]
fn prefixed_asks_for_the_labels_of_the_namespace() {
    let in_namespace = Selector::has("projectcalico.org/namespace").unwrap();

    assert_eq!(parse("").prefixed("pcns.", &in_namespace), in_namespace);
    assert_eq!(
        parse("a == 'b' || !(has(c) && d in {'e'})").prefixed("pcns.", &in_namespace).as_str(),
        "(pcns.a == \"b\" || !(has(pcns.c) && pcns.d in {\"e\"}))"
    );
}

#[test]
fn builders_cannot_be_tricked_out_of_their_quotes() {
    let tricky = "x\" || all() || a == '";

    assert!(!Selector::equals("a", tricky).unwrap().matches(&labels(&[("a", "y")])));
    assert_eq!(Selector::is_in("a", ["x", tricky]).unwrap().as_str(), "a in {\"x\"}");
    for key in ["", "a b", "a) || all(", "ä"] {
        assert!(Selector::has(key).is_err(), "{key:?} was accepted");
    }
}

#[test]
fn restrictions_are_what_must_hold() {
    let one_of =
        |values: &[&str]| Some(Restriction::OneOf(values.iter().map(|value| (*value).into()).collect()));
    let table = [
        ("a == 'x'", one_of(&["x"])),
        ("!(a != 'x')", one_of(&["x"])),
        ("has(a) && a in {'x', 'y'}", one_of(&["x", "y"])),
        ("a in {'x', 'y'} && a in {'y', 'z'}", one_of(&["y"])),
        ("a == 'x' || a == 'y' && has(b)", one_of(&["x", "y"])),
        ("has(a) || a == 'x'", Some(Restriction::Present)),
        ("a starts with 'x'", Some(Restriction::Present)),
        ("!has(a) && has(b)", Some(Restriction::Absent)),
        ("!(has(a) || has(b))", Some(Restriction::Absent)),
        ("!has(a) && has(a)", one_of(&[])),
        ("has(a) || has(b)", None),
        ("a not in {'x'}", None),
        ("!has(a) || a == 'x'", None),
        ("all()", None),
    ];
    for (text, expected) in table {
        assert_eq!(parse(text).restrictions().get("a").cloned(), expected, "{text}");
    }
}

#[test]
fn keys_are_listed_once() {
    let keys = parse("a == 'x' || has(b) && !(a != 'y')").keys();

    assert_eq!(keys, ["a".into(), "b".into()] as [Arc<str>; 2]);
}
