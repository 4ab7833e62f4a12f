//! Writes `docs/reference` from what the programs are made of; a test fails when the pages are stale, and
//! `UPDATE=1 cargo test -p ocicat reference` writes them anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use model::{FelixConfiguration, SettingReason, SettingSource};
use serde_json::Value;

use crate::Cli;

const NOTE: &str = "<!-- Written from the code by: UPDATE=1 cargo test -p ocicat reference -->\n";

#[test]
fn the_reference_is_that_of_the_code() {
    let pages = [
        ("resources.md", resources()),
        ("settings.md", settings()),
        ("metrics.md", metrics()),
        ("cli.md", cli()),
    ];
    let directory = root().join("docs/reference");
    let mut stale = Vec::new();
    for (name, text) in pages {
        let path = directory.join(name);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "docs/reference/{stale:?} is stale: run UPDATE=1 cargo test -p ocicat reference"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fields that are an object are listed to this depth.
const DEPTH: usize = 4;

fn resources() -> String {
    let mut out = format!(
        "{NOTE}# Resources\nKinds of `projectcalico.org/v3`. `kubectl explain KIND.spec` tells the same on a cluster.\n"
    );
    for definition in datastore::crd::definitions() {
        let names = &definition["spec"]["names"];
        let version = &definition["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"];
        let short = names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut known = vec![names["plural"].as_str().unwrap_or_default().to_owned()];
        known.extend(short.map(str::to_owned));
        let scope =
            if definition["spec"]["scope"] == "Namespaced" { "of a namespace" } else { "of the cluster" };
        let _ = writeln!(
            out,
            "\n## {}\n{} Object {scope}: `{}`.\n",
            text(&names["kind"]),
            text(&schema["description"]),
            known.join("`, `")
        );
        let mut rows = Vec::new();
        fields("", &schema["properties"]["spec"], 0, &mut rows);
        if rows.is_empty() {
            out.push_str("It has no fields of its own.\n");
            continue;
        }
        out.push_str("| field | type | default | |\n|---|---|---|---|\n");
        out.extend(rows);
    }
    out
}

fn fields(prefix: &str, schema: &Value, depth: usize, rows: &mut Vec<String>) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let mut words = text(&field["description"]);
        if let Some(values) = field["enum"].as_array() {
            let values: Vec<String> = values.iter().map(|value| format!("`{}`", text(value))).collect();
            words = format!("{words} One of {}.", values.join(", ")).trim().to_owned();
        }
        for rule in field["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = text(&rule["message"]);
            if !message.is_empty() {
                words = format!("{words} Rule: {message}.");
            }
        }
        let default = field.get("default").map(|value| format!("`{value}`"));
        let default = default.unwrap_or_else(|| {
            if required.contains(&name.as_str()) { "required".into() } else { String::new() }
        });
        rows.push(format!("| `{path}` | {} | {} | {} |\n", kind(field), cell(&default), cell(&words)));
        if depth < DEPTH {
            let (inner, suffix) =
                if field["type"] == "array" { (&field["items"], "[]") } else { (field, "") };
            fields(&format!("{path}{suffix}"), inner, depth + 1, rows);
        }
    }
}

fn kind(field: &Value) -> String {
    let own = if field["x-kubernetes-int-or-string"] == true {
        "number or text".to_owned()
    } else {
        text(&field["type"])
    };
    match own.as_str() {
        "array" => format!("list of {}", kind(&field["items"])),
        "object" if field.get("additionalProperties").is_some() => {
            format!("map of {}", kind(&field["additionalProperties"]))
        }
        "integer" => {
            let bound = |key: &str| field.get(key).map(Value::to_string);
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("number {least} to {most}"),
                (Some(least), None) => format!("number from {least}"),
                _ => "number".to_owned(),
            }
        }
        "string" => "text".to_owned(),
        "" => "any".to_owned(),
        other => other.to_owned(),
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

/// Fits a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn settings() -> String {
    let definitions = datastore::crd::definitions();
    let felix = definitions.iter().find(|d| d["spec"]["names"]["kind"] == "FelixConfiguration").unwrap();
    let schema =
        &felix["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let (mut used, mut inert): (Vec<String>, BTreeMap<&'static str, Vec<String>>) =
        (Vec::new(), BTreeMap::new());
    let mut known: Vec<&str> = FelixConfiguration::fields().collect();
    known.sort_unstable();
    for field in known {
        match reason_to_ignore(field) {
            Some(why) => inert.entry(why).or_default().push(format!("`{field}`")),
            None => {
                let of = &schema[field];
                let default = of.get("default").map(Value::to_string).unwrap_or_default();
                let (kind, words) = (kind(of), cell(&text(&of["description"])));
                used.push(format!(
                    "| `{field}` | {} | {kind} | {} | {words} |\n",
                    variable(field),
                    cell(&default)
                ));
            }
        }
    }
    let mut out = format!(
        "{NOTE}# Settings of the node agent\nA setting is a field of FelixConfiguration, an environment variable, or a line of \
         `/etc/calico/felix.cfg`; the environment wins, then the file, then `node.<name>`, then `default`. `ocicat node config` \
         shows what is in force on each node, and why something is not. A dash: the variable has another name than the field, as Calico has it (`FELIX_IPINIPMTU`).\n\n## In force\n\
         | field | environment | type | default | |\n|---|---|---|---|---|\n"
    );
    out.extend(used);
    out.push_str("\n## Known, and not acted upon\nThese are taken without complaint where they say what is the case anyway; else the agent says why they do nothing.\n\n| why | settings |\n|---|---|\n");
    for (why, names) in inert {
        let _ = writeln!(out, "| {} | {} |", cell(why), names.join(", "));
    }
    out
}

/// A value that no setting takes; `None`: somebody tried to.
fn reason_to_ignore(field: &str) -> Option<&'static str> {
    let mut configuration = FelixConfiguration::default();
    configuration.set_field(field, NONSENSE, &SettingSource::Default);
    configuration.notes.into_iter().find_map(|note| match note.reason {
        SettingReason::NotActedUpon(why) => Some(why),
        _ => None,
    })
}

