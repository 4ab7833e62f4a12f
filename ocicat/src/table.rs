//! Text in columns.

/// Aligns `rows` under `header`; columns stand two spaces apart and lines have no space at their end.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = header.iter().map(|text| text.chars().count()).collect();
    for row in rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    let header = header.iter().map(|text| (*text).to_owned()).collect();
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// `45s`, `12m07s`, `3h05m`, `2d04h`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A dash where there is nothing.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// What an agent says, on one line and without control characters: it may quote a peer.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["10.0.0.1".to_owned(), String::new()], vec!["a".to_owned(), "b".to_owned()]];

        assert_eq!(table(&["PEER", "X"], &rows), "PEER      X\n10.0.0.1\na         b\n");
    }

    #[test]
    fn durations_are_short() {
        let texts = [0, 59, 60, 3_599, 3_600, 86_399, 100_000].map(duration);

        assert_eq!(texts, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d03h"]);
    }
}
