//! Medians and ratios, as a table.

use std::time::Duration;

/// One line: what was measured, and beside what.
struct Row {
    what: String,
    subject: &'static str,
    value: String,
    /// The peer and how many times its figure this one is.
    ratio: Option<(f64, &'static str)>,
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
        ratio: Option<(f64, &'static str)>,
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
    let ratio = row.ratio.map_or(String::new(), |(ratio, peer)| format!("{ratio:.2} × {peer}"));
    format!("| {} | {} | {} | {ratio} | {} |", row.what, row.subject, row.value, row.target)
}

/// The middle one; of an even number the lower middle.
pub fn median(durations: &mut [Duration]) -> Duration {
    durations.sort();
    durations.get(durations.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// With a unit that suits it.
pub fn show(duration: Duration) -> String {
    match duration.as_nanos() {
        0..10_000 => format!("{} ns", duration.as_nanos()),
        10_000..10_000_000 => format!("{:.1} µs", duration.as_secs_f64() * 1e6),
        _ => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
    }
}

/// How many times `peer`.
pub fn ratio(own: Duration, peer: Duration) -> f64 {
    own.as_secs_f64() / peer.as_secs_f64().max(1e-12)
}