/// The variable of the environment, where there is one.
fn variable(field: &str) -> String {
    let name = format!("FELIX_{}", field.to_ascii_uppercase());
    let mut configuration = FelixConfiguration::default();
    configuration.set_parameter(&name, NONSENSE, &SettingSource::Environment);
    let is_unknown = configuration.notes.iter().any(|note| note.reason == SettingReason::Unknown);
    if is_unknown { "-".to_owned() } else { format!("`{name}`") }
}

const NONSENSE: &str = "\u{1}";

/// Files in which figures are registered, and whose they are.
const METRICS: [(&str, &str); 4] = [
    ("felix", "felix/src"),
    ("bird-lite and route-reflector", "crates/bgp-api/src"),
    ("controllers", "controllers/src"),
    ("typha", "typha/src"),
];

fn metrics() -> String {
    let mut out = format!(
        "{NOTE}# Metrics\nIn Prometheus' text format at `/metrics`. Counters end with `_total`, histograms with `_bucket`, `_sum`, `_count`.\n"
    );
    for (who, directory) in METRICS {
        let _ = writeln!(out, "\n## {who}\n| figure | |\n|---|---|");
        let mut found = BTreeMap::new();
        for file in sources(&root().join(directory)) {
            registered(&std::fs::read_to_string(file).unwrap(), &mut found);
        }
        for (name, help) in found {
            let _ = writeln!(out, "| `{name}` | {} |", cell(&help));
        }
    }
    out
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Figures of a source: a name and what it is, in a call that registers one or in a list of those that a loop registers,
/// behind the prefixes that registries were given.
fn registered(source: &str, found: &mut BTreeMap<String, String>) {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let prefix = |text: &str, call: &str| {
        let prefix = text.split(call).nth(1).and_then(|rest| rest.split('"').next());
        prefix.map(|prefix| format!("{prefix}_")).unwrap_or_default()
    };
    let whole = prefix(source, "Registry::with_prefix(\"");
    for function in source.split("fn ") {
        let part = prefix(function, "sub_registry_with_prefix(\"");
        // Every second part is inside of quotes.
        let parts: Vec<&str> = function.split('"').collect();
        let mut last_help = "";
        for at in (1..parts.len()).step_by(2) {
            let (before, name) = (parts[at - 1].trim_end(), parts[at]);
            let after = parts.get(at + 1).copied().unwrap_or_default();
            if before.ends_with("let help =") {
                last_help = name;
            }
            let has_help = after.trim() == ",";
            let help = if has_help { parts.get(at + 2).copied().unwrap_or_default() } else { last_help };
            let behind = if has_help { parts.get(at + 3).copied().unwrap_or_default() } else { after };
            let is_call = CALLS.iter().any(|call| before.ends_with(call));
            let is_listed = before.ends_with('(') && has_help && behind.starts_with(", &self.");
            if is_call && (has_help || after.starts_with(", help")) || is_listed {
                found.insert(format!("{whole}{part}{name}"), help.to_owned());
            }
        }
    }
}

/// What stands before the name of a figure.
const CALLS: [&str; 3] = [".register(", " count(", "level(registry,"];

fn cli() -> String {
    let mut out = format!("{NOTE}# Command line of ocicat\n");
    let mut command = Cli::command().term_width(0);
    command.build();
    write_command(&mut out, &mut command, "ocicat");
    out
}

fn write_command(out: &mut String, command: &mut Command, name: &str) {
    let help = command.clone().bin_name(name).render_long_help().to_string();
    // Defaults that the environment of whoever writes this page gave are none.
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = writeln!(out, "\n## {name}\n```text\n{}\n```", environment_free(&help.join("\n")).trim());
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for sub in names {
        if let Some(found) = command.find_subcommand_mut(&sub) {
            write_command(out, found, &format!("{name} {sub}"));
        }
    }
}

/// `[env: KUBECONFIG=/x]` says what the environment has now.
fn environment_free(help: &str) -> String {
    let mut parts = help.split("[env: ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inside, rest) = part.split_once(']').unwrap_or((part, ""));
        let name = inside.split('=').next().unwrap_or_default();
        let _ = write!(out, "[env: {name}]{rest}");
    }
    out
}
