//! The truth table of who reaches whom. Drawing is pure; the probes are `probe`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::probe::{ProbeResult, Proto, Verdict};
use crate::status::columns;

/// All ordered pairs of pods with what came of them, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// The port that was tried.
    pub port: u16,
    /// The protocol that was tried.
    pub proto: Proto,
    /// One result for every ordered pair of different pods.
    pub rows: Vec<ProbeResult>,
}

impl Matrix {
    /// The table: a row for each source, a column for each destination of `names`.
    pub fn render(&self, names: &[String]) -> String {
        let cells: BTreeMap<(&str, &str), Verdict> =
            self.rows.iter().map(|r| ((r.from.as_str(), r.to.as_str()), r.verdict)).collect();
        let mut header = vec![String::new()];
        header.extend(names.iter().cloned());
        let mut table = vec![header];
        for from in names {
            let mut row = vec![from.clone()];
            for to in names {
                let cell = if from == to {
                    "#"
                } else {
                    cells.get(&(from.as_str(), to.as_str())).map_or("?", |v| symbol(*v))
                };
                row.push(cell.to_owned());
            }
            table.push(row);
        }
        let count = |verdict| self.rows.iter().filter(|r| r.verdict == verdict).count();
        let mut out = columns(&table);
        out.push_str(&format!(
            "\n{} {:?}: {} allowed (.), {} denied (X), {} refused (r), {} errors (e); from row to column, # is the pod itself\n",
            self.port,
            self.proto,
            count(Verdict::Allowed),
            count(Verdict::Denied),
            count(Verdict::Refused),
            count(Verdict::Error),
        ));
        out
    }
}

fn symbol(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => ".",
        Verdict::Denied => "X",
        Verdict::Refused => "r",
        Verdict::Error => "e",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(from: &str, to: &str, verdict: Verdict) -> ProbeResult {
        ProbeResult {
            from: from.into(),
            to: to.into(),
            address: None,
            port: 80,
            proto: Proto::Tcp,
            verdict,
            answered_by: None,
            milliseconds: 1.0,
            detail: None,
        }
    }

    #[test]
    fn rows_are_sources_and_columns_destinations() {
        let rows = vec![result("x/a", "x/b", Verdict::Allowed), result("x/b", "x/a", Verdict::Denied)];
        let matrix = Matrix { port: 80, proto: Proto::Tcp, rows };
        let text = matrix.render(&["x/a".into(), "x/b".into()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["     x/a  x/b", "x/a  #    .", "x/b  X    #"]);
        assert!(lines[4].contains("1 allowed (.), 1 denied (X)"), "{text}");
    }
}
