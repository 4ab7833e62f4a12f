//! The JSON of `lab probe` and `lab matrix` (docs/lab.md).

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub struct Probe {
    pub from: String,
    pub to: String,
    pub verdict: String,
    #[serde(rename = "answeredBy", default)]
    pub answered_by: Option<String>,
    #[serde(default)]
    pub detail: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Matrix {
    pub rows: Vec<Probe>,
}

impl Matrix {
    /// One line a source, one character a destination, both in `order`: `.` allowed, `X` denied, `#` for a
    /// pod itself, `!` for anything else.
    pub fn table(&self, order: &[String]) -> Vec<String> {
        let cells: BTreeMap<(&str, &str), &str> =
            self.rows.iter().map(|probe| ((&*probe.from, &*probe.to), &*probe.verdict)).collect();
        let cell = |from: &str, to: &str| match cells.get(&(from, to)) {
            _ if from == to => '#',
            Some(&"allowed") => '.',
            Some(&"denied") => 'X',
            _ => '!',
        };
        order.iter().map(|from| order.iter().map(|to| cell(from, to)).collect()).collect()
    }
}
