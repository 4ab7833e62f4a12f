//! Medians and ratios, as a table.

use std::time::Duration;

use crate::cost::Cost;

/// One line: what was measured, and beside what.
struct Row {
    what: String,
    subject: &'static str,
    value: String,
    /// The peer, and how many times its wall time and its CPU time these are.
    ratio: Option<([f64; 2], &'static str)>,
    target: &'static str,
}

/// All results, in the order in which they came.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a line; it is printed to stderr at once, since the rest may take minutes.
    pub fn add(
        &mut self,
        what: impl Into<String>,
        subject: &'static str,
        value: String,
        ratio: Option<([f64; 2], &'static str)>,
        target: &'static str,
    ) {
        let row = Row { what: what.into(), subject, value, ratio, target };
        eprintln!("{}", line(&row));
        self.rows.push(row);
    }

    /// A table in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| what | subject | median | ratio | target |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }
}

fn line(row: &Row) -> String {
    let ratio =
        row.ratio.map_or(String::new(), |([wall, cpu], peer)| format!("{wall:.2} ×, CPU {cpu:.2} × {peer}"));
    format!("| {} | {} | {} | {ratio} | {} |", row.what, row.subject, row.value, row.target)
}

/// Medians of wall time and of CPU time, each for itself.
pub fn median(costs: &[Cost]) -> Cost {
    Cost { wall: middle(costs, |cost| cost.wall), cpu: middle(costs, |cost| cost.cpu) }
}

/// The middle one; of an even number the lower middle.
fn middle(costs: &[Cost], of: fn(&Cost) -> Duration) -> Duration {
    let mut durations: Vec<Duration> = costs.iter().map(of).collect();
    durations.sort();
    durations.get(durations.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Both times.
pub fn show(cost: Cost) -> String {
    format!("{}, {} CPU", one(cost.wall), one(cost.cpu))
}

/// With a unit that suits it.
fn one(duration: Duration) -> String {
    match duration.as_nanos() {
        0..10_000 => format!("{} ns", duration.as_nanos()),
        10_000..10_000_000 => format!("{:.1} µs", duration.as_secs_f64() * 1e6),
        _ => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
    }
}

/// How many times `peer`: in wall time, in CPU time.
pub fn ratio(own: Cost, peer: Cost) -> [f64; 2] {
    let of = |own: Duration, peer: Duration| own.as_secs_f64() / peer.as_secs_f64().max(1e-12);
    [of(own.wall, peer.wall), of(own.cpu, peer.cpu)]
}
