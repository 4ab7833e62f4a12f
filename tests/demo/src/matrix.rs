//! Who reaches whom, as `lab matrix -o json` tells it.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Matrix {
    pub rows: Vec<Probe>,
}

#[derive(Deserialize)]
pub struct Probe {
    pub from: String,
    pub to: String,
    pub verdict: String,
    #[serde(rename = "answeredBy", default)]
    pub answered_by: Option<String>,
}

impl Matrix {
    /// Ordered pairs whose verdict is not what `expected` says, as text.
    pub fn surprises(&self, expected: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let surprise = |probe: &&Probe| {
            let wanted = if expected(&probe.from, &probe.to) { "allowed" } else { "denied" };
            probe.verdict != wanted
                || (wanted == "allowed" && probe.answered_by.as_ref().is_some_and(|by| *by != probe.to))
        };
        self.rows
            .iter()
            .filter(|probe| probe.from != probe.to)
            .filter(surprise)
            .map(|probe| format!("{} → {}: {}", probe.from, probe.to, probe.verdict))
            .collect()
    }

    /// How many pairs were asked, a pod's way to itself left out.
    pub fn pairs(&self) -> usize {
        self.rows.iter().filter(|probe| probe.from != probe.to).count()
    }

    /// How many of them were allowed.
    pub fn allowed(&self) -> usize {
        self.rows.iter().filter(|probe| probe.from != probe.to && probe.verdict == "allowed").count()
    }

    /// Rows are sources, columns destinations: `·` allowed, `X` denied, `!` anything else.
    pub fn draw(&self) -> String {
        let mut names: Vec<&str> = self.rows.iter().flat_map(|probe| [&*probe.from, &*probe.to]).collect();
        names.sort_unstable();
        names.dedup();
        let cells: BTreeMap<(&str, &str), char> =
            self.rows.iter().map(|probe| ((&*probe.from, &*probe.to), mark(&probe.verdict))).collect();
        let short = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let width = names.iter().map(|name| short(name).len()).max().unwrap_or(0).max("from \\ to".len());
        let heads: Vec<String> = names.iter().map(|name| short(name)).collect();
        let mut text = format!("{:width$}  {}\n", "from \\ to", heads.join("  "));
        for from in &names {
            text.push_str(&format!("{:width$}", short(from)));
            for to in &names {
                let cell = if from == to { ' ' } else { cells.get(&(*from, *to)).copied().unwrap_or('?') };
                text.push_str(&format!("  {cell:^width$}", width = short(to).len()));
            }
            text.push('\n');
        }
        text
    }
}

fn mark(verdict: &str) -> char {
    match verdict {
        "allowed" => '·',
        "denied" => 'X',
        _ => '!',
    }
}
