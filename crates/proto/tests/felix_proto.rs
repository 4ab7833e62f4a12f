//! docs/felix.proto, from which others make their clients, and the types that felix and ocicat use say the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::BTreeMap;

const PROTO: &str = include_str!("../../../docs/felix.proto");
const RUST: &str = include_str!("../src/felix.rs");

/// Number, name and type of each field of each message.
type Messages = BTreeMap<String, BTreeMap<u32, (String, String)>>;

/// Messages whose names differ: gRPC has requests beside answers, and nests what belongs to one message alone.
const NAMES: [(&str, &str); 11] = [
    ("request::Drops", "DropsRequest"),
    ("request::Explain", "ExplainRequest"),
    ("request::Audit", "Empty"),
    ("request::PolicyStatus", "Empty"),
    ("request::Configuration", "Empty"),
    ("request::Suspects", "Empty"),
    ("Audit", "AuditReport"),
    ("PolicyStatus", "PolicyStatusReport"),
    ("Configuration", "ConfigurationReport"),
    ("Suspects", "SuspectsReport"),
    ("ProgrammedPolicy", "Policy"),
];
/// The framed language's own: gRPC has calls in their place.
const FRAMED: [&str; 2] = ["Request", "Response"];

fn proto_name(rust: &str) -> String {
    NAMES.iter().find(|(name, _)| *name == rust).map_or(rust, |(_, proto)| proto).to_owned()
}

fn of_proto() -> Messages {
    let text: String =
        PROTO.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let text = text.replace('{', " { ").replace('}', " } ").replace('=', " = ").replace(';', " ; ");
    let mut messages = Messages::new();
    let (mut open, mut words) = (Vec::<String>::new(), Vec::new());
    for token in text.split_whitespace() {
        match token {
            "{" => {
                let name =
                    if words.first() == Some(&"message") { words[1].to_owned() } else { String::new() };
                if !name.is_empty() {
                    messages.insert(name.clone(), BTreeMap::new());
                }
                open.push(name);
                words.clear();
            }
            "}" => _ = open.pop(),
            ";" => {
                if let (Some(message), [kind @ .., name, "=", number]) =
                    (open.last().filter(|name| !name.is_empty()), words.as_slice())
                {
                    let field = ((*name).to_owned(), kind.join(" "));
                    messages.get_mut(message).unwrap().insert(number.parse().unwrap(), field);
                }
                words.clear();
            }
            word => words.push(word),
        }
    }
    messages
}

fn of_rust() -> Messages {
    let mut messages = Messages::new();
    let (mut module, mut message, mut attribute) = ("", String::new(), String::new());
    for line in RUST.lines() {
        if line == "}" {
            module = "";
        }
        let line = line.trim();
        if line == "pub mod request {" {
            module = "request::";
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            let name = name.split(' ').next().unwrap();
            message = proto_name(&format!("{module}{name}"));
            if !FRAMED.contains(&name) {
                messages.entry(message.clone()).or_default();
            }
        } else if let Some(inside) = line.strip_prefix("#[prost(").and_then(|rest| rest.strip_suffix(")]")) {
            inside.clone_into(&mut attribute);
        } else if let Some((name, of)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
            let Some(fields) = messages.get_mut(&message).filter(|_| attribute.contains("tag = ")) else {
                continue;
            };
            let number = attribute.split('"').nth(1).unwrap().parse().unwrap();
            let inner = of.trim_end_matches([',', '>']).rsplit('<').next().unwrap();
            let kind = attribute.split([',', ' ']).next().unwrap();
            let kind = if kind == "message" { proto_name(inner) } else { kind.to_owned() };
            let label = match kind.starts_with(char::is_uppercase) {
                _ if attribute.contains("repeated") => "repeated ",
                false if attribute.contains("optional") => "optional ",
                _ => "",
            };
            fields.insert(number, (name.to_owned(), format!("{label}{kind}")));
            attribute.clear();
        }
    }
    messages
}

#[test]
fn the_published_messages_are_those_that_are_spoken() {
    let (published, spoken) = (of_proto(), of_rust());

    assert!(spoken["Drop"].len() >= 19, "the types were not read: {spoken:?}");
    for (name, fields) in &spoken {
        assert_eq!(published.get(name), Some(fields), "message {name}");
    }
    assert_eq!(published.keys().collect::<Vec<_>>(), spoken.keys().collect::<Vec<_>>());
}

#[test]
fn every_call_is_published_with_its_messages() {
    let calls: Vec<_> = PROTO.lines().filter_map(|line| line.trim().strip_prefix("rpc ")).collect();

    let expected = [
        "Drops(DropsRequest) returns (stream Drops);",
        "Audit(Empty) returns (AuditReport);",
        "Explain(ExplainRequest) returns (Explained);",
        "PolicyStatus(Empty) returns (PolicyStatusReport);",
        "Configuration(Empty) returns (ConfigurationReport);",
        "Suspects(Empty) returns (SuspectsReport);",
    ];
    assert_eq!(calls, expected);
    let service = PROTO.lines().find_map(|line| line.strip_prefix("package ")).unwrap().trim_end_matches(';');
    assert_eq!(format!("/{service}.Operator/"), proto::felix::SERVICE);
}
