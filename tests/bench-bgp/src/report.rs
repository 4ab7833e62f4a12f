//! Medians and ratios, as a table to read and as JSON to compare.

use serde::Serialize;

use crate::shape::{Cost, Outcome, Shape};
use crate::subject::Subject;

/// What one subject did in one phase, over all runs.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    shape: &'static str,
    phase: &'static str,
    subject: &'static str,
    /// Medians, each for itself; absent when a run failed.
    median: Option<Cost>,
    /// Against the peer that was fastest, and the peers' least CPU time and memory.
    ratio: Option<Cost>,
    runs: Vec<Cost>,
    failure: Option<String>,
    #[serde(skip)]
    is_peer: bool,
}

/// All results.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    entries: Vec<Entry>,
}

impl Report {
    /// Takes in the runs of one subject in one shape.
    pub(crate) fn add(&mut self, shape: Shape, subject: Subject, runs: &[Result<Vec<Outcome>, String>]) {
        for (i, phase) in shape.phases().iter().enumerate() {
            let (mut costs, mut failure) = (Vec::new(), None);
            for run in runs {
                match run.as_ref().map(|outcomes| outcomes.get(i)) {
                    Ok(Some(Ok(cost))) => costs.push(*cost),
                    Ok(Some(Err(reason))) => failure = Some(reason.clone()),
                    Err(reason) => failure = Some(reason.clone()),
                    Ok(None) => failure = Some("an earlier phase did not end".to_owned()),
                }
            }
            let median = failure.is_none().then(|| median(&costs)).flatten();
            self.entries.push(Entry {
                shape: shape.name(),
                phase,
                subject: subject.name(),
                median,
                ratio: None,
                runs: costs,
                failure,
                is_peer: subject.is_peer(),
            });
        }
    }

    /// Compares with the best peer of each phase.
    pub(crate) fn compare(&mut self) {
        for i in 0..self.entries.len() {
            let (shape, phase) = (self.entries[i].shape, self.entries[i].phase);
            let peers = self.entries.iter().filter(|e| e.is_peer && e.shape == shape && e.phase == phase);
            let costs: Vec<Cost> = peers.filter_map(|e| e.median).collect();
            let least = |of: fn(&Cost) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
            let best = Cost { wall: least(|c| c.wall), cpu: least(|c| c.cpu), peak: least(|c| c.peak) };
            let ratio = |cost: Cost| Cost {
                wall: cost.wall / best.wall,
                cpu: cost.cpu / best.cpu.max(1e-6),
                peak: cost.peak / best.peak,
            };
            self.entries[i].ratio = self.entries[i].median.filter(|_| !costs.is_empty()).map(ratio);
        }
    }

    /// A table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| shape | phase | subject | seconds | CPU s | peak MB | time, CPU, memory against the best peer |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for entry in &self.entries {
            let head = format!("| {} | {} | {} |", entry.shape, entry.phase, entry.subject);
            let cells = match (&entry.median, &entry.failure) {
                (Some(cost), _) => {
                    let ratio = entry.ratio.map_or("–".to_owned(), |r| {
                        format!("{:.2} ×, {:.2} ×, {:.2} ×", r.wall, r.cpu, r.peak)
                    });
                    format!(" {:.4} | {:.4} | {:.1} | {ratio} |", cost.wall, cost.cpu, cost.peak)
                }
                (None, failure) => {
                    let reason = failure.as_deref().unwrap_or("not run").replace('\n', " ");
                    format!(" – | – | – | {} |", reason.chars().take(120).collect::<String>())
                }
            };
            text.push_str(&head);
            text.push_str(&cells);
            text.push('\n');
        }
        text
    }
}

/// The median of each column; of an even number the lower middle.
fn median(costs: &[Cost]) -> Option<Cost> {
    let middle = |of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len().checked_sub(1)? / 2).copied()
    };
    Some(Cost { wall: middle(|c| c.wall)?, cpu: middle(|c| c.cpu)?, peak: middle(|c| c.peak)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(wall: f64) -> Cost {
        Cost { wall, cpu: wall / 2.0, peak: 10.0 }
    }

    #[test]
    fn medians_stand_beside_the_best_peer() {
        let mut report = Report::default();
        let runs = |walls: &[f64]| walls.iter().map(|w| Ok(vec![Ok(cost(*w))])).collect::<Vec<_>>();

        report.add(Shape::Idle, Subject::Ocicat, &runs(&[3.0, 1.0, 2.0]));
        report.add(Shape::Idle, Subject::Bird2, &runs(&[4.0]));
        report.add(Shape::Idle, Subject::Frr, &runs(&[8.0]));
        report.compare();

        assert!(report.table().contains("| ocicat | 2.0000 | 1.0000 | 10.0 | 0.50 ×, 0.50 ×, 1.00 × |"));
    }

    #[test]
    fn a_failure_is_named() {
        let mut report = Report::default();

        report.add(Shape::Full, Subject::Gobgp3, &[Ok(vec![Err("more than 60 s".to_owned())])]);
        report.compare();

        let table = report.table();
        assert!(table.contains("| announce | gobgp3 | – | – | – | more than 60 s |"), "{table}");
        assert!(
            table.contains("| withdraw | gobgp3 | – | – | – | an earlier phase did not end |"),
            "{table}"
        );
    }
}
