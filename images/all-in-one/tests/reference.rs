//! `docs/reference/programs.md`, written from the options of all programs and the variables that they read; and no
//! manifest sets a variable that nobody reads. `UPDATE=1 cargo test -p all-in-one` writes the page anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Command;
use felix::variables::{self, Variable};
use serde_json::json;

#[test]
fn the_page_is_that_of_the_code() {
    let path = root().join("docs/reference/programs.md");
    let text = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }

    let found = std::fs::read_to_string(&path).unwrap_or_default();

    assert!(found == text, "docs/reference/programs.md is stale: run UPDATE=1 cargo test -p all-in-one");
}

#[test]
fn every_variable_of_the_manifests_is_read() {
    let mut texts = vec![std::fs::read_to_string(root().join("manifests/ocicat.yaml")).unwrap()];
    for file in std::fs::read_dir(root().join("manifests/rendered")).unwrap() {
        texts.push(std::fs::read_to_string(file.unwrap().path()).unwrap());
    }
    let mut looked_at = BTreeSet::new();
    let mut unread = BTreeSet::new();
    for object in texts.iter().flat_map(|text| manifests::documents::parse(text).unwrap()) {
        for container in ["initContainers", "containers"].iter().flat_map(|list| {
            let list = object.pointer("/spec/template/spec").and_then(|pod| pod[*list].as_array());
            list.cloned().unwrap_or_default()
        }) {
            let program = container["command"][0].as_str().unwrap_or_default().to_owned();
            let known = known(&program);
            for variable in container["env"].as_array().into_iter().flatten() {
                let name = variable["name"].as_str().unwrap().to_owned();
                let is_setting = program == "felix" && is_setting(&name);
                if !is_setting && !known.contains(&name) {
                    unread.insert(format!("{program}: {name}"));
                }
            }
            looked_at.insert(program);
        }
    }

    assert_eq!(unread, BTreeSet::new());
    let all = ["/opt/cni/bin/calico", "bird-lite", "controllers", "felix", "route-reflector", "typha"];
    assert_eq!(looked_at.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

#[test]
fn a_move_from_calico_takes_every_variable_along() {
    let of_felix = [variables::START, variables::POOLS].concat();
    let of_calico = of_felix.iter().map(|variable| variable.name).filter(|name| !OURS.contains(name));
    let env: Vec<_> = of_calico.map(|name| json!({"name": name, "value": "x"})).collect();
    let containers = json!([{"name": "calico-node", "env": env}]);
    let daemon_set = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let installation = migrate::Installation { daemon_set: Some(daemon_set), ..Default::default() };

    let told = migrate::installation_notes(&installation);

    assert_eq!(told.len(), env.len());
    let ignored = told.into_iter().filter(|(_, note)| note.effect == migrate::Effect::Ignored);
    assert_eq!(ignored.map(|(_, note)| note.field).collect::<Vec<_>>(), ["KUBECONFIG"]);
}

/// Variables that Calico does not have, or that say who a container is.
const OURS: [&str; 3] = ["OCICAT_LEAK_GRACE", "HOSTNAME", "FELIX_FELIXHOSTNAME"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a program reads by the reference.
fn known(program: &str) -> BTreeSet<String> {
    if program.ends_with("/calico") {
        let words = cni::install::USAGE.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        return words.map(str::to_owned).collect();
    }
    let (_, command, lists) = programs().into_iter().find(|(name, ..)| *name == program).expect(program);
    let options = command.get_arguments().filter_map(|option| option.get_env());
    let options = options.map(|name| name.to_string_lossy().into_owned());
    let listed = lists.into_iter().flat_map(|(_, list)| list).map(|variable| variable.name.to_owned());
    options.chain(listed).collect()
}

/// Is this a variable of felix that stands in `settings.md`?
fn is_setting(name: &str) -> bool {
    let mut configuration = model::FelixConfiguration::default();
    configuration.set_parameter(name, "\u{1}", &model::SettingSource::Environment);
    name.starts_with("FELIX_")
        && !configuration.notes.iter().any(|note| note.reason == model::SettingReason::Unknown)
}

type Lists = Vec<(&'static str, &'static [Variable])>;

/// All programs of the image but `ocicat`, which has its own page, and what each reads beside its options.
fn programs() -> Vec<(&'static str, Command, Lists)> {
    let typha = ("Which typha is asked", variables::TYPHA);
    vec![
        (
            "felix",
            felix::command(),
            vec![
                ("The start of a node", variables::START),
                ("The pools of the first start, where a family has none", variables::POOLS),
                typha,
            ],
        ),
        ("bird-lite", bird_lite::command(), vec![typha]),
        ("controllers", controllers::command(), Vec::new()),
        ("typha", typha::command(), Vec::new()),
        ("route-reflector", route_reflector::command(), Vec::new()),
    ]
}

fn page() -> String {
    let mut out = "<!-- Written from the code by: UPDATE=1 cargo test -p all-in-one -->\n# Options and environment of the \
         programs\nAn option wins over its variable. `ocicat` has [its own page](cli.md); the settings of felix, which are \
         fields of FelixConfiguration and variables `FELIX_…`, have [theirs](settings.md).\n"
        .to_owned();
    for (name, command, lists) in programs() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ =
            writeln!(out, "\n## {name}\n{about}\n\n| option | environment | default | |\n|---|---|---|---|");
        command.get_arguments().for_each(|option| out.push_str(&row(option)));
        for (what, list) in lists {
            let _ = writeln!(out, "\n{what}:\n\n| environment | default | |\n|---|---|---|");
            for Variable { name, default, meaning } in list {
                let _ = writeln!(out, "| `{name}` | {} | {} |", cell(default), cell(meaning));
            }
        }
    }
    let _ = writeln!(out, "\n## calico install\n```text\n{}\n```", cni::install::USAGE.trim());
    out
}

fn row(option: &clap::Arg) -> String {
    let name = option.get_long().unwrap_or_default();
    let variable = option.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    let defaults: Vec<_> = option.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match defaults.join(",") {
        none if none.is_empty() && option.is_required_set() => "required".to_owned(),
        none if none.is_empty() || !option.get_action().takes_values() => String::new(),
        some => format!("`{some}`"),
    };
    let help = option.get_help().map(ToString::to_string).unwrap_or_default();
    format!("| `--{name}` | {variable} | {default} | {} |\n", cell(&help))
}

/// Fits a cell of a table.
fn cell(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    joined.replace('|', "\\|")
}
